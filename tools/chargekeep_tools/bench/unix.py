"""The firmware in MicroPython's unix VM, in real time; its UARTs are pseudo-terminals."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mpremote.transport_serial import SerialTransport

from chargekeep_tools.bench.board import Board
from chargekeep_tools.sim.station import Line, Station

_SILENCE_S = 0.004  # 3.5 characters at 9600 baud
_FOLLOW_S = 0.02


class UnixBoard(Board):
    """A station in `folder`. The firmware runs from its sources; nothing is installed."""

    name = "UNIX"
    needs_firmware = False

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._bus = Line()
        self._station = Station(folder, self._bus.path)
        self._repl = contextlib.ExitStack()
        self._port = ""
        self._log_from = 0
        self._stop = threading.Event()
        self._cables = threading.Thread(target=self._carry, daemon=True, name="bench cables")
        self._cables.start()

    def close(self) -> None:
        self.power_cut()
        self._stop.set()
        self._cables.join()
        self._station.close()
        self._bus.close()

    def power_on(self, app: bool = True) -> None:
        self.power_cut()
        self._bus.drain()
        for peer, line in ((self.meter, self._bus), (self.reader, self._station.reader)):
            peer.attach(line.write, time.monotonic_ns)
        if app:
            self._log_from = self._station.log.stat().st_size if self._station.log.exists() else 0
            self._station.boot()
        else:
            self._port = self._repl.enter_context(self._station.repl())
        self.in_service = not app

    def power_cut(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None
        self.in_service = False
        self._repl.close()
        self._station.power_cut()
        self._follow_relay()

    @property
    def now_s(self) -> float:
        return time.monotonic()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def _connect(self) -> SerialTransport:
        return SerialTransport(self._port, timeout=10)

    def fresh(self) -> None:
        self.power_on(app=False)

    @property
    def console(self) -> str:
        if not self._station.log.exists():
            return ""
        return self._station.log.read_bytes()[self._log_from :].decode(errors="replace")

    @property
    def permits(self) -> bool:
        return self._station.permits

    def _follow_relay(self) -> None:
        permits = self.permits
        (self.folder / "feedback.pin").write_text("1" if permits else "0")
        power_w = self.demand_w if permits else 0
        if self.meter.power_w != power_w:
            self.meter.power_w = power_w

    def _carry(self) -> None:
        lines = {self._bus.fd: "meter", self._station.reader.fd: "reader"}
        while not self._stop.is_set():
            for fd in select.select([*lines], [], [], _FOLLOW_S)[0]:
                data = b""
                while select.select([fd], [], [], _SILENCE_S)[0]:
                    data += os.read(fd, 1024)
                getattr(self, lines[fd]).received(data)
            self._follow_relay()
