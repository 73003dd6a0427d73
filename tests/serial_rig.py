"""A bench of serial ports, no board: behind `port` is a board in a MicroPython VM, behind the
adapters are its UARTs, and `power_command` switches its power."""

import os
import threading
from pathlib import Path

from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.station import Line, carry

_POWER = """#!/bin/sh
echo $1 > {folder}/switch
read done < {folder}/switched
"""


class Rig:
    """Ports as of a bench; `close` ends it."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._folder = folder
        self._stop = threading.Event()
        self._board = SimBoard(folder / "flash")
        self._lines = []
        adapters = [self._adapter(role) for role in ("meter", "reader")]
        self.meter_port, self.reader_port = adapters
        self.port = str(folder / "ttyBoard")
        for name in ("switch", "switched"):
            os.mkfifo(folder / name)
        power = folder / "power"
        power.write_text(_POWER.format(folder=folder))
        power.chmod(0o755)
        self.power_command = str(power)
        self._threads = [
            threading.Thread(target=self._switch, daemon=True),
            threading.Thread(target=self._contactor, daemon=True),
        ]
        self._power_on()
        for thread in self._threads:
            thread.start()

    def _adapter(self, role: str) -> str:
        # What the board opens as its UART, and what the bench opens, with a cable between.
        board, bench = Line(), Line()
        self._lines += [board, bench]
        os.symlink(board.path, self._board.folder / f"{role}.pty")
        cable = threading.Thread(target=carry, args=(board.fd, bench.fd, self._stop), daemon=True)
        cable.start()
        return bench.path

    def _power_on(self) -> None:
        self._board.power_on()
        link = Path(self.port)
        link.unlink(missing_ok=True)
        link.symlink_to(self._board.port)

    def _switch(self) -> None:
        while True:
            to = (self._folder / "switch").read_text().strip()
            if to == "on" and not os.path.exists(self.port):
                self._power_on()
            elif to == "off":
                self._board.power_cut()
                (self._board.folder / "relay.pin").write_text("0")
            (self._folder / "switched").write_text("done\n")

    def _contactor(self) -> None:
        relay, feedback = (self._board.folder / f"{name}.pin" for name in ("relay", "feedback"))
        while not self._stop.wait(0.02):
            feedback.write_text(relay.read_text() if relay.exists() else "0")

    def close(self) -> None:
        self._stop.set()
        self._board.__exit__(None, None, None)
        for line in self._lines:
            line.close()
