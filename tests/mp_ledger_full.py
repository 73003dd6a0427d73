# A ring that no host reads: intermediate values go first and say so, then new transactions are
# refused, and a running one can always end. Endless restarts use a bounded number of sectors.
# also: cpython
# heap: 768k
# nightly: test_ten_thousand_boots

import sys

from mptest import at_last, raises
from nor_sim import LOG, MemoryStore, fresh, mounted

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import record

BOOT = [3, "1.0"]
FAST = sys.implementation.name == "cpython"


def transaction(ledger, tx, updates, start_wh):
    """One transaction; what it added to the register."""
    ledger.append(
        record.TX_STARTED, [tx, 1, 1, None, b"c" * 8, b"kidk", start_wh, 1, 1, 0, 0, 0, 1]
    )
    for i in range(updates):
        ledger.append(record.TX_UPDATED, [tx, i + 1, 8, start_wh + i, 1])
    ledger.append(record.TX_ENDED, [tx, updates + 1, 10, 6, start_wh + updates])


def test_thinning_keeps_every_start_and_end():
    device, store, ledger = fresh(12)
    tx = 0
    refused = None
    while refused is None:
        try:
            transaction(ledger, tx + 1, 30, 1000 * tx)
            tx += 1
        except ChargekeepError as e:
            refused = e.code
            assert tx < 200
    assert refused == errors.LEDGER_FULL
    assert tx > 2 * 600 // 33, tx  # more than would fit unthinned
    kinds = {}
    dropped = 0
    last_of = {}
    for seq, kind, body in ledger.records():
        kinds.setdefault(kind, {}).setdefault(body[4], []).append(seq)
        if kind == record.THINNED:
            dropped += body[6]
            assert body[4] <= body[5]
        elif kind == record.TX_UPDATED:
            last_of[body[4]] = max(last_of.get(body[4], 0), body[5])
    for number in range(1, tx + 1):
        assert len(kinds[record.TX_STARTED][number]) == 1
        assert len(kinds[record.TX_ENDED][number]) == 1
        # in order of the seqs that they were given first
        assert kinds[record.TX_STARTED][number] < kinds[record.TX_ENDED][number]
    left = sum([len(kinds[record.TX_UPDATED].get(n, ())) for n in range(1, tx + 1)])
    assert dropped >= 30 * tx - left > 100
    # A running transaction ends, again and again, for as long as there is a slot.
    before = ledger.free_slots
    assert before >= 50
    for i in range(before - 8):
        ledger.append(record.TX_ENDED, [tx + 1, i, 6, 6, 1])
    raises(ChargekeepError, ledger.append, record.TX_STARTED, [tx + 2, 1, 1], code=502)
    # The host comes back: what is there is consistent, and everything is free again.
    after, link = ledger.acknowledged, None
    while True:
        batch = at_last(ledger.batch(after, 2000))
        if not batch:
            break
        first, last, before_link, runs = batch
        assert first > after
        assert link is None or first > after + 1 or before_link == link
        assert last == first - 1 + sum([len(run[2]) for run in runs]) // 64
        after, link = last, runs[-1][3]
        ledger.acknowledge(LOG, after, link)
    for seq, kind, body in ledger.records(after + 1):
        assert kind == record.COUNTER and body[4] == 11, seq
    assert ledger.free_slots > 10 * 60
    transaction(ledger, tx + 2, 3, 0)
    assert mounted(device, store).head == ledger.head


def test_a_batch_is_made_in_steps():
    # What happens to the ring between two of them does not change it, but for what is gone.
    device, store, ledger = fresh(12)
    for i in range(200):
        ledger.append(record.METER_VALUE, [i])
    first, last, before, runs = at_last(ledger.batch(30, 70_000))
    steps = ledger.batch(30, 70_000)
    found = next(steps)
    while not found:
        ledger.append_many([(record.METER_VALUE, [i]) for i in range(9)])
        ledger.maintain()
        for _ in ledger.records(100):
            pass
        found = next(steps)
    assert found == (first, last, before, runs) and last == 200
    for pauses in range(1, 12):
        for late in (False, True):
            ledger = mounted(device.copy(), MemoryStore(store.files))
            steps = ledger.batch(0, 70_000)
            for _ in range(pauses):
                next(steps)
            ledger.append(record.BOOT, BOOT)
            if late:  # the host has it all, as it says late
                ledger.acknowledge(LOG, *ledger.head)
            while not late and ledger._seq[ledger._after(0)] < 3:  # thinning takes it apart
                ledger.append_many([(record.METER_VALUE, [i]) for i in range(9)])
            first, last, _, runs = at_last(steps)
            assert last - first + 1 == sum([len(run[2]) for run in runs]) // 64, pauses
            assert not ledger.damage, (pauses, late)


def test_counters_outlive_thinning():
    device, store, ledger = fresh(8)
    for i in range(3000):
        ledger.advance(i % 8, i + 1)
        if i % 100 == 0:
            ledger.append(record.METER_VALUE, [i, 1])
    assert [ledger.counter(i) for i in range(8)] == list(range(2993, 3001))
    ledger = mounted(device, store)
    assert [ledger.counter(i) for i in range(8)] == list(range(2993, 3001))


def boots(count, sectors):
    device, store, ledger = fresh(sectors)
    transaction(ledger, 1, 20, 0)
    for i in range(count):
        ledger = mounted(device, store)
        assert ledger.start_boot(BOOT) == i + 1
        ledger.record_boot()
    assert ledger.counter(0) == count
    kinds = [kind for _, kind, _ in ledger.records()]
    assert kinds.count(record.TX_STARTED) == kinds.count(record.TX_ENDED) == 1
    assert ledger.free_slots >= 60
    assert max(device.erases) <= 3 * min(device.erases) + 3, device.erases
    print("boots:", count, "erases a sector:", max(device.erases), "kept:", len(kinds))


def test_boot_loop():
    boots(800 if FAST else 300, 8)


def test_ten_thousand_boots():
    boots(10_000, 64)


def test_boots_that_do_nothing_cost_nothing():
    device, store, ledger = fresh(4)
    transaction(ledger, 1, 20, 0)
    before = ledger.free_slots
    operations = device.operations
    for _ in range(10_000 if FAST else 500):
        ledger = mounted(device, store)
        assert ledger.start_boot(BOOT) == 1
    assert device.operations == operations
    # The boot that does something is the next, and its record precedes what it did.
    head = ledger.head[0]
    transaction(ledger, 2, 2, 1000)
    ledger.record_boot()
    kinds = [(kind, body[4:]) for _, kind, body in ledger.records(head + 1)]
    assert kinds[:2] == [(record.COUNTER, [0, 1]), (record.BOOT, BOOT)]
    assert [kind for kind, _ in kinds[2:]] == [2, 3, 3, 4]
    assert before - ledger.free_slots <= 4 + 3 + 7
    ledger = mounted(device, store)
    assert ledger.counter(0) == 1 and ledger.start_boot(BOOT) == 2
    ledger.advance(1, 2)
    assert mounted(device, store).counter(0) == 2


def test_a_boot_is_counted_across_the_end_of_a_sector():
    for left in range(1, 6):
        device, store, ledger = fresh(4)
        while ledger._index < 60 - left:
            ledger.append(record.METER_VALUE, [1, 2])
        assert ledger.start_boot(BOOT) == 1
        ledger.append(record.METER_VALUE, [3, 4])
        assert mounted(device, store).counter(0) == 1


def test_a_full_ring_starts_and_recovers():
    device, store, ledger = fresh(4)
    try:
        while True:
            ledger.append(record.REFUSED, [0, None, None, None])
    except ChargekeepError as e:
        assert e.code == errors.LEDGER_FULL
    for _ in range(100):  # crashing boots that try to record what they meet, and cannot
        ledger = mounted(device, store)
        ledger.start_boot(BOOT)
        raises(ChargekeepError, ledger.append, record.REFUSED, [1], code=errors.LEDGER_FULL)
        raises(ChargekeepError, ledger.record_boot, code=errors.LEDGER_FULL)
    free = ledger.free_slots
    assert free >= 50
    ledger.append(record.TX_ENDED, [1, 2, 10, 6, 5])
    assert ledger.counter(0) == 1
    last, link = ledger.head
    ledger.acknowledge(LOG, last, link)
    transaction(ledger, 2, 3, 0)
    assert mounted(device, store).counter(0) == 1


def test_mounting_alone_writes_nothing():
    device, store, ledger = fresh(4)
    ledger.append(record.METER_VALUE, [1, 2])
    before = bytes(device.data)
    operations = device.operations
    for _ in range(50):
        mounted(device, store)
    assert device.operations == operations and device.data == before


def test_full_of_what_must_stay():
    device, store, ledger = fresh(4)
    count = 0
    while True:
        try:
            ledger.append(
                record.TX_ENDED if count < 20 else record.REFUSED, [count, None, None, None]
            )
        except ChargekeepError as e:
            assert e.code == errors.LEDGER_FULL
            break
        count += 1
        assert count < 300
    bodies = [body[4] for _, _, body in ledger.records()]
    assert bodies == list(range(count))
    ledger.maintain()  # the one sector that is kept for the end of a transaction
    erases = sum(device.erases)
    for _ in range(20):
        raises(ChargekeepError, ledger.append, record.REFUSED, [0, None, None, None])
        assert not ledger.maintain()
    assert sum(device.erases) == erases
    assert mounted(device, store).head == ledger.head
