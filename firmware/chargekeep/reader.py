# Credential readers behind one contract: `await reader.read()` gives the next thing presented, as
# text that the policy takes: `CK1:` (a token), `UID:` (the serial number of a card) or an IdToken.
# This file has the line reader, for anything that sends a line of text: a QR scanner, a keypad, a
# terminal, also on the board's own USB serial line. Noise never ends it: what is no line of
# printable ASCII is counted and dropped.

import asyncio

from micropython import const

from chargekeep import errors

_MAX_LINE = const(600)
_POLL_MS = const(20)  # 600 bytes take 52 ms at 115200 baud; UART buffers hold 256 and more
_SPACE = const(0x20)
_TILDE = const(0x7E)


class LineReader:
    """Lines ended by CR or LF on `uart` (`any()`, `read(n)`, as machine.UART)."""

    def __init__(self, uart, health):
        self._uart = uart
        self._health = health
        self._line = bytearray()
        self._bad = False

    async def read(self):
        """The next line, without its end and outer spaces; never empty."""
        while True:
            while self._uart.any():
                # One byte at a time: what follows the line stays in the UART's buffer
                data = self._uart.read(1)
                text = data and self._take(data[0])
                if text:
                    return text
            await asyncio.sleep_ms(_POLL_MS)

    def _take(self, byte):
        if byte not in (0x0A, 0x0D):
            if len(self._line) >= _MAX_LINE or not _SPACE <= byte <= _TILDE:
                self._bad = True
            else:
                self._line.append(byte)
            return None
        text = self._line.decode().strip()
        bad = self._bad
        self._line = bytearray()
        self._bad = False
        if bad:
            self._health.count(errors.TOKEN_FORM, "reader")
            return None
        return text


class Console:
    """The board's own serial line (USB on most) in place of a UART, for bench and installers.

    Ctrl-C still ends the program: nothing that is typed can lock an installer out.
    """

    def __init__(self):
        import select
        import sys

        self._poll = select.poll()
        self._poll.register(sys.stdin, select.POLLIN)
        self._in = sys.stdin.buffer
        self._out = sys.stdout.buffer

    def any(self):
        return len(self._poll.poll(0))

    def read(self, n):
        return self._in.read(1)

    def write(self, data):
        return self._out.write(data)
