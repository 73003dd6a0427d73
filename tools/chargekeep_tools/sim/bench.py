"""A bench to practise on: an empty board (`SimBoard`) wired to a meter, a charger and a reader.

Its ports have names that stay, so that a terminal can be told what to do in advance.
"""

import contextlib
import threading
from pathlib import Path

from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.evse import SimEvse
from chargekeep_tools.sim.meter import SimMeter
from chargekeep_tools.sim.station import Line, carry


class SimBench:
    """Powered while in a `with` block. `port` is the board's REPL; what is written to `reader`
    is a credential held to the station's reader.

    folder: gets `flash` (the board's file system), `board` and `reader`. demand_w: the car's.
    """

    def __init__(self, folder: Path, demand_w: int = 11_000, wh: float = 1_234_567) -> None:
        flash = folder / "flash"
        self.port = folder / "board"
        self.reader = folder / "reader"
        self.board = SimBoard(flash)
        self.meter = SimMeter(wh=wh)
        self.evse = SimEvse(flash / "relay.pin", flash / "feedback.pin", self.meter, demand_w)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "SimBench":
        station, driver = Line(), Line()
        self._stack.callback(station.close)
        self._stack.callback(driver.close)
        unplugged = threading.Event()
        self._stack.callback(unplugged.set)
        cable = (station.fd, driver.fd, unplugged)
        threading.Thread(target=carry, args=cable, daemon=True).start()
        for part in (self.meter, self.evse, self.board):
            self._stack.enter_context(part)
        flash = self.board.folder
        _link(flash / "meter.pty", self.meter.path)
        _link(flash / "reader.pty", station.path)
        _link(self.reader, driver.path)
        _link(self.port, self.board.port)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _link(name: Path, target: str) -> None:
    name.unlink(missing_ok=True)
    name.symlink_to(target)
