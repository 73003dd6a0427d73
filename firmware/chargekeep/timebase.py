# What time it is, how well that is known, and that it never goes back. The floor is a lower bound
# that only signed time, the build and what was persisted can raise; a station without any clock
# runs on from it, so that what has expired stays expired. Unsigned hints (NTP, an RTC) set the
# time where nothing signed does, and never the floor.

import time

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_UNKNOWN = const(0)  # quality, FORMATS.md section 3
_INFORMATIVE = const(1)
_RELATIVE = const(2)
_SYNCHRONIZED = const(3)

SOURCE_STATEMENT = const(1)  # of a clock-set record

_HOLD_S = const(86400)  # a signed time counts as synchronized this long: 9 s at 100 ppm of drift
_SLEW_S = const(300)  # a signed time this little behind is drift, so the clock waits for it
_EPOCH_2000 = 946684800  # unix seconds; the epoch of some ports


def unix_clock():
    """The port's own clock in unix seconds, whatever its epoch. Good for a hint."""
    return int(time.time()) + (_EPOCH_2000 if time.gmtime(0)[0] == 2000 else 0)


class Timebase:
    """Unix seconds from a tick counter in ms that may wrap, read at least every six days.

    `boot_id` and the floor come from the ledger, see `start`. `build_time` is a floor that gives
    no time. `ticks_ms` and `ticks_diff` stand in for those of `time`.
    """

    def __init__(self, build_time=0, ticks_ms=None, ticks_diff=None):
        self.ticks_ms = ticks_ms or time.ticks_ms
        self._diff = ticks_diff or time.ticks_diff
        self.boot_id = 0
        self.certain = False  # set in this boot, signed or not; else at best a lower bound
        self._build_time = build_time
        self._last_ticks = self.ticks_ms()
        self._fraction_ms = 0
        self._uptime_s = 0
        self._floor = None  # unix time at uptime 0 that is certainly not ahead
        self._base = None  # unix time at uptime 0 as last set
        self._signed_at = None  # uptime of the newest statement
        self._shown = 0  # highest time given out since the clock was set

    def start(self, boot_id, floor):
        """Take up boot id and persisted floor (unix seconds, 0: none) from the mounted ledger."""
        self.boot_id = boot_id
        if floor:
            self._floor = floor - self.uptime_s()
            if self._base is None or self._base < self._floor:
                self._base = self._floor
                self.certain = False

    def uptime_s(self):
        ticks = self.ticks_ms()
        passed = self._diff(ticks, self._last_ticks) + self._fraction_ms
        self._last_ticks = ticks
        self._uptime_s += passed // 1000
        self._fraction_ms = passed % 1000
        return self._uptime_s

    def floor(self):
        """Unix seconds that have certainly passed; what to persist in ledger counter 2."""
        uptime = self.uptime_s()
        return max(0 if self._floor is None else self._floor + uptime, self._build_time)

    def now(self):
        """Unix seconds, or None: unknown. Never goes back but from a hint to signed time."""
        uptime = self.uptime_s()
        if self._base is None:
            return None
        self._shown = max(self._shown, self._base + uptime)
        return self._shown

    @property
    def quality(self):
        if self._base is None:
            return _UNKNOWN
        if self._signed_at is None:
            return _INFORMATIVE if self.certain else _RELATIVE
        fresh = self.uptime_s() - self._signed_at <= _HOLD_S
        return _SYNCHRONIZED if fresh else _RELATIVE

    def stamp(self):
        """`[unix seconds or None, quality, boot id, uptime seconds]`, the start of a record."""
        return [self.now(), self.quality, self.boot_id, self._uptime_s]

    def state(self, unix_s):
        """Take signed time. Returns the time before (or None), raises TIME_STEP_BACK.

        A statement is a lower bound as well: one that was long under way sets the clock late.
        """
        old = self.now()
        bound = self.floor()
        if self._signed_at is not None:
            bound = max(bound, old)
        if unix_s < bound - _SLEW_S:
            raise ChargekeepError(errors.TIME_STEP_BACK, "%d s" % (bound - unix_s))
        self._signed_at = self._uptime_s
        self._base = self._floor = unix_s - self._uptime_s
        self._shown = bound
        self.certain = True
        return old

    def hint(self, unix_s):
        """Take unsigned time. False where signed time stands or it is below the floor."""
        if self._signed_at is not None or unix_s < self.floor():
            return False
        self._base = unix_s - self._uptime_s
        self._shown = unix_s
        self.certain = True
        return True
