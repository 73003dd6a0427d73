# Electricity meters that send SML (Smart Message Language, BSI TR-03109-1 annex IV, version 1.04)
# by themselves, usually once a second at 9600 8N1. A telegram is believed if its CRC-16/X.25 and
# its structure hold; the registers are found by their OBIS numbers.

import time

from micropython import const

from chargekeep.errors import (
    METER_CRC,
    METER_FRAME,
    METER_NOT_A_NUMBER,
    METER_TIMEOUT,
    ChargekeepError,
)
from chargekeep.metering.rate import Rate

_ESCAPE = b"\x1b\x1b\x1b\x1b"  # transport protocol version 1
_BEGIN = b"\x1b\x1b\x1b\x1b\x01\x01\x01\x01"
_END = b"\x1b\x1b\x1b\x1b\x1a"  # then fill count and CRC
_TRAILER = const(8)
_MOST = const(1024)  # bytes of a telegram
_WAIT_MS = const(5000)  # telegrams come every 1 to 4 s

_ENTRY = b"\x77\x07"  # SML_ListEntry: a list of seven, beginning with an octet string of six
_IMPORT = b"\x01\x00\x01\x08\x00\xff"  # 1-0:1.8.0*255
_POWER = b"\x01\x00\x10\x07\x00\xff"  # 1-0:16.7.0*255
_WH = const(30)  # units, IEC 62056-6-2
_W = const(27)

_LIST = const(0x70)  # types, high nibble of a TL field
_UNSIGNED = const(0x60)
_SIGNED = const(0x50)


def crc16_x25(data, crc=0xFFFF):
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc ^ 0xFFFF


def _whole(telegram):
    return crc16_x25(memoryview(telegram)[:-2]) == telegram[-2] | telegram[-1] << 8


def _field(data, at):
    # (type, length of the content, where it begins) of the TL field at `at`.
    first = data[at]
    length = first & 15
    size = 1
    while data[at + size - 1] & 0x80:  # another TL byte follows
        length = length << 4 | (data[at + size] & 15)
        size += 1
    kind = first & 0x70
    return kind, length if kind == _LIST else length - size, at + size


def _skip(data, at):
    kind, length, at = _field(data, at)
    if kind != _LIST:
        return at + max(0, length)
    for _ in range(length):
        at = _skip(data, at)
    return at


def _integer(data, at):
    kind, length, at = _field(data, at)
    if kind not in (_UNSIGNED, _SIGNED) or not 0 < length <= 8 or at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    if kind == _SIGNED and data[at] & 0x80:
        value -= 1 << 8 * length
    return value


def entry(data, obis, unit):
    """Value of an SML list entry as an integer of the unit (rounded down), or None.

    `data` is an unescaped telegram. Raises METER_FRAME where it ends within the entry.
    """
    at = data.find(_ENTRY + obis)
    if at < 0:
        return None
    try:
        at = _skip(data, _skip(data, at + 8))  # status, time
        if _integer(data, at) != unit:
            return None
        at = _skip(data, at)
        scaler = _integer(data, at) or 0
        value = _integer(data, _skip(data, at))
    except IndexError:
        raise ChargekeepError(METER_FRAME, "entry")
    if value is None or not -6 <= scaler <= 6:
        return None
    return value * 10**scaler if scaler >= 0 else value // 10**-scaler


class SmlMeter:
    """The meter contract of the sampler on a UART that only listens."""

    pushes = True
    step_ms = 20
    cycle_ms = 2000
    rollover_wh = 0
    resolution_wh = 1

    def __init__(self, uart, clock_ms=None):
        self.register_wh = None
        self.power_w = None
        self._uart = uart
        self._ticks = clock_ms or time.ticks_ms
        self._rate = Rate(self.resolution_wh)
        self._buffer = b""
        self._telegram = b""
        self._since = 0

    def frame(self):
        """The entry of the register, or all."""
        return self._telegram[max(0, self._telegram.find(_ENTRY + _IMPORT)) :]

    def begin(self):
        self._since = self._ticks()
        return True

    def poll(self):
        """True with a new telegram. Raises METER_TIMEOUT, METER_CRC, METER_FRAME."""
        n = self._uart.any()
        if n:
            self._buffer += self._uart.read(n) or b""
            if self._take():
                self.register_wh = entry(self._telegram, _IMPORT, _WH)
                if self.register_wh is None:
                    raise ChargekeepError(METER_NOT_A_NUMBER, "1.8.0")
                power = self._rate.power_w(self.register_wh, self._ticks())
                told = entry(self._telegram, _POWER, _W)
                self.power_w = power if told is None else told
                return True
        if time.ticks_diff(self._ticks(), self._since) > _WAIT_MS:
            raise ChargekeepError(METER_TIMEOUT)
        return False

    def _take(self):
        # The first whole telegram of the buffer; what precedes it is a part of an earlier one.
        data = self._buffer
        start = data.find(_BEGIN)
        if start < 0:
            self._buffer = data[-7:]  # a beginning may be on its way
            return False
        end = self._end(data, start + len(_BEGIN))
        if end < 0:
            self._buffer = data[start:]
            if len(self._buffer) > _MOST:
                self._buffer = b""
                raise ChargekeepError(METER_FRAME, "too long")
            return False
        self._buffer = data[end:]
        self._telegram = whole = data[start:end]
        if not _whole(whole):
            # The end of the one before may have been lost.
            whole = whole[whole.rfind(_BEGIN) :]
            if not _whole(whole):
                raise ChargekeepError(METER_CRC)
        self._telegram = whole.replace(_ESCAPE + _ESCAPE, _ESCAPE)
        return True

    def _end(self, data, at):
        # Where the telegram ends, or -1. An escaped escape in the data is doubled.
        while True:
            at = data.find(_ESCAPE, at)
            if at < 0 or at + _TRAILER > len(data):
                return -1
            if data[at + 4] == _END[4]:
                return at + _TRAILER
            at += _TRAILER
