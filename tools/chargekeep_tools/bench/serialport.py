"""A real board on a serial port. Its power is switched by a command, its meter is played over a
second serial adapter, where there are such."""

import os
import subprocess
import threading
import time
from collections.abc import Callable

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from chargekeep_tools.bench.board import Board, BoardError, Unavailable

_BACK_S = 15  # for USB to come back
_SERVICE = "open('service', 'w').close()"


class SerialBoard(Board):
    """power_command: run by a shell with " on" or " off" added; without it power is not cut.

    meter_port: the adapter that takes the meter's place at the board's meter UART.
    """

    def __init__(
        self,
        port: str,
        power_command: str | None = None,
        meter_port: str | None = None,
        reader_port: str | None = None,
    ):
        super().__init__()
        if not os.path.exists(port):
            raise Unavailable(f"no {port}")
        self.name = self.port = port
        self.power_command = power_command
        self._console: serial.Serial | None = None
        self._printed = bytearray()
        self._adapters = {}
        for role, adapter in (("meter", meter_port), ("reader", reader_port)):
            if adapter:
                self._adapters[role] = serial.Serial(adapter, 9600, timeout=0.005)
        self._stop = threading.Event()
        self._cables = threading.Thread(target=self._carry, daemon=True, name="bench cables")
        self._cables.start()

    def close(self) -> None:
        self._leave()
        self._stop.set()
        self._cables.join()
        for adapter in self._adapters.values():
            adapter.close()

    def _leave(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None
        if self._console:
            console, self._console = self._console, None
            console.close()
        self.in_service = False

    def _switch(self, to: str) -> None:
        if not self.power_command:
            raise Unavailable("no command switches the board's power")
        subprocess.run(f"{self.power_command} {to}", shell=True, check=True)

    def power_cut(self) -> None:
        self._leave()
        self._switch("off")

    def power_on(self, app: bool = True) -> None:
        """Without a power command: a hard reset of the board."""
        self._leave()
        if self.power_command:
            self._switch("on")
        for role, adapter in self._adapters.items():
            getattr(self, role).attach(adapter.write, time.monotonic_ns)
        self._restart(service=not app)
        self.in_service = not app
        if app:
            self._printed.clear()
            self._console = serial.Serial(self.port, timeout=0.05)

    def _restart(self, service: bool) -> None:
        transport = self._transport_within(_BACK_S)
        transport.enter_raw_repl(soft_reset=False)
        if service:
            transport.exec(_SERVICE)
        transport.exec_raw_no_follow("import machine; machine.reset()")
        transport.close()
        time.sleep(1)
        self._transport_within(_BACK_S).close()

    def _transport_within(self, seconds: float) -> SerialTransport:
        end = time.monotonic() + seconds
        while True:
            try:
                return SerialTransport(self.port, timeout=10)
            except (TransportError, OSError) as error:
                if time.monotonic() > end:
                    raise BoardError(f"{self.port}: {error}")
                time.sleep(0.2)

    def _connect(self) -> SerialTransport:
        return self._transport_within(_BACK_S)

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

    @property
    def console(self) -> str:
        return self._printed.decode(errors="replace")

    @property
    def permits(self) -> bool:
        """As the station says: nothing watches the relay itself."""
        return self.status.get("evse") == "Charging"

    def _carry(self) -> None:
        while not self._stop.is_set():
            for role, adapter in self._adapters.items():
                if data := adapter.read(256):
                    getattr(self, role).received(data)
            if self._console:
                self._printed += self._console.read(4096)
            elif not self._adapters:
                time.sleep(0.02)
