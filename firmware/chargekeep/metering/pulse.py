# A meter with an S0 pulse output (IEC 62053-31, class A: a pulse lasts 30 ms or more). The pulses
# are counted by the board, and only while it is awake, so the register goes on from the last one
# in the ledger: a power cut costs what came since that record (50 Wh or less, in a transaction
# also 10 s or less) and what flows while the board is dark. Pick another meter to bill by where
# that is too much.

import time

from micropython import const

from chargekeep.metering.rate import Rate

_SHORTEST_MS = const(30)  # edges closer than this are contact bounce


class PulseCounter:
    """Counts the interrupts of a `pin` like machine.Pin, for boards whose hardware does not
    count. `wiring`: `active` (level of a pulse, default 1) and `debounce_ms`."""

    def __init__(self, pin, wiring, clock_ms=None):
        self._debounce_ms = wiring.get("debounce_ms", _SHORTEST_MS)
        self._ticks = clock_ms or time.ticks_ms
        self._count = 0
        self._last_ms = 0
        edge = pin.IRQ_RISING if wiring.get("active", 1) else pin.IRQ_FALLING
        try:
            pin.irq(self._pulse, edge, hard=True)  # nothing that takes long holds it up
        except TypeError:  # this port has only soft ones
            pin.irq(self._pulse, edge)

    def _pulse(self, pin):
        # A hard interrupt must not allocate.
        now = self._ticks()
        if self._count and 0 <= time.ticks_diff(now, self._last_ms) < self._debounce_ms:
            return
        self._last_ms = now
        self._count += 1

    def value(self):
        return self._count


class PulseMeter:
    """The meter contract of the sampler. `counter` has value(), the pulses since boot.

    `per_kwh` is the number of pulses of a kilowatt-hour, as printed on the meter, and `begin_wh`
    the register of a station that has none recorded yet.
    """

    step_ms = 5
    cycle_ms = 1000
    rollover_wh = 0

    def __init__(self, counter, per_kwh=1000, begin_wh=0, clock_ms=None):
        self.resolution_wh = (1000 + per_kwh - 1) // per_kwh
        self.register_wh = begin_wh
        self.power_w = None
        self._counter = counter
        self._per_kwh = per_kwh
        self._ticks = clock_ms or time.ticks_ms
        self._rate = Rate(self.resolution_wh)
        self._begin_wh = begin_wh

    def anchor(self, register_wh):
        """Go on from the register that was recorded last."""
        self._begin_wh = register_wh

    def begin(self):
        return True

    def poll(self):
        self.register_wh = self._begin_wh + self._counter.value() * 1000 // self._per_kwh
        self.power_w = self._rate.power_w(self.register_wh, self._ticks())
        return True

    def frame(self):
        return b"%d" % self._counter.value()
