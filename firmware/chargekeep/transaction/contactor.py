# Watches that the contactor does what it is told: by its feedback input, and by the meter, which
# must not count while it is open.

import time

from micropython import const

from chargekeep.errors import ACTUATOR_FEEDBACK

_FEEDBACK_MS = const(500)  # a contactor may take this long to follow
_LEAK_MS = const(5000)  # energy this long after withdrawing is a leak ...
_LEAK_WH = const(5)  # ... from this much a minute on (300 W; the EVSE itself takes less)
_MINUTE_MS = const(60000)


class Contactor:
    """`opened_ms` is when power was last withdrawn."""

    def __init__(self, actuator, sampler, health):
        self.opened_ms = 0
        self._actuator = actuator
        self._sampler = sampler
        self._health = health
        self._open_wh = None  # register while open, taken once a minute,
        self._open_ms = 0  # and when
        self._disagrees_ms = None  # since when feedback and permission differ
        self._told = False  # that it did not close

    def withdraw(self, now):
        self._actuator.withdraw()
        self.opened_ms = now
        self._open_wh = None

    def forget(self):
        """Hold nothing that was read before against the contactor."""
        self._open_wh = None

    def sticks(self, now):
        """Has it been closed for too long without permission?"""
        closed = self._actuator.feedback()
        if closed is None or closed == self._actuator.permitted:
            self._disagrees_ms = None
            self._told = False
            return False
        if self._disagrees_ms is None:
            self._disagrees_ms = now
        if time.ticks_diff(now, self._disagrees_ms) < _FEEDBACK_MS:
            return False
        if not closed and not self._told:  # no danger, but no charging either
            self._told = True
            self._health.count(ACTUATOR_FEEDBACK, "open")
        return closed

    def leak_wh(self):
        """Energy that flowed while open, from an amount on that no EVSE takes itself; else 0."""
        sampler = self._sampler
        at = sampler.read_ms
        if self._actuator.permitted or time.ticks_diff(at, self.opened_ms) < _LEAK_MS:
            return 0
        if self._open_wh is None or time.ticks_diff(at, self._open_ms) > _MINUTE_MS:
            self._open_wh = sampler.register_wh
            self._open_ms = at
        leak = sampler.register_wh - self._open_wh
        return leak if leak >= max(_LEAK_WH, 2 * sampler.resolution_wh) else 0
