"""A real board on a serial port. Its power is switched by a command, its meter and its reader are
played over serial adapters in their places, where there are such."""

import os
import subprocess
import threading
import time
from collections.abc import Callable

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from chargekeep_tools import bundle, upload
from chargekeep_tools.bench.board import Board, BoardError, Unavailable
from chargekeep_tools.bench.peers import Peer
from chargekeep_tools.device import Device, interrupt

_READ_S = 10
_BACK_S = 15  # for USB to come back
_SILENCE_S = 0.005  # 3.5 characters at 9600 baud, and what adapters add
_FOLLOW_S = 0.02
_BOOT_S = 1  # Ctrl-C comes later than main.py
_KEPT = 1 << 18  # bytes of the console
# As machine.reset, where there is no `machine.reset`, and the next start ends in the REPL.
_RESET = """
import machine
if not hasattr(machine, "reset"): raise SystemExit
machine.reset()
"""
_SERVICE = "open('service', 'w').close()"


class SerialBoard(Board):
    """name: upstream's name of the board, as in boards/.

    power_command: run by a shell with " on" or " off" added; without it power is not cut, the
    board is only reset when it is to come back.
    meter_port, reader_port: the adapter that takes the place of one at the board's UART. Without
    one, `meter` is nobody's and a real one has to be there.
    """

    def __init__(
        self,
        port: str,
        name: str = "RPI_PICO",
        power_command: str | None = None,
        meter_port: str | None = None,
        reader_port: str | None = None,
    ):
        super().__init__()
        if not os.path.exists(port):
            raise Unavailable(f"no {port}")
        self.port = port
        self.name = name
        self.architecture = bundle.BOARDS[name][1]
        self.power_command = power_command
        self._listening = False  # to the application
        self._printed = bytearray()
        self._adapters: dict[str, serial.Serial] = {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._listen, daemon=True, name="bench console")]
        for role, adapter in (("meter", meter_port), ("reader", reader_port)):
            if adapter:
                line = self._adapters[role] = serial.Serial(adapter, 9600, timeout=_SILENCE_S)
                carry = threading.Thread(target=self._carry, args=(role, line), daemon=True)
                self._threads.append(carry)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._leave()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for adapter in self._adapters.values():
            adapter.close()

    def _leave(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None
        self._listening = self.in_service = False

    def _switch(self, to: str) -> None:
        if self.power_command:
            subprocess.run(f"{self.power_command} {to}", shell=True, check=True)

    def power_cut(self) -> None:
        self._leave()
        self._printed.clear()
        self._switch("off")

    def power_on(self, app: bool = True) -> None:
        self._leave()
        self._switch("on")
        for role, adapter in self._adapters.items():
            getattr(self, role).attach(adapter.write, time.monotonic_ns)
        transport = self._transport_within(_BACK_S)
        interrupt(transport, self.port)
        if not app:
            transport.exec(_SERVICE)
        transport.exec_raw_no_follow(_RESET)
        transport.close()
        self._printed.clear()
        self._listening = app
        self.in_service = not app
        if not app:
            time.sleep(_BOOT_S)

    def _transport_within(self, seconds: float) -> SerialTransport:
        end = time.monotonic() + seconds
        while True:
            try:
                return SerialTransport(self.port, timeout=_READ_S)
            except (TransportError, OSError) as error:
                if time.monotonic() > end:
                    raise BoardError(f"{self.port}: {error}")
                time.sleep(0.2)

    def _connect(self) -> SerialTransport:
        return self._transport_within(_BACK_S)

    def fresh(self) -> None:
        Device(self.transport(), self.port).fresh()

    def install(self, files: dict[str, bytes]) -> None:
        """As `chargekeep provision` brings firmware: what is there already is not sent again."""
        device = Device(self.transport(), self.port)
        upload.hello(device)
        upload.upload(device, files)
        self.fresh()

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
        return self.status.get("evse") == "charging"

    def _listen(self) -> None:
        console: serial.Serial | None = None
        while not self._stop.wait(0 if console else _FOLLOW_S):
            try:
                if console is None and self._listening:
                    console = serial.Serial(self.port, timeout=_FOLLOW_S)
                elif console and not self._listening:
                    console.close()
                    console = None
                data = console.read(4096) if console else b""
            except (serial.SerialException, OSError):
                console, data = None, b""  # its USB comes back
            self._printed += data
            del self._printed[:-_KEPT]
            self._follow_relay()

    def _follow_relay(self) -> None:
        power_w = self.demand_w if self._listening and self.permits else 0
        if self.meter.power_w != power_w:
            self.meter.power_w = power_w

    def _carry(self, role: str, line: serial.Serial) -> None:
        while not self._stop.is_set():
            data = line.read(1)
            while data and (more := line.read(256)):
                data += more
            if data:
                peer: Peer = getattr(self, role)
                peer.received(data)
