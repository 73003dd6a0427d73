# also: cpython
from chargekeep import health


def test_exactly_one_state():
    for connected in (False, True):
        assert health.assess(connected, True, True) == health.UNSAFE
    assert health.assess(True, False, True) == health.ONLINE
    assert health.assess(False, False, True) == health.DEGRADED
    assert health.assess(False, False, False) == health.OPERATIONAL


def test_reasons():
    assert health.reasons(0, 3, False, 500, 100) == []
    assert health.reasons(300, 0, True, 100, 100) == [
        "meter_stale",
        "ledger_full",
        "list_stale",
        "time_unknown",
    ]


def test_counts_by_code():
    counts = health.Health()
    counts.count(300, "x" * 500)
    counts.count(300)
    assert counts.errors == {300: 2}
    assert counts.last == (300, "")


def test_kinds_of_errors_are_bounded():
    counts = health.Health()
    for code in range(100, 200):
        counts.count(code)
    assert len(counts.errors) == 33 and counts.errors[0] == 68 and counts.last[0] == 199
