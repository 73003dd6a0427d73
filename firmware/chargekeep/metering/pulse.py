# A meter with an S0 pulse output (IEC 62053-31, class A: a pulse lasts 30 ms or more). It only
# counts while the board is awake, so its register goes on from the last one in the ledger, and
# energy that flows while the board is dark is not seen: for stations whose relay then is open.

import time

from micropython import const

_SHORTEST_MS = const(30)  # edges closer than this are contact bounce
_IDLE_MS = const(60000)  # no pulse for so long is no power


class PulseMeter:
    """`pulse` is the interrupt handler of the pin; it allocates nothing.

    `per_kwh` is the number of pulses of a kilowatt-hour, as printed on the meter.
    """

    step_ms = 5
    rollover_wh = 0

    def __init__(self, per_kwh=1000, clock_ms=None):
        self.resolution_wh = (1000 + per_kwh - 1) // per_kwh
        self.pulses = 0
        self.register_wh = 0
        self.power_w = None
        self._per_kwh = per_kwh
        self._ticks = clock_ms or time.ticks_ms
        self._begin_wh = 0
        self._last_ms = 0
        self._apart_ms = 0  # between the last two pulses
        self._seen = 0

    def anchor(self, register_wh):
        """Go on from the register that was recorded last."""
        self._begin_wh = register_wh

    def pulse(self, pin=None):
        now = self._ticks()
        apart = time.ticks_diff(now, self._last_ms)
        if self.pulses and apart < _SHORTEST_MS:
            return
        self._apart_ms = apart if self.pulses else 0
        self._last_ms = now
        self.pulses += 1

    def begin(self):
        return True

    def poll(self):
        self.register_wh = self._begin_wh + self.pulses * 1000 // self._per_kwh
        since = time.ticks_diff(self._ticks(), self._last_ms)
        apart = self._apart_ms
        if not apart or since > _IDLE_MS:
            self.power_w = 0
        else:
            # Without a further pulse the power has sunk to at most one pulse in this time.
            self.power_w = 3600000000 // (self._per_kwh * max(apart, since))
        return True

    def frame(self):
        return b"%d" % self.pulses
