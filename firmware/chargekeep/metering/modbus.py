# A Modbus RTU master that never blocks: `begin` writes a request, `poll` looks at what has come
# since, and a reply is believed only if address, function, length and CRC are those of the
# request. A cycle allocates nothing; a failure raises with a code.

import time

from micropython import const

from chargekeep.errors import (
    METER_CRC,
    METER_EXCEPTION,
    METER_FRAME,
    METER_TIMEOUT,
    ChargekeepError,
)

# Function codes (Modbus Application Protocol V1.1b3, section 6).
READ_HOLDING = const(3)
READ_INPUT = const(4)
WRITE_COIL = const(5)
WRITE_REGISTER = const(6)
WRITE_REGISTERS = const(16)  # of one register here

_EXCEPTION = const(0x80)  # section 7: function code of an exception response
_MAX_REGISTERS = const(125)  # section 6.3
_BUFFER = const(300)  # the longest frame is 256 bytes; the rest is for echo and noise
_BITS = const(11)  # start, 8 data, parity or second stop, stop (serial line V1.02, section 2.5.1)

_IDLE = const(0)
_SENDING = const(1)  # only with a direction pin, until the last stop bit has left
_WAITING = const(2)

# CRC-16 of section 6.2.2 (polynomial 0xA001 reflected), four bits at a time.
_NIBBLES = (
    0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401,
    0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01, 0x8801, 0x4400,
)  # fmt: skip


def crc16(buf, start, end):
    """CRC of `buf[start:end]` as an integer; on the wire its low byte comes first."""
    crc = 0xFFFF
    nibbles = _NIBBLES
    for i in range(start, end):
        crc ^= buf[i]
        crc = (crc >> 4) ^ nibbles[crc & 15]
        crc = (crc >> 4) ^ nibbles[crc & 15]
    return crc


class Master:
    """One RS-485 bus.

    `uart` has any, readinto and write, and none of them waits. `direction` is called with 1
    before a request and 0 after its last bit (None: the transceiver switches by itself).
    `reply_ms` is the longest silence allowed before a reply begins. After a good `poll`, `frame`
    holds the reply and its data are the `size` bytes from `start`, until the next `begin`.
    """

    def __init__(self, uart, baudrate=9600, clock_ms=None, direction=None, reply_ms=200):
        self.frame = bytearray(_BUFFER)
        self.start = 0
        self.size = 0
        self.requests = 0
        self.replies = 0
        self.strays = 0  # bytes that came while nothing was asked
        self.echo = False  # learned: the adapter returns what we send
        self.exception = 0  # code of the last exception response
        self.received = 0  # bytes in `frame`, for evidence of a doubtful reply
        self._uart = uart
        self._ticks = clock_ms or time.ticks_ms
        self._direction = direction
        self._reply_ms = reply_ms
        self._byte_us = _BITS * 1000000 // baudrate
        # Section 2.5.1.1: 3.5 characters of silence part two frames, 1.75 ms from 19,200 baud
        # on. USB adapters deliver in lumps of up to 16 ms, so a frame is over after 20 ms.
        self._gap_ms = max(2, self._byte_us * 7 // 2000 + 1)
        self._lump_ms = 20
        self._request = bytearray(11)
        self._short = memoryview(self._request)[:8]
        self._writes = False  # the request changes something; its reply has 8 bytes
        self._length = 8
        self._scratch = bytearray(32)
        self._state = _IDLE
        self._quiet_since = self._ticks()  # last time the line was busy
        self._quiet_ms = 0
        self._sent = 0
        self._send_ms = self._deadline_ms = 0

    @property
    def busy(self):
        return self._state != _IDLE

    @property
    def step_ms(self):
        """How soon `poll` is best called again."""
        return 1 if self._state == _SENDING else 5

    def begin(self, address, function, register, count):
        """Send a request; `count` is the value for a write (WRITE_COIL: 0xFF00 is on).

        False, and nothing is sent, while the bus is in use or has not been silent long enough.
        """
        if self._state != _IDLE:
            return False
        now = self._ticks()
        if self._drain():
            self._quiet_since = now
        if time.ticks_diff(now, self._quiet_since) < self._quiet_ms:
            return False
        self._writes = function >= WRITE_COIL
        if not self._writes and not 1 <= count <= _MAX_REGISTERS:
            raise ChargekeepError(METER_FRAME, "count")
        r = self._request
        r[0] = address
        r[1] = function
        r[2] = register >> 8
        r[3] = register & 0xFF
        r[4] = count >> 8
        r[5] = count & 0xFF
        if function == WRITE_REGISTERS:
            r[7] = r[4]
            r[8] = r[5]
            r[4] = 0
            r[5] = 1  # register ...
            r[6] = 2  # ... of two bytes
        self._length = 11 if function == WRITE_REGISTERS else 8
        crc = crc16(r, 0, self._length - 2)
        r[self._length - 2] = crc & 0xFF
        r[self._length - 1] = crc >> 8
        self.size = 4 if self._writes else 2 * count
        self.received = 0
        self.requests += 1
        self._state = _WAITING
        if self._direction:
            self._direction(1)
            self._state = _SENDING
        self._uart.write(r if self._length > 8 else self._short)
        self._sent = self._quiet_since = now
        self._send_ms = self._length * self._byte_us // 1000 + 1
        self._deadline_ms = self._reply_ms + (self.size + 20) * self._byte_us // 1000 + 1
        return True

    def poll(self):
        """True once the reply is in `frame`; False while it may still come.

        Raises METER_TIMEOUT (silence), METER_CRC, METER_EXCEPTION or METER_FRAME (an answer,
        but not to this question).
        """
        now = self._ticks()
        waited = time.ticks_diff(now, self._sent)
        if self._state == _SENDING:
            if waited < self._send_ms:
                return False
            if self._direction:
                self._direction(0)
            self._state = _WAITING
        elif self._state == _IDLE:
            return False
        if self._receive():
            self._quiet_since = now
            start = self._find()
            if start >= 0:
                self.start = start
                self._finish(now, self._gap_ms)
                self.replies += 1
                return True
        silent = time.ticks_diff(now, self._quiet_since)
        if waited < self._deadline_ms:
            whole = self.received >= self._expected(self._skip())
            if not whole or silent < self._lump_ms:
                return False
        elif silent < self._lump_ms and self.received < _BUFFER and waited < 2 * self._deadline_ms:
            return False  # something is still coming in
        return self._fail(now)

    def _fail(self, now):
        received = self.received - self._skip()
        # What answers too late must not pass for the answer to the next request.
        self._finish(now, self._gap_ms + (0 if received else 50))
        code = METER_FRAME
        if not received:
            code = METER_TIMEOUT
        elif self._match(self._skip()):
            code = METER_CRC
        raise self._error(code)

    def _error(self, code):
        return ChargekeepError(code, "address %d" % self._request[0])

    def _finish(self, now, quiet_ms):
        self._state = _IDLE
        self._quiet_since = now
        self._quiet_ms = quiet_ms

    def _drain(self):
        n = self._uart.any()
        if n:
            while self._uart.readinto(self._scratch):
                pass
            self.strays += n
        return n

    def _receive(self):
        got = 0
        scratch = self._scratch
        while self._uart.any():
            n = self._uart.readinto(scratch)
            if not n:
                break
            n = min(n, _BUFFER - self.received)
            for i in range(n):
                self.frame[self.received + i] = scratch[i]
            self.received += n
            got += n
            if not n:  # a babbling line: let the deadline end it
                self._drain()
                break
        return got

    def _skip(self):
        # Bytes of our own request at the front, as half-duplex adapters give them back.
        n = self._length
        if self.received < n:
            return 0
        for i in range(n):
            if self.frame[i] != self._request[i]:
                return 0
        if self._writes and n == 8 and not self.echo:
            return 0  # the reply to such a write is its repetition
        return n

    def _expected(self, start):
        return start + (8 if self._writes else 5 + self.size)

    def _match(self, i):
        # Does a reply to the request, good or an exception, begin at `i`?
        f = self.frame
        r = self._request
        if i + 5 > self.received or f[i] != r[0]:
            return False
        if f[i + 1] == r[1] | _EXCEPTION:
            return True
        if f[i + 1] != r[1]:
            return False
        if self._writes:
            return f[i + 2] == r[2] and f[i + 3] == r[3]
        return f[i + 2] == self.size

    def _find(self):
        # Offset of the data of a whole, valid reply, or -1. Noise may come before it.
        f = self.frame
        skip = self._skip()
        for i in range(skip, self.received - 4):
            if not self._match(i):
                continue
            failed = f[i + 1] & _EXCEPTION
            end = i + 3 if failed else self._expected(i) - 2
            if end + 2 > self.received:
                continue
            if crc16(f, i, end) != f[end] | f[end + 1] << 8:
                continue
            if skip and not failed:
                self.echo = True
            if failed:
                self.exception = f[i + 2]
                self._finish(self._ticks(), self._gap_ms)
                raise self._error(METER_EXCEPTION)
            return i + (2 if self._writes else 3)
        return -1
