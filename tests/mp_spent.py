# also: cpython
from authority import NOW, Clock
from mptest import folder, raises

from chargekeep import errors
from chargekeep.authorization.spent import Spent
from chargekeep.errors import ChargekeepError
from chargekeep.store import Store
from chargekeep.timebase import Timebase

CTI = b"12345678"
EXP = NOW + 1000


class Cut(BaseException):
    pass


class CutStore(Store):
    """Power goes out before or after the n-th write."""

    steps = 1 << 30

    def write(self, name, data):
        for durable in (False, True):
            if self.steps == 0:
                raise Cut
            self.steps -= 1
            if not durable:
                Store.write(self, name, data)


def made(store=None, **kw):
    clock = Clock()
    timebase = Timebase(0, clock.ticks_ms, clock.diff)
    timebase.start(1, NOW)
    store = store or CutStore(folder())
    return Spent(store, timebase, **kw), store, clock


def test_uses_count_once_a_transaction():
    spent, store, _ = made()
    spent.begin(CTI, EXP, 1)
    spent.begin(CTI, EXP, 1)
    assert spent.totals(CTI) == (1, 0, 0)
    spent.begin(CTI, EXP, 2)
    raises(ChargekeepError, spent.check, CTI, 2, code=errors.TOKEN_REPLAYED)
    again = Spent(store, None)
    assert again.totals(CTI) == (2, 0, 0) and len(again) == 1
    assert spent.totals(b"87654321") == (0, 0, 0)


def test_a_cti_is_found_only_where_one_stands():
    spent, store, _ = made()
    # the last 4 bytes of one cti and the first 4 of what follows it, and the other way round
    spent.begin(b"\0\0\0\0\0\0\0\0", 1, 0)
    spent.begin(b"\0\0\0\1\0\1\0\0", NOW * 2, 0)
    spent.begin(CTI, EXP, 1)
    zeros = store.read("spent")[4 + 10 : 4 + 18]
    assert spent.totals(zeros) == (0, 0, 0) and spent.totals(bytes(8))[0] <= 1
    for at in range(1, 34):
        inner = store.read("spent")[4 + at : 4 + at + 8]
        if inner not in (bytes(8), CTI):
            assert spent.totals(inner) == (0, 0, 0), at
    assert spent.totals(CTI) == (1, 0, 0)


def test_energy_and_time_add_up_over_uses():
    spent, store, _ = made()
    assert spent.use(CTI, 1, 5, 5) is False
    spent.begin(CTI, EXP, 1)
    assert spent.use(CTI, 1, 100, 10) and spent.use(CTI, 1, 90, 20)
    assert spent.totals(CTI) == (1, 100, 20)
    spent.begin(CTI, EXP, 2)
    assert spent.use(CTI, 1, 999, 999) is False  # an ended one
    spent.use(CTI, 2, 50, 5)
    assert Spent(store, None).totals(CTI) == (2, 150, 25)
    spent.use(CTI, 2, 2**40, 2**40)
    spent.begin(CTI, EXP, 3)
    assert spent.totals(CTI) == (3, 2**32 - 1, 2**32 - 1)


def test_room_is_made_of_what_has_expired():
    spent, store, clock = made(capacity=4)
    for i in range(4):
        spent.begin(bytes((i,)) * 8, NOW + 100 * (i + 1), i)
    raises(ChargekeepError, spent.begin, CTI, EXP, 9, code=errors.SPENT_FULL)
    assert len(spent) == 4
    clock.sleep(200)
    spent.begin(CTI, EXP, 9)
    assert len(spent) == 3  # two had expired
    assert spent.totals(b"\3" * 8)[0] == 1 and spent.totals(CTI)[0] == 1
    assert len(Spent(store, None)) == 3


def test_damage_is_noticed():
    spent, store, _ = made()
    spent.begin(CTI, EXP, 1)
    good = store.read("spent")
    bad = [good[:at] + bytes((good[at] ^ 4,)) + good[at + 1 :] for at in range(len(good))]
    bad += [b"", good[:-1], good + b"\0", good[34:-1]]
    for data in bad:
        store.write("spent", data)
        spent = made(store)[0]
        assert spent.lost_until == NOW and spent.totals(CTI) == (0, 0, 0)
        assert made(store)[0].lost_until == NOW  # remembered
    store.write("spent", good)
    assert made(store)[0].lost_until == 0
    store.write("spent", good[:-1])
    spent = Spent(store, Timebase(0, Clock().ticks_ms))
    assert spent.lost_until == 2**32 - 1  # while the time is unknown
    spent, store, _ = made(store)
    spent.begin(CTI, EXP, 1)
    assert made(store)[0].lost_until == NOW
    spent.reset()
    assert spent.totals(CTI) == (0, 0, 0) and made(store)[0].lost_until == 0


def test_a_full_disk_refuses_and_forgets_nothing():
    spent, store, _ = made()
    spent.begin(CTI, EXP, 1)

    def full(name, data):
        raise OSError(28)

    store.write = full
    raises(ChargekeepError, spent.begin, CTI, EXP, 2, code=errors.SPENT_FULL)
    assert spent.totals(CTI) == (1, 0, 0)


def test_every_power_cut_of_uses_and_budgets():
    """Two tokens, four transactions, each told its energy twice; power cut before and after every
    write, then all of it again from the last thing that is known to have happened."""
    story = []
    for tx in range(1, 5):
        cti = CTI if tx % 2 else b"otherone"
        story += [("begin", cti, tx, 0), ("use", cti, tx, 50), ("use", cti, tx, 100)]
    cut = 0
    while True:
        spent, store, _ = made()
        store.steps = cut
        done = 0
        try:
            for what, cti, tx, wh in story:
                if what == "begin":
                    spent.begin(cti, EXP, tx)
                else:
                    spent.use(cti, tx, wh, wh)
                done += 1
        except Cut:
            pass
        finished = done == len(story)
        store.steps = 1 << 30
        spent = made(store)[0]
        assert not spent.lost_until
        at_least = {}
        for _, _, tx, wh in story[:done]:
            at_least[tx] = wh
        for cti in (CTI, b"otherone"):
            mine = [tx for tx in at_least if (CTI if tx % 2 else b"otherone") == cti]
            uses, wh, _ = spent.totals(cti)
            assert len(mine) <= uses <= len(mine) + 1, (cut, "a use was lost or doubled")
            assert sum(at_least[tx] for tx in mine) <= wh <= 100 * uses, (cut, wh)
        for what, cti, tx, wh in story[done:]:
            if what == "begin":
                spent.begin(cti, EXP, tx)
            else:
                spent.use(cti, tx, wh, wh)
        for cti in (CTI, b"otherone"):
            assert spent.totals(cti) == (2, 200, 200), cut
            raises(ChargekeepError, spent.check, cti, 2, code=errors.TOKEN_REPLAYED)
        if finished:
            break
        cut += 1
    assert cut == 2 * len(story)
    print("%d power cuts" % cut)
