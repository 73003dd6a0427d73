# Power from the register alone, for meters that tell no power: the average since the register
# moved about ten seconds ago and, while it stands still, no more than its next step would be.

import time

from micropython import const

_WINDOW_MS = const(9000)


class Rate:
    """Of a register with steps of `step_wh`. It is to be told each reading."""

    def __init__(self, step_wh):
        self._step_wh = step_wh
        self._power_w = 0
        self._wh = None  # where the window begins, and when
        self._ms = 0

    def power_w(self, wh, now):
        """Watts at the register `wh`, read at ticks `now`."""
        ms = time.ticks_diff(now, self._ms)
        if self._wh is None or wh < self._wh or ms < 0:
            self._power_w = 0
        elif wh == self._wh:
            return min(self._power_w, self._step_wh * 3600000 // max(ms, 1))
        elif ms < _WINDOW_MS:
            return self._power_w
        else:
            self._power_w = (wh - self._wh) * 3600000 // ms
        self._wh = wh
        self._ms = now
        return self._power_w
