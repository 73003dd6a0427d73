"""An empty board on a desktop: a folder for its file system, and its REPL on a pseudo-terminal.

It starts as MicroPython boards do: boot.py, main.py, then the REPL; it starts again when the
program resets it. The firmware has to be brought onto it, as onto a real one.
"""

import contextlib
import os
import subprocess
import termios
import threading
import time
from pathlib import Path
from types import TracebackType

from chargekeep_tools.programs import program
from chargekeep_tools.sim.station import HEAP, Line, carry

# What the C code of a port does after a reset. A crash of boot.py or main.py ends in the REPL.
_RESET = """
import os, sys
sys.path[:] = ['', '.frozen']
def _run(name):
    try:
        with open(name) as f: code = f.read()
    except OSError: return
    try: exec(code, {'__name__': '__main__'})
    except SystemExit: os.system('kill -9 $PPID')  # a reset, where -i would go on to the REPL
    except (Exception, KeyboardInterrupt) as e: sys.print_exception(e)
_run('boot.py')
_run('main.py')
"""


_LOOK_S = 0.2


class SimBoard:
    """A board whose flash is `folder`, powered while in a `with` block. `port` is its REPL.

    `starts` counts how often it started. `power_cut` stops it between two instructions and pulls
    its cable; `power_on` starts it again, on a new `port`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.starts = 0
        self.port = ""
        self._board = Line()
        self._host: Line | None = None
        self._unplugged = threading.Event()
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "SimBoard":
        self.power_on()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.power_cut()
        self._board.close()

    def power_on(self) -> None:
        self._host = Line()
        self.port = self._host.path
        self._unplugged.clear()
        with self._lock:
            self._start()
        cable = (self._board.fd, self._host.fd, self._unplugged)
        self._threads = [
            threading.Thread(target=carry, args=cable, daemon=True),
            threading.Thread(target=self._restart, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def power_cut(self) -> None:
        with self._lock:
            self._unplugged.set()
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            threads, self._threads = self._threads, []
            host, self._host = self._host, None
        for thread in threads:
            thread.join()
        if host is not None:
            host.close()  # whoever has the port open gets an error, as on a pulled cable

    def _start(self) -> None:
        self.starts += 1
        # A REPL that was killed leaves its own mode, in which Ctrl-C interrupts nothing.
        mode = termios.tcgetattr(self._board.slave)
        mode[3] |= termios.ISIG
        termios.tcsetattr(self._board.slave, termios.TCSANOW, mode)
        self._started = time.time()
        self._process = subprocess.Popen(
            # The pseudo-terminal controls the process, so that Ctrl-C interrupts the program.
            ["setsid", "-c", program("micropython"), "-X", f"heapsize={HEAP}", "-i", "-c", _RESET],
            cwd=self.folder,
            env=dict(os.environ, MICROPYPATH=""),
            stdin=self._board.slave,
            stdout=self._board.slave,
            stderr=subprocess.STDOUT,
        )

    def _restart(self) -> None:
        # The program ended, or its watchdog starved: a reset, as long as there is power.
        while True:
            process = self._process
            assert process is not None
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
                    break
                if self._starved():
                    process.kill()
            with self._lock:
                if self._unplugged.is_set():
                    return
                self._start()

    def _starved(self) -> bool:
        # boards/port_linux.py: a file with the milliseconds that it may go untouched
        path = self.folder / "watchdog"
        try:
            fed, text = path.stat().st_mtime, path.read_text()
        except OSError:
            return False
        return fed >= self._started and time.time() - fed > int(text or 8000) / 1000
