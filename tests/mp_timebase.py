# also: cpython
from mptest import raises

from chargekeep import errors, timebase
from chargekeep.errors import ChargekeepError
from chargekeep.timebase import Timebase

T = 1_800_000_000
_WRAP = 1 << 30


class Ticks:
    """A millisecond counter that wraps as MicroPython's does."""

    def __init__(self, start=_WRAP - 5000):
        self.ms = start

    def ticks_ms(self):
        return self.ms

    def diff(self, a, b):
        return ((a - b + _WRAP // 2) & (_WRAP - 1)) - _WRAP // 2

    def sleep(self, seconds):
        self.ms = (self.ms + int(seconds * 1000)) & (_WRAP - 1)


def made(**kw):
    ticks = Ticks()
    return Timebase(ticks_ms=ticks.ticks_ms, ticks_diff=ticks.diff, **kw), ticks


def test_without_any_time_there_is_none():
    tb, ticks = made(build_time=T)
    tb.start(7, 0)
    ticks.sleep(12.7)
    assert tb.now() is None and tb.quality == 0
    assert tb.stamp() == [None, 0, 7, 12]
    assert tb.floor() == T  # still enough to know that something has expired


def test_runs_on_from_the_floor():
    tb, ticks = made(build_time=T - 1000)
    tb.start(1, T)
    ticks.sleep(100)
    assert tb.now() == T + 100 and tb.quality == 2 and not tb.certain
    assert tb.floor() == T + 100


def test_signed_time_is_truth_and_ages():
    tb, ticks = made()
    tb.start(1, T)
    ticks.sleep(10)
    assert tb.state(T + 5000) == T + 10
    ticks.sleep(60)
    assert tb.now() == T + 5060 and tb.quality == 3 and tb.certain
    assert tb.floor() == T + 5060
    ticks.sleep(86401)
    assert tb.quality == 2 and tb.certain


def test_a_step_back_is_refused():
    tb, _ = made()
    tb.start(1, T)
    e = raises(ChargekeepError, tb.state, T - 301, code=errors.TIME_STEP_BACK)
    assert e.detail == "301 s"
    tb.state(T + 1000)
    raises(ChargekeepError, tb.state, T, code=errors.TIME_STEP_BACK)
    assert tb.now() == T + 1000


def test_build_time_is_a_floor():
    tb, _ = made(build_time=T)
    raises(ChargekeepError, tb.state, T - 1000, code=errors.TIME_STEP_BACK)
    assert not tb.hint(T - 1)


def test_drift_makes_the_clock_wait_not_jump():
    tb, ticks = made()
    tb.state(T)
    ticks.sleep(1000)
    tb.state(T + 990)  # the crystal ran 10 s ahead
    assert tb.now() == T + 1000
    ticks.sleep(5)
    assert tb.now() == T + 1000
    ticks.sleep(6)
    assert tb.now() == T + 1001
    # ... and years of it lock nobody out
    for _ in range(60):
        ticks.sleep(5 * 86400)
        tb.state(tb.now() - 200)


def test_hints_yield_to_signed_time_and_leave_the_floor():
    tb, ticks = made()
    tb.start(1, T)
    assert not tb.hint(T - 1)
    assert tb.hint(T + 10**7)  # an NTP server lies
    assert tb.quality == 1 and tb.now() == T + 10**7
    assert tb.floor() == T
    assert tb.hint(T + 50) and tb.now() == T + 50
    ticks.sleep(5)
    tb.state(T + 20)  # signed: back to the truth
    assert tb.now() == T + 20
    assert not tb.hint(T + 999) and tb.now() == T + 20


def test_a_hint_below_the_persisted_floor_is_dropped():
    tb, _ = made()
    assert tb.hint(T - 99)  # an RTC, read before the ledger is mounted
    tb.start(1, T)
    assert tb.now() == T and not tb.certain


def test_ticks_wrap_and_2038():
    tb, ticks = made()
    tb.state(2**31 - 10**6)
    for _ in range(40):  # the counter wraps each 12.4 days
        ticks.sleep(86400)
        tb.uptime_s()
    assert tb.now() == 2**31 - 10**6 + 40 * 86400 > 2**31
    tb.state(2**32 + 5)
    assert tb.stamp()[0] == 2**32 + 5


def test_fractions_of_a_second_add_up():
    tb, ticks = made()
    for _ in range(1000):
        ticks.sleep(0.7)
        tb.uptime_s()
    assert tb.uptime_s() == 700


def test_both_epochs():
    class Epoch2000:
        def time(self):
            return 1

        def gmtime(self, t):
            return (2000, 1, 1)

    real = timebase.time
    try:
        timebase.time = Epoch2000()
        assert timebase.unix_clock() == 946684801
    finally:
        timebase.time = real
    assert timebase.unix_clock() > 1_700_000_000
