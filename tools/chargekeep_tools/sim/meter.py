"""An energy meter on a pseudo-terminal, played by pymodbus.

`SimMeter` is a meter with a settable load whose register counts in real time. A relay between
two pseudo-terminals gives the line the pace of its baud rate and, where asked to, its faults:

    firmware -- pty A -- line (pace, faults) -- pty B -- pymodbus
"""

import asyncio
import os
import pty
import random
import struct
import threading
import time
import tty
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

_BITS = 11  # a character on the line: start, 8 data, parity or stop, stop


@dataclass
class Faults:
    """How bad the line is; probabilities per reply."""

    corrupt: float = 0.0  # one byte altered
    split: float = 0.0  # a pause of 20 to 50 ms within the frame
    noise: float = 0.0  # a few random bytes before the frame
    late: float = 0.0  # 250 to 500 ms late
    silent: float = 0.0  # no reply at all
    echo: bool = False  # the adapter returns what is sent
    seed: int = 1


class EnergyCounter:
    """Energy in Wh from a settable power, integrated exactly (in W x ns)."""

    def __init__(self, wh: float, power_w: int, clock_ns: Callable[[], int]):
        self._clock_ns = clock_ns
        self._since = clock_ns()
        self._wns = round(wh * 3_600_000_000_000)
        self._power_w = power_w
        self._lock = threading.Lock()

    def _count(self) -> None:
        now = self._clock_ns()
        self._wns += self._power_w * (now - self._since)
        self._since = now

    @property
    def wh(self) -> float:
        with self._lock:
            self._count()
            return self._wns / 3_600_000_000_000

    @property
    def power_w(self) -> int:
        return self._power_w

    @power_w.setter
    def power_w(self, power_w: int) -> None:
        with self._lock:
            self._count()
            self._power_w = power_w


class Counting:
    """A meter whose energy `counter` counts; its load can be set."""

    counter: EnergyCounter

    @property
    def wh(self) -> float:
        return self.counter.wh

    @property
    def power_w(self) -> int:
        return self.counter.power_w

    @power_w.setter
    def power_w(self, power_w: int) -> None:
        self.counter.power_w = power_w


def _f32(value: float) -> bytes:
    return struct.pack(">f", value)


def _low_word_first(value: int) -> bytes:
    data = struct.pack(">i", value)
    return data[2:] + data[:2]


def _sdm630(wh: float, power_w: float) -> dict[int, bytes]:
    volts, phases = 230.0, 3
    floats = {0x34: power_w, 0x38: power_w, 0x3E: 1.0, 0x46: 50.0, 0x48: wh / 1000, 0x4A: 0.0}
    for phase in range(phases):
        floats[2 * phase] = volts
        floats[6 + 2 * phase] = power_w / phases / volts
        floats[12 + 2 * phase] = power_w / phases
    floats[0x156] = wh / 1000
    return {address: _f32(value) for address, value in floats.items()}


def _sdm72(wh: float, power_w: float) -> dict[int, bytes]:
    steps = int(wh / 10) / 100  # kWh in steps of 10 Wh
    return {0x34: _f32(power_w), 0x48: _f32(steps), 0x4A: _f32(0), 0x156: _f32(steps)}


def _sdm120(wh: float, power_w: float) -> dict[int, bytes]:
    floats = {0: 230.0, 6: power_w / 230, 12: power_w, 0x46: 50.0, 0x48: wh / 1000, 0x4A: 0.0}
    return {address: _f32(value) for address, value in floats.items()}


def _pzem004t(wh: float, power_w: float) -> dict[int, bytes]:
    return {
        0: struct.pack(">H", 2300),
        1: _low_word_first(int(power_w / 0.23)),
        3: _low_word_first(int(power_w * 10)),
        5: _low_word_first(int(wh) % 10_000_000),
        7: struct.pack(">HHH", 500, 100, 0),
    }


def _abb(wh: float, power_w: float) -> dict[int, bytes]:
    return {
        0x5000: struct.pack(">QQ", int(wh / 10), 0xFFFF_FFFF_FFFF_FFFF),
        0x5B14: struct.pack(">i", int(power_w * 100)),
        0x5B2C: struct.pack(">H", 5000),
    }


def _em340(wh: float, power_w: float) -> dict[int, bytes]:
    return {
        0x28: _low_word_first(int(power_w * 10)),
        0x33: struct.pack(">h", 500),
        0x34: _low_word_first(int(wh / 100)),
        0x4E: _low_word_first(0),
    }


def _em24(wh: float, power_w: float) -> dict[int, bytes]:
    return {
        0x28: _low_word_first(int(power_w * 10)),
        0x37: struct.pack(">h", 500),
        0x3E: _low_word_first(int(wh / 100)),
        0x5C: _low_word_first(0),
    }


@dataclass(frozen=True)
class Family:
    """What a meter shows: `registers(wh, power_w)` gives bytes by first address.

    `ranges` are the (first, count) that exist, read by `function`; `identity` is (function,
    register, bytes) of what it says it is.
    """

    registers: Callable[[float, float], dict[int, bytes]]
    ranges: list[tuple[int, int]]
    function: int = 4
    identity: tuple[int, int, bytes] | None = None


FAMILIES = {
    "sdm630": Family(_sdm630, [(0, 0x180)], identity=(3, 0xFC02, b"\x00\x70")),
    "sdm72": Family(
        _sdm72,
        [(0x34, 2), (0x48, 4), (0x156, 2)],
        identity=(3, 0xFC02, b"\x00\x84"),
    ),
    "sdm120": Family(_sdm120, [(0, 0x160)], identity=(3, 0xFC02, b"\x00\x20")),
    "sdm230": Family(_sdm120, [(0, 0x160)], identity=(3, 0xFC02, b"\x00\x2b")),
    "pzem004t": Family(_pzem004t, [(0, 10)]),
    "abb_b2x": Family(
        _abb,
        [(0x5000, 0x30), (0x5B00, 0x3A)],
        function=3,
        identity=(3, 0x8960, b"B23 112-100\0"),
    ),
    "em340": Family(_em340, [(0, 0x60)], identity=(4, 0x0B, b"\x01\x55")),
    "em24": Family(_em24, [(0, 0x60)], identity=(4, 0x0B, b"\x00\x47")),
}


class Device(Protocol):
    """Another device of the bus."""

    address: int

    def device(self) -> SimDevice: ...


class SimMeter(Counting):
    """A meter at `address` of its own bus; use it as a context manager.

    `path` is the pseudo-terminal for the firmware, and `link`, if given, a symbolic link to it.
    `power_w` is what flows now and `wh` what was counted. `told_wh` replaces the register's
    truth while it is not None, and `faults` may be changed at any time. `others` are devices on
    the same bus.
    """

    def __init__(
        self,
        link: Path | None = None,
        family: str = "sdm630",
        wh: float = 180_200,
        power_w: int = 0,
        address: int = 1,
        baudrate: int = 9600,
        faults: Faults | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        others: Sequence[Device] = (),
    ):
        self.link = link
        self.others = others
        self.family = FAMILIES[family]
        self.address = address
        self.baudrate = baudrate
        self.faults = faults or Faults()
        self.counter = EnergyCounter(wh, power_w, clock_ns)
        self.told_wh: float | None = None
        self.requests = 0
        self._random = random.Random(self.faults.seed)
        self._near, self._near_slave = pty.openpty()  # towards the firmware
        self._far, self._far_slave = pty.openpty()  # towards pymodbus
        for fd in (self._near, self._near_slave, self._far, self._far_slave):
            tty.setraw(fd)
        os.set_blocking(self._near, False)
        os.set_blocking(self._far, False)
        self.path = os.ttyname(self._near_slave)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sim meter")

    def __enter__(self) -> "SimMeter":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        if self.link:
            self.link.unlink(missing_ok=True)
            self.link.symlink_to(self.path)
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the simulated meter did not start")

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._done.set)
            self._thread.join(5)
        for fd in (self._near, self._near_slave, self._far, self._far_slave):
            os.close(fd)
        if self.link and self.link.is_symlink():
            self.link.unlink()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        ranges = list(self.family.ranges)
        if self.family.identity:
            _, first, data = self.family.identity
            ranges += [] if first < 0x60 else [(first, len(data) // 2)]
        registers = [SimData(*r, datatype=DataType.REGISTERS) for r in ranges]
        meter = SimDevice(self.address, simdata=registers, action=self._show)
        server = ModbusSerialServer(
            [meter, *(other.device() for other in self.others)],
            port=os.ttyname(self._far_slave),
            baudrate=self.baudrate,
            ignore_missing_devices=True,
        )
        await server.serve_forever(background=True)
        tasks = [
            asyncio.create_task(self._carry(self._near, self._far, self._request)),
            asyncio.create_task(self._carry(self._far, self._near, self._reply)),
        ]
        self._ready.set()
        await self._done.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.shutdown()

    async def _show(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        wh = self.wh if self.told_wh is None else self.told_wh
        shown = self.family.registers(wh, self.power_w)
        if self.family.identity and address == self.family.identity[1]:
            needed, first, data = self.family.identity
            shown = {first: data}
        else:
            needed = self.family.function
        if function != needed or values is not None:
            return ExcCodes.ILLEGAL_FUNCTION
        for first, data in shown.items():
            for i in range(0, len(data), 2):
                registers[first + i // 2 - start] = int.from_bytes(data[i : i + 2], "big")
        return None

    async def _carry(
        self, source: int, sink: int, pieces: Callable[[bytes], list[tuple[float, bytes]]]
    ) -> None:
        arrived = asyncio.Event()
        self._loop.add_reader(source, arrived.set)
        try:
            while True:
                await arrived.wait()
                await asyncio.sleep(0.002)  # a frame is written in one go
                arrived.clear()
                try:
                    data = os.read(source, 512)
                except BlockingIOError:
                    continue  # the reader was told twice of the same bytes
                for delay, piece in pieces(data):
                    # All of a piece is delivered when its last bit would have arrived.
                    await asyncio.sleep(delay + len(piece) * _BITS / self.baudrate)
                    os.write(sink, piece)
        finally:
            self._loop.remove_reader(source)

    def _request(self, data: bytes) -> list[tuple[float, bytes]]:
        self.requests += 1
        if self.faults.echo:
            os.write(self._near, data)
        # pymodbus answers for addresses it does not have; a bus is silent there.
        present = {self.address, *(other.address for other in self.others)}
        return [(0, data)] if data[0] in present else []

    def _reply(self, data: bytes) -> list[tuple[float, bytes]]:
        f, chance = self.faults, self._random.random
        if chance() < f.silent:
            return []
        delay = self._random.uniform(0.25, 0.5) if chance() < f.late else 0.02
        if chance() < f.corrupt:
            at = self._random.randrange(len(data))
            flipped = bytes([data[at] ^ self._random.randrange(1, 256)])
            data = data[:at] + flipped + data[at + 1 :]
        if chance() < f.noise:
            data = self._random.randbytes(self._random.randrange(1, 6)) + data
        if chance() < f.split and len(data) > 1:
            cut = self._random.randrange(1, len(data))
            return [(delay, data[:cut]), (self._random.uniform(0.02, 0.05), data[cut:])]
        return [(delay, data)]
