# Power cuts: every program and erase of a workload, each with every outcome, then cuts during the
# recovery. What was acknowledged is there, what was in flight is there whole or not, and once the
# restarted ledger has appended a record nothing changes any more.
# also: cpython
# heap: 1024k
# nightly: test_many_cuts
# nightly: test_many_cuts_of_migrations
# nightly: test_long_soak

import sys

from mptest import at_last, raises
from nor_sim import LOG, OUTCOMES, Chance, Clock, MemoryStore, NorSim, PowerCut, fresh

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.ledger import header, record
from chargekeep.ledger.ring import Ledger

KEY = bytes(range(32))
SECTORS = 6
FAST = sys.implementation.name == "cpython"


CLOCK = Clock()


def open_ledger(device, store):
    ledger = Ledger(device, None if store else KEY, CLOCK, store)
    ledger._thin = lambda *_: False  # what it drops on purpose would look lost here
    ledger.mount()
    return ledger


def formatted(seed):
    device = NorSim(SECTORS, seed)
    store = MemoryStore()
    Ledger.format(device, LOG, KEY, store)
    return device, store, open_ledger(device, store)


def listed(ledger):
    return [(seq, kind, body[4:]) for seq, kind, body in ledger.records()]


class Workload:
    """Appends, groups, counters, acknowledgements and pre-erases, and what is due at each cut.

    `known`: `(seq, type, body)` of acknowledged appends; `flying`: what is being appended.
    """

    def __init__(self, seed, stored):
        self.chance = Chance(seed)
        self.device = NorSim(SECTORS, seed)
        self.store = MemoryStore() if stored else None
        Ledger.format(self.device, LOG, KEY, self.store)
        self.ledger = open_ledger(self.device, self.store)
        self.known = []
        self.flying = []
        self.counters = [0] * 16
        self.rising = (0, 0)
        self.acknowledged = 0
        self.number = 0

    def body(self):
        self.number += 1
        size = (0, 0, 0, 20, 20, 60, 130)[self.chance.below(7)]
        return [self.number, b"x" * size]

    def append(self, count):
        self.flying = [(1 + self.chance.below(11), self.body()) for _ in range(count)]
        if count == 1:
            self.ledger.append(*self.flying[0])
        else:
            self.ledger.append_many(self.flying)
        self.landed()

    def landed(self):
        seq = self.known[-1][0] + 1 if self.known else 1
        start = seq
        for seq, kind, body in self.ledger.records(start):
            self.known.append((seq, kind, body[4:]))
        expected = [(kind, body) for kind, body in self.flying]
        assert [(k, b) for _, k, b in self.known[len(self.known) - len(expected) :]] == expected
        self.flying = []

    def advance(self):
        index = self.chance.below(10)
        value = self.counters[index] + 1 + self.chance.below(5)
        self.rising = (index, value)
        self.flying = [(record.COUNTER, [index, value])]
        self.ledger.advance(index, value)
        self.counters[index] = value
        self.landed()

    def acknowledge(self):
        seq, link = self.ledger.head
        self.acknowledged = seq  # the host has it from here on
        self.flying = [(record.COUNTER, [11, seq])]
        self.ledger.acknowledge(LOG, seq, link)
        self.flying = []
        self.known = self.known[-40:]
        if self.ledger.head[0] != seq:
            self.flying = [(record.COUNTER, [11, seq])]
            self.landed()

    def step(self):
        dice = self.chance.below(16)
        if self.ledger.backlog > 70 or dice == 0:
            self.acknowledge()
        elif dice < 3:
            self.advance()
        elif dice < 6:
            self.append(2 + self.chance.below(6))
        elif dice == 6:
            self.ledger.maintain()
        else:
            self.append(1)


def missing(expected, shown, acknowledged):
    """The first of `expected` that the host has not got and that `shown` lacks, or None."""
    seen = {r[0]: r for r in shown}
    for r in expected:
        if r[0] > acknowledged and seen.get(r[0]) != r:
            return r
    return None


def check(ledger, work, boot=None):
    """What the ledger shows after a cut must be what is due. Returns it."""
    shown = listed(ledger)
    assert missing(work.known, shown, work.acknowledged) is None, "lost or changed"
    known = {r[0]: r for r in work.known}
    last = work.known[-1][0] if work.known else 0
    extra = []
    for r in shown:
        if r[0] > last:
            extra.append(r[1:])
        elif work.known and r[0] >= work.known[0][0]:
            assert known.get(r[0]) == r, "changed"
    if boot and extra and extra[-1] == boot:
        extra.pop()
    assert extra == work.flying[: len(extra)], "not what was in flight"
    for i in range(10):
        risen = work.rising[1] if work.rising[0] == i else 0
        assert work.counters[i] <= ledger.counter(i) <= max(work.counters[i], risen), "counter"
    assert ledger.acknowledged <= work.acknowledged
    return shown


BOOT = (record.BOOT, [3, "1.0"])


def recover(device, store, work):
    """Restart after a cut: what is there stays there."""
    ledger = open_ledger(device, store)
    shown = check(ledger, work, BOOT)
    ledger.append(*BOOT)
    again = listed(ledger)
    assert again[-1][1:] == BOOT
    assert missing(shown, again, work.acknowledged) is None
    assert missing(again[:-1], shown, work.acknowledged) is None, "came back"
    head = ledger.head
    ledger = open_ledger(device, store)
    assert ledger.head == head, "flapping head"
    assert listed(ledger) == again, "flapping"
    check_batches(ledger, again)
    return ledger


def check_batches(ledger, shown):
    # What goes up next: whole records that follow on, and nothing beyond the head.
    before = ledger.acknowledged
    batch = at_last(ledger.batch(before, 16_000))
    if batch:
        first, last, _, runs = batch
        assert first == before + 1
        inside = False
        for _, _, data, link in runs:
            assert data[-12:-4] == link
            for at in range(0, len(data), 64):
                flags = data[at + 3]
                assert inside != bool(flags & record.FIRST), "half a record"
                inside = not flags & record.LAST
                first += 1
        assert not inside and first - 1 == last <= ledger.head[0]


class Cuts:
    """Cuts each operation of a workload in copies of the flash as it was before."""

    def __init__(self, seed, stored, outcomes, second, every=1):
        self.work = Workload(seed, stored)
        self.chance = Chance(seed + 1000)
        self.outcomes = outcomes
        self.second = second
        self.every = every
        self.count = 0
        self.operations = 0

    def run(self, steps):
        self.work.device.hook = self.at_operation
        if self.work.store:
            self.work.store.hook = self.at_key
        for _ in range(steps):
            self.work.step()
        return self.count

    def copies(self):
        work = self.work
        self.count += 1
        store = work.store and MemoryStore(work.store.files)
        return work.device.copy(self.count), store

    def at_key(self, name, data):
        for written in (False, True):
            device, store = self.copies()
            if written:
                store.write(name, data)
            recover(device, store, self.work)

    def at_operation(self, block, offset, data):
        self.operations += 1
        if self.operations % self.every:
            return
        for outcome in self.outcomes:
            device, store = self.copies()
            device.cut(block, offset, data, outcome)
            recover(device, store, self.work)
        for _ in range(self.second):
            device, store = self.copies()
            device.cut(block, offset, data, OUTCOMES[self.chance.below(8)])
            device.cut_in = self.chance.below(3)
            device.outcome = OUTCOMES[self.chance.below(8)]
            try:
                open_ledger(device, store).append(*BOOT)
            except PowerCut:
                pass
            device.cut_in = -1
            recover(device, store, self.work)


def every_cut(seed, steps, second, every=1, stored=True):
    cuts = Cuts(seed, stored, OUTCOMES, second, every)
    print("cuts:", cuts.run(steps), "operations:", cuts.operations)


def soak(seed, count):
    """One log that loses power again and again, during recovery as well."""
    work = Workload(seed, True)
    chance = Chance(seed)
    device = work.device
    for _ in range(count):
        device.cut_in = chance.below(12)
        device.outcome = OUTCOMES[chance.below(8)]
        try:
            while True:
                work.step()
        except PowerCut:
            device.cut_in = -1
        work.ledger = recover(device, work.store, work)
        # What was in flight is there or not from now on.
        work.ledger.append(*BOOT)
        if work.ledger.free_slots < 260:
            work.acknowledged = work.ledger.head[0]
            work.ledger.acknowledge(LOG, *work.ledger.head)
        shown = listed(work.ledger)
        work.known = shown[-40:]
        work.flying = []
        work.counters = [work.ledger.counter(i) for i in range(16)]
    print("cuts:", count, "erases:", max(device.erases))


def test_every_cut():
    if FAST:
        every_cut(1, 80, 3)
    else:
        every_cut(1, 60, 1, 3)


def test_every_cut_without_key_file():
    every_cut(2, 60 if FAST else 20, 1, 3, stored=False)


def test_soak():
    soak(3, 250 if FAST else 60)


def fading(device, ledger, index):
    """Two bits of a slot of the head sector read differently each time, as a cut leaves them."""
    at = ledger._head * 4096 + 256 + 64 * index
    device.weak.setdefault(ledger._head, {}).update({at + 9: 4, at + 30: 16})


def closed_sector(cuts):
    """The last slot of a sector is weak, and so is its copy in the next one after each new cut."""
    for seed in range(1, 25 if FAST else 7):
        device, store, ledger = formatted(seed)
        while ledger._index < 60:
            ledger.append(5, [ledger.head[0]])
        fading(device, ledger, 59)
        ledger = open_ledger(device, store)
        ledger.append(*BOOT)
        for _ in range(1, cuts):
            fading(device, ledger, ledger._index - 2)
            ledger = open_ledger(device, store)
            ledger.append(*BOOT)
        again = listed(ledger)
        for _ in range(8):
            assert listed(ledger) == again, "flapping"
        ledger.append(5, [0])
        again = listed(ledger)
        for _ in range(8):
            ledger = open_ledger(device, store)
            assert listed(ledger) == again, "flapping"
        ledger.append(5, [1])
        for _ in range(8):
            assert listed(ledger)[:-1] == again, "flapping"


def test_end_of_a_closed_sector():
    # What a restart repeats in the next sector is read there, whatever comes after it.
    closed_sector(1)


def test_end_of_a_closed_sector_cut_again():
    closed_sector(2)
    closed_sector(3)


def test_what_a_cut_tore_does_not_come_back():
    # A group of two programs, the second torn at its start; the restart's first program repeats
    # all of the first, and the power goes again.
    device, store, ledger = formatted(1)
    ledger.append_many([(5, [i]) for i in range(6)])
    for i in range(64):
        device.data[256 + 64 * 8 + i] &= 0x3C
    assert [r[0] for r in listed(open_ledger(device, store))] == [1, 2, 3, 4]
    device.cut_in = 1
    raises(PowerCut, open_ledger(device, store).append, *BOOT)
    device.cut_in = -1
    ledger = open_ledger(device, store)
    assert [r[0] for r in listed(ledger)] == [1, 2, 3, 4]
    assert ledger.append(*BOOT) == 5


def test_a_copy_that_fades_hides_no_record():
    for seed in range(1, 25 if FAST else 7):
        device, store, ledger = formatted(seed)
        ledger.append(5, [1])
        ledger = open_ledger(device, store)
        ledger.append(*BOOT)
        expected = listed(ledger)
        fading(device, ledger, 8)  # the restart's copy of the record
        for _ in range(8):
            assert listed(ledger) == expected


def test_a_torn_copy_takes_no_record_away():
    # The restart's first program tore in its third copy, and two of the three slots are weak.
    for seed in range(1, 25 if FAST else 7):
        device, store, ledger = formatted(seed)
        while ledger._index < 32:
            ledger.append(5, [0])
        ledger.append_many([(5, [i]) for i in range(3)])
        open_ledger(device, store).append(*BOOT)
        at = ledger._head * 4096 + 256
        for index in (33, 34):
            fading(device, ledger, index)
        device.data[at + 64 * 38 + 20 : at + 64 * 40] = b"\xff" * 108
        ledger = open_ledger(device, store)
        shown = listed(ledger)
        ledger.append(*BOOT)
        assert listed(ledger)[:-1] == shown, "came back"


def test_what_a_cut_erase_leaves_is_not_listed():
    # All of it is acknowledged, so the sector that is erased next holds no records any more.
    device, store, ledger = fresh(SECTORS)
    while ledger._header.seq <= SECTORS or ledger._index < 40:
        ledger.append(5, [0])
        if ledger.backlog > 70:
            ledger.acknowledge(LOG, *ledger.head)
    block = ledger._victim()
    at = block * 4096 + 256 + 64 * 27
    device.weak[block] = {at + 2: 32, at + 45: 8}
    ledger = open_ledger(device, store)
    expected = listed(ledger)
    for _ in range(12):
        assert listed(ledger) == expected, "flapping"
        assert listed(open_ledger(device, store)) == expected, "flapping"


OLDER, NEWER = 0x10, 0x11


class Migration(Cuts):
    """Cuts while newer firmware takes a ring over; older firmware may be what starts next."""

    def at_operation(self, block, offset, data):
        self.operations += 1
        for outcome in self.outcomes:
            for start in (self.newer, self.older):
                device, store = self.copies()
                device.cut(block, offset, data, outcome)
                start(device, store)

    def newer(self, device, store):
        ledger = recover(device, store, self.work)
        shown = listed(ledger)
        ledger.migrate()
        ledger.append(record.METER_VALUE, [1])
        again = listed(ledger)
        assert version(ledger) == NEWER and again[-1][2] == [1]
        assert missing(shown, again, self.work.acknowledged) is None
        assert missing(again[:-1], shown, self.work.acknowledged) is None

    def older(self, device, store):
        header.VERSION = OLDER
        try:
            ledger = open_ledger(device, store)
            if ledger.writable:
                assert version(ledger) == OLDER
                recover(device, store, self.work)
            else:
                operations = device.operations
                check(ledger, self.work)
                raises(ChargekeepError, ledger.append, *BOOT, code=errors.LEDGER_VERSION)
                assert device.operations == operations
        finally:
            header.VERSION = NEWER


def version(ledger):
    return ledger.device.data[ledger._head * 4096 + 3]


def migrations(seeds, outcomes):
    for seed in seeds:
        cuts = Migration(seed, True, outcomes, 0)
        work = cuts.work
        for _ in range(100 + 13 * seed):
            work.step()
        header.VERSION = NEWER
        try:
            work.ledger = open_ledger(work.device, work.store)
            before = work.ledger._header.seq
            while work.ledger._header.seq == before:
                work.step()
            cuts.run(3)  # on trial: as the older firmware would
            assert version(work.ledger) == OLDER
            work.ledger.migrate()
            while version(work.ledger) == OLDER:
                cuts.run(1)
            cuts.run(2)
        finally:
            header.VERSION = OLDER
        print("cuts:", cuts.count, "operations:", cuts.operations)


def test_the_middle_of_the_last_operation_in_a_closed_sector():
    # The new sector is open but empty. What was repeated nowhere yet is waited for, all of it.
    for seed in range(1, 25 if FAST else 7):
        device, store, ledger = formatted(seed)
        while ledger._index < 56:
            ledger.append(5, [0])
        ledger.append_many([(5, [i]) for i in range(1, 5)])
        for index in (57, 58):
            fading(device, ledger, index)
        device.cut_in = 2  # the header of the next sector is there, the repeated slots are not
        raises(PowerCut, open_ledger(device, store).append, *BOOT)
        device.cut_in = -1
        ledger = open_ledger(device, store)
        shown = listed(ledger)
        ledger.append(*BOOT)
        again = listed(ledger)
        assert again[:-1] == shown
        for _ in range(8):
            assert listed(open_ledger(device, store)) == again, "flapping"


def test_every_cut_of_a_migration():
    if FAST:
        migrations((1,), OUTCOMES)
    else:
        migrations((2,), ("bits", "weak"))


def test_many_cuts_of_migrations():
    migrations(range(3, 13 if FAST else 4), OUTCOMES)


def test_many_cuts():
    # 20,000 single cuts and ten double ones an operation, on each of four workloads
    for seed in range(11, 15) if FAST else range(11, 12):
        every_cut(seed, 2_500 if FAST else 500, 10)


def test_long_soak():
    soak(4, 10_000 if FAST else 2_000)
