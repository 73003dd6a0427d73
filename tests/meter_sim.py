"""A simulated second hand and a simulated RS-485 bus, for MicroPython and CPython.

`Clock` stands for the tick counter; `Bus` is a UART with Modbus meters at its other end that
answer at the speed of the line and, where asked to, badly.
"""

import struct

from chargekeep.metering.modbus import crc16


class Clock:
    def __init__(self, now=0):
        self.now = now

    def ms(self):
        return self.now


class Random:
    """A small generator (xorshift32), the same on every interpreter."""

    def __init__(self, seed):
        self._x = seed * 2654435761 % 2**32 or 1

    def below(self, n):
        x = self._x
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self._x = x
        return x % n

    def chance(self, per_mille):
        return self.below(1000) < per_mille


def with_crc(body):
    crc = crc16(body, 0, len(body))
    return bytes(body) + bytes([crc & 0xFF, crc >> 8])


class Bus:
    """`devices` maps an address to a dict of register -> 16-bit value, or to a function of
    (function, register, count) that returns bytes or an exception code.

    `fault(reply)` may return a list of (delay ms, bytes) in place of the reply.
    """

    def __init__(self, clock, devices, baudrate=9600, turnaround_ms=20):
        self.clock = clock
        self.devices = devices
        self.byte_ms = 11000 / baudrate
        self.turnaround_ms = turnaround_ms
        self.echo = False
        self.fault = None
        self.requests = []
        self._coming = []  # [time of the first byte, bytes], in order of arrival

    def init(self, baudrate):
        self.byte_ms = 11000 / baudrate

    def write(self, frame):
        frame = bytes(frame)
        self.requests = self.requests[-7:] + [frame]  # the latest eight
        sent = self.clock.now + len(frame) * self.byte_ms
        if self.echo:
            self.put(self.clock.now + self.byte_ms, frame)
        reply = self._answer(frame)
        if reply is not None:
            for delay, data in self.fault(reply) if self.fault else [(0, reply)]:
                self.put(sent + self.turnaround_ms + delay + self.byte_ms, data)
        return len(frame)

    def put(self, at, data):
        """Let `data` arrive, the first byte at `at` ms."""
        self._coming.append([at, data])
        self._coming.sort(key=lambda piece: piece[0])

    def _answer(self, frame):
        if len(frame) < 8:
            return None
        address, function, register, count = struct.unpack(">BBHH", frame[:6])
        device = self.devices.get(address)
        if device is None or frame != with_crc(frame[:-2]):
            return None
        if function == 16:
            device[register] = struct.unpack(">H", frame[7:9])[0]
            return with_crc(frame[:6])
        if function in (5, 6):
            device[register] = count
            return frame
        if callable(device):
            data = device(function, register, count)
        else:
            words = [device.get(r) for r in range(register, register + count)]
            data = 2 if None in words else b"".join([struct.pack(">H", w) for w in words])
        if isinstance(data, int):
            return with_crc(bytes([address, function | 0x80, data]))
        return with_crc(bytes([address, function, len(data)]) + data)

    def _arrived(self, piece):
        at, data = piece
        return max(0, min(len(data), int((self.clock.now - at) / self.byte_ms) + 1))

    def any(self):
        if not self._coming or self._coming[0][0] > self.clock.now:
            return 0
        return sum([self._arrived(piece) for piece in self._coming if piece[0] <= self.clock.now])

    def readinto(self, buf):
        n = 0
        while n < len(buf) and self._coming and self._coming[0][0] <= self.clock.now:
            piece = self._coming[0]
            at, data = piece
            count = min(len(buf) - n, self._arrived(piece))
            if not count:
                break
            buf[n : n + count] = data[:count]
            n += count
            if count < len(data):
                piece[0] = at + count * self.byte_ms
                piece[1] = data[count:]
                break
            self._coming.pop(0)
        return n or None


class Sdm630:
    """The registers of an SDM630 that counts `power_w` on the bus's clock.

    `kwh` and `watts`, where set, are told in place of the truth.
    """

    def __init__(self, clock, wh=0, power_w=0):
        self._clock = clock
        self._since = clock.now
        self._mws = wh * 3600000
        self._power_w = power_w
        self.kwh = None
        self.watts = None

    @property
    def power_w(self):
        return self._power_w

    @power_w.setter
    def power_w(self, power_w):
        self._count()
        self._power_w = power_w

    def _count(self):
        self._mws += self._power_w * (self._clock.now - self._since)
        self._since = self._clock.now

    @property
    def wh(self):
        self._count()
        return self._mws // 3600000

    def __call__(self, function, register, count):
        if function != 4 or register & 1 or register + count > 0x200:
            return 2
        kwh = self.wh / 1000 if self.kwh is None else self.kwh
        watts = self._power_w if self.watts is None else self.watts
        floats = {0x34: watts, 0x46: 50.0, 0x48: kwh, 0x4A: 0.0}
        return b"".join(
            [struct.pack(">f", floats.get(r, 0.0)) for r in range(register, register + count, 2)]
        )


def advance(clock, stepper, ms):
    """Let `stepper.step` run for `ms` of simulated time."""
    end = clock.now + ms
    while clock.now < end:
        clock.now += max(1, stepper.step())
