# Meters with an optical or RS-485 port that speak IEC 62056-21 mode C: a request at 300 baud, an
# identification that offers a faster rate, and a data readout as text with a block check. One
# readout takes seconds, so it is read every 10 s only.

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

_ACK = "\x06"
_BAUDRATES = b"0123456"  # 300 to 19,200: section 6.3.14, mode C identification
_BEGIN_BAUDRATE = const(300)
_REACTION_MS = const(1500)  # section 6.5: the meter answers within 200 to 1,500 ms
_READOUT_MS = const(20000)
_MOST = const(4096)  # bytes of a readout

_OFF = const(0)
_IDENTIFYING = const(1)
_ACKNOWLEDGING = const(2)
_READING = const(3)


def even_parity(text):
    """Characters with bit 7 as even parity: 7E1 on a UART that is set to 8N1 (section 5.1.1)."""
    data = bytearray(text.encode())
    for i, c in enumerate(data):
        p = c ^ c >> 4
        p ^= p >> 2
        data[i] = c | ((p ^ p >> 1) & 1) << 7
    return data


def quantity(text, unit):
    """Thousandths of `unit` from a value such as `000180.200*kWh`; None if it is none.

    The unit may be the base unit, or that with a k before it.
    """
    number, _, found = text.partition("*")
    whole, _, fraction = number.strip().partition(".")
    digits = whole + fraction
    if not digits or not all("0" <= c <= "9" for c in digits):
        return None
    if found not in (unit, "k" + unit):
        return None
    places = 6 if found != unit else 3
    scaled = int(digits) * 10**places // 10 ** len(fraction)
    return scaled


def find(readout, obis):
    """The text in brackets after an OBIS code (`1.8.0`, also as `1-0:1.8.0*255`), or None."""
    for line in readout.split("\r\n"):
        code, bracket, rest = line.partition("(")
        code = code.partition("*")[0]
        if bracket and (code == obis or code.endswith(":" + obis)):
            return rest.partition(")")[0]
    return None


class Iec62056Meter:
    """The meter contract of the sampler. `set_baudrate(rate)` changes the UART's speed."""

    step_ms = 20
    cycle_ms = 10000
    rollover_wh = 0
    resolution_wh = 10

    def __init__(self, uart, set_baudrate, clock_ms=None, address=""):
        self.register_wh = None
        self.power_w = None
        self.identification = ""
        self._uart = uart
        self._set_baudrate = set_baudrate
        self._ticks = clock_ms or time.ticks_ms
        self._address = address
        self._rate = Rate(self.resolution_wh)
        self._state = _OFF
        self._buffer = bytearray()
        self._since = 0
        self._wait_ms = 0
        self._baudrate = _BEGIN_BAUDRATE

    def frame(self):
        """The line of the register, or all."""
        return bytes(self._buffer[max(0, self._buffer.find(b"1.8.0(")) :])

    def begin(self):
        while self._uart.any():
            self._uart.read(64)
        self._set_baudrate(_BEGIN_BAUDRATE)
        self._buffer = bytearray()
        self._send("/?%s!\r\n" % self._address)
        # The request itself takes 33 ms a character.
        self._go(_IDENTIFYING, 34 * (5 + len(self._address)) + _REACTION_MS + 34 * 23)
        return True

    def _send(self, text):
        self._uart.write(even_parity(text))

    def _go(self, state, wait_ms):
        self._state = state
        self._since = self._ticks()
        self._wait_ms = wait_ms

    def poll(self):
        """True with a new readout. Raises METER_TIMEOUT, METER_CRC, METER_FRAME, NOT_A_NUMBER."""
        if self._state == _ACKNOWLEDGING:
            if self._passed() >= self._wait_ms:
                self._set_baudrate(self._baudrate)
                self._buffer = bytearray()
                self._go(_READING, _READOUT_MS)
            return False
        n = self._uart.any()
        if n:
            for c in self._uart.read(n) or b"":
                self._buffer.append(c & 0x7F)
        if len(self._buffer) > _MOST:
            raise ChargekeepError(METER_FRAME, "too long")
        if self._state == _IDENTIFYING:
            self._identify()
        elif self._state == _READING and self._complete():
            self._state = _OFF
            self._interpret()
            return True
        if self._passed() > self._wait_ms:
            self._state = _OFF
            raise ChargekeepError(METER_TIMEOUT)
        return False

    def _passed(self):
        return time.ticks_diff(self._ticks(), self._since)

    def _identify(self):
        # `/XXXZ identification`: three letters of the maker, Z the baud rate it offers. An
        # optical head may echo our request before it.
        text = bytes(self._buffer)
        start = text.rfind(b"/")
        end = text.find(b"\r\n", start)
        if start < 0 or end < 0 or text[start + 1 : start + 2] == b"?":
            return
        offered = _BAUDRATES.find(text[start + 4 : start + 5])
        if offered < 0:
            self._state = _OFF
            raise ChargekeepError(METER_FRAME, "identification")
        self.identification = text[start + 1 : end].decode()
        self._baudrate = _BEGIN_BAUDRATE << offered
        # Acknowledge: normal protocol, the offered rate, data readout; sent at 300 baud.
        self._send("%s0%d0\r\n" % (_ACK, offered))
        self._go(_ACKNOWLEDGING, 34 * 6)

    def _complete(self):
        end = self._buffer.rfind(b"\x03")
        return end >= 0 and end + 1 < len(self._buffer)

    def _interpret(self):
        data = self._buffer
        start = data.find(b"\x02")
        end = data.rfind(b"\x03")
        if not 0 <= start < end:
            raise ChargekeepError(METER_FRAME, "readout")
        check = 0
        for i in range(start + 1, end + 1):
            check ^= data[i]
        if check != data[end + 1]:
            raise ChargekeepError(METER_CRC)
        text = bytes(data[start + 1 : end]).decode()
        energy = quantity(find(text, "1.8.0") or "", "Wh")
        if energy is None:
            raise ChargekeepError(METER_NOT_A_NUMBER, "1.8.0")
        power = quantity(find(text, "16.7.0") or find(text, "1.7.0") or "", "W")
        self.register_wh = energy // 1000
        rate = self._rate.power_w(self.register_wh, self._since)
        self.power_w = rate if power is None else power // 1000
