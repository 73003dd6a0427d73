# Keeps every part of the firmware running: restarts a part that fails, counts why, and feeds the
# hardware watchdog only while every watched part makes progress. A part that hangs therefore
# restarts the board.

import asyncio

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_FEED_MS = const(500)
_RESTART_MS = const(1000)


class Supervisor:
    """`watchdog` has feed(); `health.count(code, detail)` is told of every failure."""

    def __init__(self, watchdog, health, ticks_ms, ticks_diff):
        self._watchdog = watchdog
        self._health = health
        self._ticks_ms = ticks_ms
        self._ticks_diff = ticks_diff
        self._parts = []
        self._watched = []  # [name, probe, deadline_ms, last value, ticks of its last change]
        self.stalled = None

    def add(self, name, run):
        """Run the coroutine function `run()` for ever; after a failure it starts again."""
        self._parts.append((name, run))

    def watch(self, name, probe, deadline_ms):
        """The value of `probe()` must change within `deadline_ms`, or the watchdog starves."""
        self._watched.append([name, probe, deadline_ms, None, self._ticks_ms()])

    async def _keep(self, name, run):
        while True:
            try:
                await run()
            except ChargekeepError as e:
                self._health.count(e.code, e.detail)
            except MemoryError:
                self._health.count(errors.MEMORY, name)
            except Exception as e:
                self._health.count(errors.UNEXPECTED, "%s: %r" % (name, e))
            await asyncio.sleep_ms(_RESTART_MS)

    def check(self):
        """Feed the watchdog if all parts progress; else remember the name of one that does not."""
        now = self._ticks_ms()
        self.stalled = None
        for part in self._watched:
            value = part[1]()
            if value != part[3]:
                part[3] = value
                part[4] = now
            elif self._ticks_diff(now, part[4]) > part[2]:
                self.stalled = part[0]
        if self.stalled is None:
            self._watchdog.feed()

    async def run(self):
        self._tasks = [asyncio.create_task(self._keep(*part)) for part in self._parts]
        while True:
            self.check()
            await asyncio.sleep_ms(_FEED_MS)
