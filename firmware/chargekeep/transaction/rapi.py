# OpenEVSE and compatibles over RAPI ("Remote API" of the open_evse firmware, 115,200 8N1):
# `$FE` permits, `$FS` (sleep) withdraws, `$SC` sets the current, `$GS` tells the state. Lines end
# with a carriage return and carry an XOR checksum after `^`.

import time

from micropython import const

from chargekeep.transaction.remote import CHARGING, CONNECTED, NO_CAR, Remote

_REPLY_MS = const(300)
_LONGEST = const(64)

# EVSE states of the protocol; from 4 on faults, 0xFE asleep and 0xFF disabled.
_STATES = {1: NO_CAR, 2: CONNECTED, 3: CHARGING}
_ASLEEP = (0xFE, 0xFF)


def line(command):
    """`$command^xk\\r`: xk is the XOR of all characters before `^`, in hexadecimal."""
    check = 0
    for c in "$" + command:
        check ^= ord(c)
    return b"$%s^%02X\r" % (command.encode(), check)


def answer(data):
    """Words of a reply line without its end, or None where it is damaged."""
    body, mark, check = data.partition(b"^")
    if not body.startswith(b"$"):
        return None
    if mark:
        xor = 0
        for c in body:
            xor ^= c
        if check.upper() != b"%02X" % xor:
            return None
    return body[1:].split(b" ")


class Rapi(Remote):
    """An OpenEVSE on `uart`. While it sleeps it does not tell whether a car is there."""

    def __init__(self, uart, health, max_a=16, phases=1, clock_ms=None):
        self._uart = uart
        self._buffer = b""
        self._sent_ms = 0
        self._commands = []  # of the step under way
        self._asking = False
        super().__init__(health, max_a, phases, clock_ms=clock_ms)
        self.withdraw()

    def _tell(self, permitted, amps):
        # Withdrawing comes first and alone: it must not wait for anything.
        self._commands = ["SC %d" % amps, "FE"] if permitted else ["FS"]
        self._asking = False
        return self._next()

    def _ask(self):
        self._commands = ["GS"]
        self._asking = True
        return self._next()

    def _next(self):
        while self._uart.any():
            self._uart.read(_LONGEST)
        self._buffer = b""
        self._uart.write(line(self._commands.pop(0)))
        self._sent_ms = self._ticks()
        return True

    def _answered(self):
        if self._uart.any():
            self._buffer = (self._buffer + (self._uart.read(_LONGEST) or b""))[-_LONGEST:]
        while b"\r" in self._buffer:
            data, _, self._buffer = self._buffer.partition(b"\r")
            words = answer(data.strip())
            if words is None or words[0] not in (b"OK", b"NK"):
                continue  # `$ST` and others come by themselves
            if words[0] == b"NK":
                return False
            if self._asking:
                return self._state(words)
            if self._commands:
                self._next()
                return None
            return True
        if time.ticks_diff(self._ticks(), self._sent_ms) > _REPLY_MS:
            return False
        return None

    def _state(self, words):
        # `$OK state elapsed ...`; the state is hexadecimal from protocol version 2 on, and
        # decimal before, which is the same for all states but sleep and disabled.
        try:
            state = int(words[1], 16)
        except (IndexError, ValueError):
            return False
        if state in (0x254, 0x255):
            state -= 0x156
        if state in _ASLEEP:
            self.pilot = CONNECTED if not self.permitted else None
        else:
            self.pilot = _STATES.get(state)
        return True

    def vehicle(self):
        return super().vehicle() if self.permitted else None
