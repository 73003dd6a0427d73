"""The contract of a board on the bench, and what all kinds of boards share of it."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from chargekeep_tools import provision
from chargekeep_tools.bench.peers import Meter, Reader
from chargekeep_tools.device import Device
from chargekeep_tools.home import Home

IMAGES = {"RPI_PICO": "CHARGEKEEP_RP2_IMAGE", "RPI_PICO_W": "CHARGEKEEP_RP2_W_IMAGE"}


class BoardError(Exception):
    """The board did not do what it was asked for; the message holds its traceback."""


class Unavailable(Exception):
    """This kind of board cannot be had here; the message says what is missing."""


class Board(ABC):
    """A board with its wires. It is off at first, and a context manager that turns it off.

    Powered on with its application it charges; without, it is in service and answers `exec`.
    All times are the board's own: real seconds, or emulated ones.

    name: upstream's name of the board. architecture: of its native code, as mpy-cross names it.
    needs_firmware: it comes without; bring it with `install(firmware.files(name))`.
    demand_w: what the car takes from the meter while the relay permits.
    """

    name: str
    architecture: str | None = None
    needs_firmware = True
    network_host: str | None = "127.0.0.1"  # this machine as the board sees it; None: no network
    wifi: tuple[str, str] | None = None  # network name and password, where the board needs them

    def __init__(self) -> None:
        self.meter = Meter()
        self.reader = Reader()
        self.demand_w = 11_000
        self.in_service = False
        self._transport: SerialTransport | None = None

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Off, and nothing left behind on this machine."""

    # Power and time

    @abstractmethod
    def power_on(self, app: bool = True) -> None:
        """Boot, with the application or into service. Returns once the console is up."""

    @abstractmethod
    def power_cut(self) -> None:
        """Power is gone at once, whatever is under way."""

    @property
    @abstractmethod
    def now_s(self) -> float:
        """Seconds, counted from some instant."""

    @abstractmethod
    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let the board run for `seconds`, or until `until()`; whether that came true."""

    # In service: the REPL

    @abstractmethod
    def _connect(self) -> SerialTransport:
        """mpremote's transport to the console of a board in service."""

    def transport(self) -> SerialTransport:
        """mpremote's transport, in the raw REPL; the board goes into service if it is off.

        Raises BoardError while the application runs.
        """
        if self._transport is None:
            self._transport = self._connect_in_service()
        return self._transport

    def _connect_in_service(self, soft_reset: bool = False) -> SerialTransport:
        if not self.in_service:
            self.power_on(app=False)
        transport = self._connect()
        try:
            transport.enter_raw_repl(soft_reset=soft_reset)
        except TransportError as error:
            raise BoardError(f"{self.name}: {error}")
        return transport

    def exec(self, code: str, timeout_s: int = 60) -> str:
        """What `code` prints on a board in service. `timeout_s` is the longest silence.

        Raises BoardError with the board's traceback.
        """
        try:
            output, error = self.transport().exec_raw(code, timeout=timeout_s)
        except TransportError as failure:
            raise BoardError(f"{self.name}: {failure}")
        if error:
            raise BoardError(f"{self.name}: {error.decode(errors='replace')}")
        return output.decode(errors="replace").replace("\r\n", "\n")

    def fresh(self) -> None:
        """A soft reset: a new interpreter, with the files there are."""
        transport = self.transport()
        transport.enter_raw_repl(soft_reset=True)

    def put(self, path: str, data: bytes) -> None:
        """Write a file through the REPL."""
        self.transport().fs_writefile(path, data)

    def get(self, path: str) -> bytes:
        """Read a file through the REPL."""
        return bytes(self.transport().fs_readfile(path))

    def install(self, files: dict[str, bytes]) -> None:
        """Write many files, the fastest way there is."""
        for path, data in files.items():
            folder = ""
            for part in path.split("/")[:-1]:
                folder += part
                if not self.transport().fs_exists(folder):
                    self.transport().fs_mkdir(folder)
                folder += "/"
            self.put(path, data)

    def commission(self, home: Home, site: str, station: str, **how: Any) -> dict[str, Any]:
        """Make the board a station with the objects in force. Returns its record."""
        device = Device(self.transport(), self.name)
        record = provision.commission(home, device, site, station, **how)
        return record | {"installed": provision.install(home, device, station)}

    # Running its application

    @property
    @abstractmethod
    def console(self) -> str:
        """What the application has printed since the board was powered on."""

    @property
    def status(self) -> dict[str, Any]:
        """The newest status that the application printed; empty before the first."""
        whole, _, _ = self.console.rpartition("\n")
        for line in reversed(whole.splitlines()):
            if line.startswith('{"') and line.endswith("}"):
                return json.loads(line)
        return {}

    @property
    @abstractmethod
    def permits(self) -> bool:
        """Whether the relay permits charging."""

    def present(self, text: str, timeout_s: float = 10) -> str:
        """Hold a credential to the reader; the line the station answers, '' if it does not."""
        self.reader.lines.clear()
        self.reader.send(text.encode() + b"\r\n")
        self.run(timeout_s, lambda: bool(self.reader.lines))
        return self.reader.lines[0] if self.reader.lines else ""


def open_board(target: str, folder: Path, **bench: Any) -> Board:
    """A board by name: "unix", "RPI_PICO", "RPI_PICO_W" (emulated), or a serial port.

    folder: where it keeps its files on this machine, if it does. bench: what SerialBoard is told
    of a board on a port. Raises Unavailable.
    """
    if target == "unix":
        from chargekeep_tools.bench.unix import UnixBoard

        return UnixBoard(folder)
    if target in IMAGES:
        image = os.environ.get(IMAGES[target])
        if not image:
            raise Unavailable(f"{IMAGES[target]} names no image")
        from chargekeep_tools.bench.emulated import EmulatedBoard

        return EmulatedBoard(target, Path(image))
    from chargekeep_tools.bench.serialport import SerialBoard

    return SerialBoard(target, **bench)
