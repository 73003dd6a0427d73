"""What hangs on the UARTs of a board: an energy meter, a credential reader.

A `Peer` is told of each burst of bytes that the board sends, once the line is silent again, and
answers with `send`. The kind of board carries the bytes and gives the clock.
"""

import struct
from collections.abc import Callable

from chargekeep_tools.sim.meter import FAMILIES, Counting, EnergyCounter


class Peer:
    """The other end of a UART; `received` is called with what the board sent in one go."""

    def __init__(self) -> None:
        self.send: Callable[[bytes], None] = lambda data: None

    def attach(self, send: Callable[[bytes], None], clock_ns: Callable[[], int]) -> None:
        """The peer is connected: `send` sends to the board, `clock_ns` is the board's time."""
        self.send = send

    def received(self, data: bytes) -> None:
        pass


def crc16(frame: bytes) -> bytes:
    """Modbus over serial line V1.02, section 6.2.2, as it travels."""
    crc = 0xFFFF
    for byte in frame:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return struct.pack("<H", crc)


class Meter(Counting, Peer):
    """A Modbus RTU energy meter that counts `power_w` in the board's time.

    `silent` makes it answer nothing. `told_wh`, where set, replaces the register's truth.
    """

    def __init__(
        self, wh: float = 180_200, power_w: int = 0, family: str = "sdm630", address: int = 1
    ):
        super().__init__()
        self.family = FAMILIES[family]
        self.address = address
        self.silent = False
        self.told_wh: float | None = None
        self.requests = 0
        self.counter = EnergyCounter(wh, power_w, lambda: 0)

    def attach(self, send: Callable[[bytes], None], clock_ns: Callable[[], int]) -> None:
        """Energy counted so far stays when the board's time begins anew."""
        super().attach(send, clock_ns)
        self.counter = EnergyCounter(self.counter.wh, self.counter.power_w, clock_ns)

    def received(self, data: bytes) -> None:
        if len(data) != 8 or data[0] != self.address or crc16(data[:-2]) != data[-2:]:
            return
        self.requests += 1
        if not self.silent:
            body = self._answer(*struct.unpack(">BHH", data[1:6]))
            self.send(body + crc16(body))

    def _answer(self, function: int, first: int, count: int) -> bytes:
        family = self.family
        wh = self.wh if self.told_wh is None else self.told_wh
        shown = family.registers(wh, self.power_w)
        if family.identity and (function, first) == family.identity[:2]:
            shown = {first: family.identity[2]}
        elif function != family.function:
            return bytes([self.address, function | 0x80, 1])  # illegal function
        elif not any(a <= first and first + count <= a + size for a, size in family.ranges):
            return bytes([self.address, function | 0x80, 2])  # illegal data address
        words = {
            a + i: data[2 * i : 2 * i + 2]
            for a, data in shown.items()
            for i in range(len(data) // 2)
        }
        data = b"".join(words.get(first + i, bytes(2)) for i in range(count))
        return bytes([self.address, function, len(data)]) + data


class Reader(Peer):
    """A reader that sends a credential as a line of text and shows the station's answers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._part = b""

    def received(self, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        self.lines += [line.decode(errors="replace").strip() for line in lines]
