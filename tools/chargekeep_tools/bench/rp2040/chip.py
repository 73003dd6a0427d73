"""An RP2040 that runs a real MicroPython image, in its own time and the same way each time.

Nothing depends on the wall clock, unless the board is connected by its radio: then its idle time
is paced, so that it does not outrun the sockets of this machine.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chargekeep_tools.bench.rp2040 import build

build.load()

from rp2040py.boards import BoardSpec  # noqa: E402
from rp2040py.device import BaseDevice  # noqa: E402
from rp2040py.device.load_flash import load_uf2  # noqa: E402
from rp2040py.external.bootsel_button import BootselButton  # noqa: E402
from rp2040py.gpio_pin import GPIOPinState  # noqa: E402
from rp2040py.memory_map import FLASH_START_ADDRESS  # noqa: E402
from rp2040py.native import _chargekeep_loop as loop  # noqa: E402  # pyright: ignore

from chargekeep_tools.bench.rp2040.flash import Left, NorFlash  # noqa: E402
from chargekeep_tools.bench.rp2040.radio import Radio  # noqa: E402
from chargekeep_tools.bench.rp2040.uart import Pl011  # noqa: E402
from chargekeep_tools.bench.rp2040.usb import UsbSerial  # noqa: E402

_SLICE_NS = 1_000_000.0  # conditions are looked at this often
_FOREVER = 1 << 62
_RADIO_PINS = (23, 24, 25, 29)
_PACE_S = 0.005


class Chip:
    """Power is on from the start; `boot` runs until USB is up. `power_cut` ends it.

    image: a .uf2 file. flash: what the flash held before, of any length from offset 0 on, over
    which the image is loaded. radio: a Pico W's, None for a Pico. seed: of torn flash operations.
    """

    def __init__(
        self,
        image: Path,
        *,
        flash: bytes = b"",
        radio: Radio | None = None,
        unique_id: bytes = b"\xe6\x61\x41\x04\x03\x2b\x5f\x2c",
        seed: int = 0,
    ):
        extras: list[Callable[[], Any]] = [BootselButton]
        if radio:
            extras.append(lambda: radio)
        self._device = BaseDevice(board=BoardSpec(extras=tuple(extras), image=image))
        self._mcu: Any = self._device.mcu
        self._mcu.sio = loop.Sio(self._mcu)
        self._clock: Any = self._mcu.clock
        self._radio = radio
        self._chance = random.Random(seed)
        if flash:
            self._mcu.flash[: len(flash)] = flash
            load_uf2(image, self._mcu)
        self.flash = NorFlash.install(self._mcu, unique_id)
        self.uarts = Pl011.install(self._mcu)
        self.serial = UsbSerial(self._device.cdc, self.run)
        self.restarts = 0  # by the watchdog or machine.reset()
        self._restart = self._mcu.watchdog.on_watchdog_trigger
        self._mcu.watchdog.on_watchdog_trigger = self._restarted
        self._read_back_outputs()
        self._loop = asyncio.new_event_loop()
        self._device.simulator.bind_loop(self._loop)
        self._mcu.core.pc = FLASH_START_ADDRESS

    def _restarted(self) -> None:
        self.restarts += 1
        self._restart()

    def _read_back_outputs(self) -> None:
        # rp2040py reads 0 from a pin that the chip itself drives.
        for index, pin in enumerate(self._mcu.gpio):
            if self._radio and index in _RADIO_PINS:
                continue

            def follow(level: Any, _: Any, pin: Any = pin) -> None:
                if level in (GPIOPinState.LOW, GPIOPinState.HIGH):
                    pin._apply_input_value(level == GPIOPinState.HIGH)

            pin.add_listener(follow)

    @property
    def now_s(self) -> float:
        """Seconds since power came on."""
        return self._clock.nanos / 1e9

    def alarm(self, callback: Callable[[], None]) -> Any:
        """An object with `schedule(ns)` and `cancel()` that calls back in the chip's time."""
        return self._clock.create_alarm(callback)

    def pin(self, index: int) -> bool:
        """Level of an output."""
        return self._mcu.gpio[index].value == GPIOPinState.HIGH

    def on_change(self, index: int, callback: Callable[[], None]) -> None:
        """Call back when an output changes."""
        self._mcu.gpio[index].add_listener(lambda level, before: callback())

    def drive(self, index: int, level: bool) -> None:
        """Drive an input."""
        self._mcu.gpio[index].set_input_value(level)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Run `seconds` of the chip's time, or until `until()`; whether it came true."""
        end = self._clock.nanos + seconds * 1e9
        while not until():
            now, wall = self._clock.nanos, time.monotonic()
            if now >= end:
                return False
            self.serial.pump()
            loop.run(self._mcu, min(now + _SLICE_NS, end), _FOREVER)
            if self._radio and self._radio.connected:
                self._pace((self._clock.nanos - now) / 1e9 - (time.monotonic() - wall))
        return True

    def _pace(self, ahead_s: float) -> None:
        self._loop.run_until_complete(asyncio.sleep(min(max(0.0, ahead_s), _PACE_S)))

    def run_instructions(self, count: int, seconds: float = 10) -> None:
        """Run exactly `count` instructions, fewer where `seconds` pass before; hands over nothing.

        For a power cut between any two instructions.
        """
        end = self._clock.nanos + seconds * 1e9
        while count > 0 and self._clock.nanos < end:
            count -= loop.run(self._mcu, self._clock.nanos + _SLICE_NS, count)

    def boot(self, seconds: float = 10) -> float:
        """Run until the host can talk to the board; seconds since power came on."""
        if not self.run(seconds, lambda: self.serial.connected):
            raise TimeoutError(f"no USB after {seconds} s: is it an image for this board?")
        return self.now_s

    def foresee_cuts(self, mean_s: float, found: Callable[[Left], None]) -> None:
        """Tell `found` at random instants, `mean_s` apart, what a power cut would leave."""

        def schedule() -> None:
            alarm.schedule(self._chance.expovariate(1 / mean_s) * 1e9)

        def cut() -> None:
            found(self.flash.after_a_cut(self._chance))
            schedule()

        alarm = self.alarm(cut)
        schedule()

    def power_cut(self) -> Left:
        """Power is gone."""
        left = self.flash.after_a_cut(self._chance)
        self._close()
        return left

    def _close(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
