"""What a decision rested on, as the host reads it from a transaction's Started record."""

from chargekeep_tools import wire
from chargekeep_tools.log import records

STAMP = [1_800_000_000, 1, 7, 12]
STARTED = [3, 1, 1, b"h" * 16, b"token--1", b"kid1", 4711, 1, 3, 20000, 0, 0, 1]
EVIDENCE = [1_800_086_400, 1, 2, 5, 0, 4]


def test_names_of_new_and_old_records():
    new = records.Record(1, 2, 2, *STAMP, STARTED + EVIDENCE, b"", b"")
    named = new.fields
    assert named["cti"] == b"token--1" and named["kid"] == b"kid1" and named["tariff_version"] == 3
    assert [named[k] for k in ("exp", "clock_quality")] == EVIDENCE[:2]
    assert [named[k] for k in ("trust", "allowlist", "revocation", "config")] == EVIDENCE[2:]
    assert "hearsay" not in named
    bare = records.Record(1, 2, 2, *STAMP, [*STARTED, *EVIDENCE, True], b"", b"").fields
    assert bare == named | {"hearsay": True} and len(bare) == len(records.FIELDS[2])
    old = records.Record(1, 2, 2, *STAMP, STARTED, b"", b"").fields
    assert old == {k: v for k, v in named.items() if k in old} and "exp" not in old


def test_it_fits_two_slots():
    """As a rule: it is one page program with what comes beside it."""
    assert len(wire.dumps(STAMP + STARTED + EVIDENCE)) <= 96
