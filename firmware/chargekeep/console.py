# Takes the host's questions from the board's own serial line (USB on most) while the charger runs.
# A line `?name arguments` gets lines of JSON whose `re` is the name (answers.py); everything else
# is left alone.

import asyncio
import select
import sys

from micropython import const

from chargekeep import borrow

_POLL_MS = const(50)
_LINE = const(64)  # bytes of a question


class Service:
    """`app` is the App that is asked; reads `stdin`, prints answers."""

    def __init__(self, app, stdin=None):
        self._app = app
        self._in = stdin or sys.stdin.buffer
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._line = bytearray()
        self._skip = False

    async def run(self):
        """Serve until the line is closed."""
        while True:
            while self._poll.poll(0):
                byte = self._in.read(1)
                if not byte:
                    while True:  # nobody can come back on a closed line
                        await asyncio.sleep(3600)
                self._take(byte[0])
            await asyncio.sleep_ms(_POLL_MS)

    def _take(self, byte):
        if byte in b"\r\n":
            line, self._line = bytes(self._line), bytearray()
            skip, self._skip = self._skip, False
            if line[:1] == b"?" and not skip:
                self.answer(line[1:])
        elif len(self._line) < _LINE:
            self._line.append(byte)
        else:
            self._skip = True

    def answer(self, line):
        """Print what is asked for by `line` (bytes, without the question mark)."""
        borrow("chargekeep.answers").answer(self._app, line)
