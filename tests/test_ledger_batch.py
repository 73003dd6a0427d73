"""The host reads batches of the device's ledger, and refuses every changed one."""

import os
import random

import pytest
from mptest import at_last
from nor import NorFile
from nor_sim import Clock

from chargekeep.ledger.ring import Ledger
from chargekeep_tools.log import slots
from chargekeep_tools.log.records import LogError, verify_batch

LOG = bytes(range(16))
KEY = b"k" * 32
KEYS = slots.Keys(KEY)


@pytest.fixture
def ledger(tmp_path):
    device = NorFile(os.fspath(tmp_path / "flash"), 8)
    Ledger.format(device, LOG, KEY)
    ledger = Ledger(device, KEY, Clock())
    ledger.mount()
    return ledger


def as_map(batch):
    first, _, link, runs = batch
    return {10: LOG, 11: first, 12: link, 13: [[a, b, bytes(c)] for a, b, c, _ in runs]}


def test_batches_follow_on(ledger):
    expected = []
    for i in range(90):
        body = [i, b"x" * (i % 60)]
        expected.append((ledger.append(5, body), 5, body))
        if i % 7 == 0:
            ledger.mount()
    got = []
    link = slots.LogId(LOG).genesis
    after = 0
    while batch := at_last(ledger.batch(after, 700)):
        checked = verify_batch(as_map(batch), link=link, log_id=LOG, keys=KEYS)
        got += [(r.seq, r.type, r.body) for r in checked.records]
        after, link = checked.last_seq, checked.link
    assert got == expected
    assert (after, link) == ledger.head
    ledger.acknowledge(LOG, after, link)


def test_changed_batches_are_refused(ledger):
    for i in range(70):
        ledger.append(5, [i, b"y" * (i % 60)])
    batch = as_map(at_last(ledger.batch(3, 4000)))
    good = verify_batch(batch, keys=KEYS)
    for reason, change in {
        "form": {11: 0},
        "sequence": {11: 5},
        "link": {12: bytes(8)},
        "checksum": {10: bytes(16)},
    }.items():
        with pytest.raises(LogError) as e:
            verify_batch(batch | change, keys=KEYS)
        assert e.value.reason == reason
    with pytest.raises(LogError) as e:
        verify_batch(batch, link=bytes(8))
    assert e.value.reason == "link"
    chance = random.Random(4)
    for _ in range(500):
        runs = [list(run) for run in batch[13]]
        run = chance.choice(runs)
        data = bytearray(run[2])
        at = chance.randrange(len(data))
        data[at] ^= 1 << chance.randrange(8)
        run[2] = bytes(data)
        with pytest.raises(LogError):
            verify_batch(batch | {13: runs})
    runs = batch[13]
    for changed in (
        [[runs[0][0], runs[0][1], runs[0][2][64:]], *runs[1:]],
        [[runs[0][0], runs[0][1] + 1, runs[0][2]], *runs[1:]],
        [[runs[0][0], runs[0][1], runs[0][2][:-64]], *runs[1:]],
        runs[::-1],
        runs[1:],
        [],
    ):
        with pytest.raises(LogError):
            verify_batch(batch | {13: changed})
    assert good.first_seq == 4
