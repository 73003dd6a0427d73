"""A simulated charging station: a folder, pseudo-terminals, the firmware in a MicroPython VM."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import threading
import time
import tty
from pathlib import Path

from chargekeep_tools.compiler import compile_firmware
from chargekeep_tools.programs import firmware_root, program

HEAP = "320k"  # objects of the 64-bit VM are about twice as large as on a board with 200 KB


def install(folder: Path) -> None:
    """Put the firmware for the UNIX board into `folder` as .mpy files, as a board has it."""
    root = firmware_root()
    boards = root / "boards"
    names = {path: path.relative_to(root / "firmware") for path in root.glob("firmware/**/*.py")}
    for path in (boards / "port_linux.py", *(boards / "UNIX").glob("*.py")):
        names[path] = Path(path.name)
    sources = {
        str(name): path
        for path, name in names.items()
        if str(name) != "manifest.py" and not name.name.endswith("_thumb.py")
    }
    for name, data in compile_firmware(sources).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


class Line:
    """A pseudo-terminal; the station opens `path`, this side reads and writes `fd`."""

    def __init__(self) -> None:
        self.fd, self.slave = pty.openpty()
        tty.setraw(self.fd)
        tty.setraw(self.slave)
        self.path = os.ttyname(self.slave)
        self._buffer = b""

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    def read_line(self, timeout: float) -> str | None:
        """The next line, or None when none came in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return None
            self._buffer += os.read(self.fd, 1024)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").strip()

    def drain(self) -> None:
        self._buffer = b""
        while select.select([self.fd], [], [], 0)[0]:
            os.read(self.fd, 1024)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.slave)


def carry(one: int, other: int, stop: threading.Event) -> None:
    """The cable between a board and a host: bytes of either end go to the other."""
    while not stop.is_set():
        for fd in select.select([one, other], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # an end is not open, or is just closing
                os.write(other if fd == one else one, os.read(fd, 4096))


class Station:
    """One station in `folder`: `boot()` starts its process, `power_cut()` is a SIGKILL."""

    def __init__(self, folder: Path, meter_path: str) -> None:
        self.folder = folder
        self.reader = Line()
        self.process: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True)
        install(folder / "lib")
        wiring = json.loads((firmware_root() / "boards" / "UNIX" / "config.json").read_text())
        wiring["meter"]["path"] = meter_path
        wiring["reader"]["path"] = self.reader.path
        (folder / "config.json").write_text(json.dumps(wiring, indent=4) + "\n")

    def _command(self, *words: str) -> list[str]:
        return [program("micropython"), "-X", f"heapsize={HEAP}", *words]

    @property
    def _environment(self) -> dict[str, str]:
        return dict(os.environ, MICROPYPATH=f".frozen:{self.folder / 'lib'}")

    @property
    def log(self) -> Path:
        return self.folder / "console.log"

    @property
    def relay(self) -> Path:
        return self.folder / "relay.pin"

    @property
    def permits(self) -> bool:
        """Whether the relay stands at 'permit'."""
        return self.relay.exists() and self.relay.read_text() == "1"

    @contextlib.contextmanager
    def repl(self):
        """The VM's REPL on a pseudo-terminal, as a board's over USB. Yields the port's path."""
        board, host = Line(), Line()
        process = subprocess.Popen(
            self._command(),
            cwd=self.folder,
            env=self._environment,
            stdin=board.slave,
            stdout=board.slave,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stop = threading.Event()
        cable = threading.Thread(target=carry, args=(board.fd, host.fd, stop), daemon=True)
        cable.start()
        try:
            yield host.path
        finally:
            process.kill()
            process.wait()
            stop.set()
            cable.join()
            board.close()
            host.close()

    def boot(self) -> None:
        self.reader.drain()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command("-m", "main"),
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def power_cut(self) -> None:
        """Power is gone between two instructions. The relay falls open, as a relay does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        self.relay.write_text("0")

    def present(self, text: str, timeout: float = 5.0) -> str:
        """Hold a credential to the reader; the station's answer line ('' when none came)."""
        self.reader.drain()
        self.reader.write(text.encode() + b"\r\n")
        return self.reader.read_line(timeout) or ""

    def close(self) -> None:
        self.power_cut()
        self.reader.close()
