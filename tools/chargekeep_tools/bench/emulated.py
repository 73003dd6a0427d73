"""A real rp2 image on an emulated RP2040. Time is emulated: an hour asleep takes seconds, and
each run is the same, instruction by instruction, where no network is in play."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpremote.transport_serial import SerialTransport

from chargekeep_tools.bench.board import Board, BoardError, Unavailable
from chargekeep_tools.bench.peers import Peer
from chargekeep_tools.bench.rp2040 import build, filesystem
from chargekeep_tools.bench.transport import LineTransport

try:
    from chargekeep_tools.bench.rp2040.chip import Chip
    from chargekeep_tools.bench.rp2040.flash import Left
    from chargekeep_tools.bench.rp2040.radio import GATEWAY, Radio
except build.EmulatorUnavailable as error:
    raise Unavailable(f"no emulator: {error}")

_SILENCE = 3.5  # characters: the end of a frame on a Modbus line
_TURNAROUND_NS = 5_000_000
_PROMPT, _PROMPT_S = b">>> ", 10


class _Wire:
    """Carries bytes between a UART of the chip and a peer, at the pace of the line."""

    def __init__(self, chip: Chip, uart: int, peer: Callable[[], Peer]):
        self._uart = chip.uarts[uart]
        self._peer = peer
        self._frame, self._coming = bytearray(), bytearray()
        self._silence = chip.alarm(self._end_of_frame)
        self._arrival = chip.alarm(self._arrive)
        self._uart.on_byte = self._sent

    def _sent(self, byte: int) -> None:
        self._frame.append(byte)
        self._silence.schedule(_SILENCE * self._uart.frame_ns)

    def _end_of_frame(self) -> None:
        frame, self._frame = bytes(self._frame), bytearray()
        self._peer().received(frame)

    def send(self, data: bytes) -> None:
        if data and not self._coming:
            self._arrival.schedule(_TURNAROUND_NS + self._uart.frame_ns)
        self._coming += data

    def _arrive(self) -> None:
        self._uart.feed(self._coming.pop(0))
        if self._coming:
            self._arrival.schedule(self._uart.frame_ns)


class EmulatedBoard(Board):
    """`name` is RPI_PICO or RPI_PICO_W, as the image. Its flash is blank but for the image.

    `flash` is what the flash holds while the board is off; `torn` is the flash operation that
    the last power cut interrupted, or None; `boot_s` is how long the last boot took.
    """

    architecture = "armv6m"

    def __init__(self, name: str, image: Path, seed: int = 0):
        super().__init__()
        self.name = name
        self.image = image
        self.seed = seed
        self.flash = b""
        self.torn: Any = None
        self.boot_s = 0.0
        self.chip: Chip | None = None
        self.wiring: dict[str, Any] = {}
        self.radio = Radio() if name == "RPI_PICO_W" else None
        self.network_host = GATEWAY if self.radio else None
        self.wifi = ("bench", "") if self.radio else None
        self._before_s = 0.0
        self._status: dict[str, Any] = {}
        self._read_to: tuple[Chip | None, int] = None, 0

    def close(self) -> None:
        self.power_cut()

    def _powered(self) -> Chip:
        if self.chip is None:
            raise BoardError(f"{self.name} is off")
        return self.chip

    def power_on(self, app: bool = True) -> None:
        self.power_cut()
        if self.flash and not app:
            self.flash = filesystem.write(self.name, self.flash, {"service": b""})
        if self.radio:
            self.radio = _renewed(self.radio)
        self.seed += 1
        chip = self.chip = Chip(self.image, flash=self.flash, radio=self.radio, seed=self.seed)
        for role, peer in (("meter", lambda: self.meter), ("reader", lambda: self.reader)):
            if role in self.wiring:
                wire = _Wire(chip, self.wiring[role]["uart"], peer)
                peer().attach(wire.send, lambda: round(chip.now_s * 1e9))
        self._wire_contactor(chip)
        self.in_service = not app
        self.boot_s = chip.boot()
        if app:
            return
        # main.py has to see the file "service" before a host's Ctrl-C ends it.
        chip.serial.write(b"\r")
        if not chip.run(_PROMPT_S, lambda: _PROMPT in chip.serial.received):
            raise BoardError(f"{self.name} shows no prompt: {self.console}")

    def _wire_contactor(self, chip: Chip) -> None:
        relay, feedback = self.wiring.get("relay"), self.wiring.get("feedback")
        if not relay:
            return

        def follow() -> None:
            closed = chip.pin(relay["pin"]) == bool(relay.get("active", 1))
            self.meter.power_w = self.demand_w if closed else 0
            if feedback:
                chip.drive(feedback["pin"], closed == bool(feedback.get("active", 1)))

        chip.on_change(relay["pin"], follow)
        follow()

    def power_cut(self) -> None:
        self._transport = None
        self.in_service = False
        if self.chip:
            self.meter.power_w = 0
            self._before_s += self.chip.now_s
            self.flash, self.torn = self.chip.power_cut()
            self.chip = None

    def foresee_cuts(self, mean_s: float, found: Callable[[Left], None]) -> None:
        """From now until power is cut, tell `found` at random instants, `mean_s` apart, what
        `flash` and `torn` would be if it were cut there. The board goes on."""
        self._powered().foresee_cuts(mean_s, found)

    @property
    def now_s(self) -> float:
        return self._before_s + (self.chip.now_s if self.chip else 0)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        return self._powered().run(seconds, until)

    def _connect(self) -> SerialTransport:
        return LineTransport(self._powered().serial, self.name)

    def install(self, files: dict[str, bytes]) -> None:
        """Straight into the flash; what the file config.json wires is wired."""
        self.power_cut()
        if "config.json" in files:
            self.wiring = json.loads(files["config.json"])
        if self.flash:
            self.flash = filesystem.write(self.name, self.flash, files)
        else:
            start = filesystem.start(self.name)
            self.flash = b"\xff" * start + filesystem.make(self.name, files)

    @property
    def console(self) -> str:
        if self.chip is None:
            return ""
        return self.chip.serial.received.decode(errors="replace").replace("\r\n", "\n")

    @property
    def status(self) -> dict[str, Any]:
        # Asked for each millisecond that the chip runs, new each second
        printed = len(self.chip.serial.received) if self.chip else 0
        if (self.chip, printed) != self._read_to:
            self._status, self._read_to = super().status, (self.chip, printed)
        return self._status

    @property
    def permits(self) -> bool:
        relay = self.wiring["relay"]
        return bool(self.chip) and self._powered().pin(relay["pin"]) == relay.get("active", 1)


def _renewed(radio: Radio) -> Radio:
    """A radio that lost its power, in the same network."""
    fresh = Radio()
    fresh.open, fresh.dead = radio.open, radio.dead
    return fresh
