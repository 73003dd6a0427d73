# Reads a meter once a cycle (a second; slow meters have their own) and decides which readings to
# believe. Only a plausible reading becomes the sample: what is no number, goes back or jumps is
# read again, and only a change that stays becomes a segment (reset, rollover, exchange). No sample
# is ever invented: it is None until the first reading that a second one confirms. A cycle without
# errors allocates nothing.

import time

from micropython import const

from chargekeep.errors import (
    METER_DECREASED,
    METER_JUMP,
    METER_NOT_A_NUMBER,
    METER_STALE,
    ChargekeepError,
)

# Reasons of a meter segment (FORMATS.md section 4, record 11).
RESET = const(1)
ROLLOVER = const(2)
EXCHANGE = const(3)

_RETRIES = const(3)
_SLACK_WH = const(20)  # at least; and two steps of a coarse register
_CONFIRM_FIRST_MS = const(200)  # a first reading needs one more that fits it
_CONFIRM_MS = const(3000)  # a jump or a decrease has to stay this long ...
_CONFIRM_ZERO_MS = const(30000)  # ... and 0 longer: meters report it while they start
_RESET_WH = const(1000)  # a meter that starts over is found below this
_FAULT_CYCLES = const(5)  # without a sample for so many, the meter has failed
_EPISODE_CYCLES = const(900)  # doubts less far apart are of one episode
_RAW = const(128)  # bytes of evidence


class Sampler:
    """Samples `meter` (begin, poll, register_wh, power_w, step_ms, cycle_ms, rollover_wh,
    resolution_wh, frame; `pushes` where it speaks by itself).

    Every doubt and failure is told to `health.count(code, detail)`. `max_power_w` bounds what
    the register can gain (times 1.1). `on_segment(old_wh, new_wh, reason)` is called when the
    register went on elsewhere: the old meter ended at old_wh, the new one began at new_wh; it
    returns False where that could not be recorded yet.
    `fault` is 0 or the code of why there is no sample younger than five cycles, `doubt` 0 or the
    code under which newer readings are not believed yet. `evidence` is
    (code, register or None, raw reply) of the first doubtful reading of an episode, until whoever
    records it sets it to None.
    """

    def __init__(
        self,
        meter,
        health,
        clock_ms=None,
        max_power_w=25000,
        on_segment=None,
    ):
        self.meter = meter
        self.max_power_w = max_power_w
        self.on_segment = on_segment
        self.register_wh = None  # of the sample
        self.power_w = None
        self.read_ms = 0
        self.samples = 0  # how many were accepted; changes with every new one
        self.cycles = 0
        self.good_cycles = 0
        self.evidence = None
        self._doubted = -_EPISODE_CYCLES  # `cycles` at the last doubtful reading
        self._health = health
        self._last_error = 0
        self._ticks = clock_ms or time.ticks_ms
        self.cycle_ms = meter.cycle_ms
        self.resolution_wh = meter.resolution_wh
        self._pushed = getattr(meter, "pushes", False)
        self._slack_wh = max(_SLACK_WH, 2 * meter.resolution_wh)
        self._start_ms = self._due = self._ticks()
        self._reading = False
        self._begun = False
        self._begun_ms = 0
        self._attempt = 0
        self._last_wh = None  # the register all readings are held against
        self._timed = False  # and whether read_ms tells when it was read
        self.doubt = 0  # code of the doubt under which the candidate stands
        self._candidate_wh = None  # the reading that may start a segment
        self._latest_wh = 0  # and the newest one that fits it
        self._candidate_ms = self._latest_ms = 0

    @property
    def sample(self):
        """(register_wh, power_w or None, ticks_ms of the reading), or None before the first."""
        return (self.register_wh, self.power_w, self.read_ms) if self.samples else None

    def age_ms(self):
        """How old the sample is; without one, how long there has been none."""
        return time.ticks_diff(self._ticks(), self.read_ms if self.samples else self._start_ms)

    @property
    def fault(self):
        if self.age_ms() <= _FAULT_CYCLES * self.cycle_ms:
            return 0
        return self._last_error or METER_STALE

    def anchor(self, register_wh):
        """Tell the last register known from before the boot, so that less than it is doubted."""
        if not self.samples:
            self._last_wh = register_wh
            if hasattr(self.meter, "anchor"):
                self.meter.anchor(register_wh)  # a pulse counter has no register of its own

    def step(self):
        """Do what is due; the milliseconds until the next call."""
        now = self._ticks()
        if self._reading:
            return self._read(now)
        wait = time.ticks_diff(self._due, now)
        if wait > 0:
            return min(wait, 100)
        late = -wait // self.cycle_ms  # cycles that a busy bus or a stall has cost
        self.cycles += 1 + late
        self._due = time.ticks_add(self._due, (late + 1) * self.cycle_ms)
        self._attempt = 0
        self._reading = True
        self._begun = False
        return self._read(now)

    def _read(self, now):
        try:
            if not self._begun:
                self._begun = self.meter.begin()
                self._begun_ms = now
                if not self._begun and time.ticks_diff(now, self._due) >= 0:
                    self._reading = False
                    if self._attempt == 0:
                        self._count(METER_STALE)  # the bus was never free
                return 2
            if not self.meter.poll():
                return self.meter.step_ms
        except ChargekeepError as e:
            self._count(e.code, e.detail)
            if e.code == METER_NOT_A_NUMBER:
                self._doubt_of(e.code, None)
            return self._again()
        if self._pushed:
            self._due = now  # the next one comes when it comes
        else:
            now = self._begun_ms  # the register is not younger than the question
        return self._judge(now)

    def _again(self):
        self._attempt += 1
        self._begun = False
        self._reading = self._attempt <= _RETRIES
        return 2

    def _count(self, code, detail=""):
        self._health.count(code, detail)
        self._last_error = code

    def _judge(self, now):
        wh = self.meter.register_wh
        code = self._doubtful(wh, now)
        if code:
            if code != self.doubt or self._attempt == 0:
                self._count(code, wh)
                self._doubt_of(code, wh)
            if not self._confirmed(code, wh, now):
                return self._again()
            if not self._segment(code):
                return self._again()
        elif self._last_wh is None or not self.samples:
            if not self._confirmed(0, wh, now):
                return self._again()
        self._accept(wh, now)
        return 2

    def _doubt_of(self, code, wh):
        if self.cycles - self._doubted >= _EPISODE_CYCLES:
            self.evidence = (code, wh, self.meter.frame()[:_RAW])
        self._doubted = self.cycles

    def _doubtful(self, wh, now):
        if self._last_wh is None:
            return 0
        if wh < self._last_wh:
            return METER_DECREASED
        if self._timed and wh - self._last_wh > self._gain_wh(time.ticks_diff(now, self.read_ms)):
            return METER_JUMP
        return 0

    def _gain_wh(self, ms):
        # 1.1 times the most that can have flowed: W * ms * 1.1 / 3,600,000.
        return self.max_power_w * ms // 3272727 + self._slack_wh

    def _confirmed(self, code, wh, now):
        # A candidate is confirmed by readings that go on from it, long enough.
        first = self._candidate_wh
        if (
            first is None
            or code != self.doubt
            or not 0
            <= wh - self._latest_wh
            <= self._gain_wh(time.ticks_diff(now, self._latest_ms))
        ):
            self._candidate_wh = wh
            self._candidate_ms = now
        self.doubt = code
        self._latest_wh = wh
        self._latest_ms = now
        needed = _CONFIRM_MS if code else _CONFIRM_FIRST_MS
        if self._candidate_wh == 0:
            needed = _CONFIRM_ZERO_MS
        return time.ticks_diff(now, self._candidate_ms) >= needed

    def _segment(self, code):
        old = self._last_wh
        new = self._candidate_wh
        reason = EXCHANGE
        rollover = self.meter.rollover_wh
        if code == METER_DECREASED:
            if rollover and rollover - old + new <= _RESET_WH:
                reason = ROLLOVER
                old = rollover
                new = 0
            elif new < _RESET_WH:
                reason = RESET
        return self.on_segment(old, new, reason) if self.on_segment else True

    def _accept(self, wh, now):
        self._candidate_wh = None
        self.doubt = 0
        self.register_wh = self._last_wh = wh
        self.power_w = self.meter.power_w
        self.read_ms = now
        self._timed = True
        self.samples += 1
        self.good_cycles += 1
        self._last_error = 0
        self._reading = False

    async def run(self):
        """Sample for ever."""
        from asyncio import sleep_ms

        while True:
            await sleep_ms(self.step())
