# heap: 512k
# A single-use token and the power cut between any two steps of a start, in ledger and use table:
# power never flows on a use that is not counted, no use is counted without a transaction, and the
# driver whose transaction had begun goes on with it.
import gc

from mptest import folder, raises
from nor_sim import OUTCOMES, PowerCut
from station_sim import Decision, FlashLedger, World

from chargekeep import errors
from chargekeep.authorization.policy import Policy
from chargekeep.authorization.spent import Spent
from chargekeep.errors import ChargekeepError
from chargekeep.store import Store

CTI = b"token--1"
_STARTED = 2  # record type


class CutStore(Store):
    """The power goes in the write that `cut` says, counted from 0, before or after it is done."""

    cut = None
    after = False

    def write(self, name, data):
        cut, self.cut = self.cut, None
        if cut == 0 and not self.after:
            raise PowerCut
        super().write(name, data)
        if cut == 0:
            raise PowerCut


class Once(Decision):
    use_count = 1
    exp = 1_900_000_000


class Site:
    """A world with a station in it whose uses are counted in `store`."""

    def __init__(self):
        self.world = World(ledger=FlashLedger())
        self.store = CutStore(folder())
        closing = self.world.value
        self.world.value = lambda level=None: self._proven(level, closing)

    def _proven(self, level, closing):
        if level:
            assert Spent(self.store, None).totals(CTI)[0] == 1, "power on an uncounted use"
        return closing(level)

    def boot(self):
        """False where the power went again."""
        spent = Spent(self.store, None)
        self.policy = policy = Policy(None, spent, None, b"")
        spent._living = lambda: spent._table  # nothing expires in this test

        def may_resume(transaction):  # as app.py
            assert self.uses() or self.store.write is full, "not counted at the boot"
            try:
                policy.started(transaction, 1)
            except ChargekeepError:
                return False
            return True

        try:
            self.world.boot(
                on_begin=lambda decision: policy.begin(decision, 1),
                on_started=lambda transaction: policy.started(transaction, 1),
                may_resume=may_resume,
            )
            self.world.station.step()
        except PowerCut:
            self.world.cut()
            return False
        return self.world.run(3)

    def present(self):
        """False where the power went."""
        try:
            self.world.station.machine.start(Once())
        except PowerCut:
            self.world.cut()
            return False
        return True

    def starts(self):
        return len(self.world.bodies(_STARTED))

    def uses(self):
        return Spent(self.store, None).totals(CTI)[0]

    def afterwards(self):
        """The power is back: what a driver can expect."""
        assert self.boot()
        begun = self.starts()
        machine = self.world.station.machine
        assert begun == self.uses() == (1 if machine.transaction else 0)
        if not begun:
            assert machine.state == "idle" and self.present()
        assert self.world.run(5) and self.world.level, "the driver is left without power"
        machine.stop()
        assert self.world.run(3) and machine.state == "idle"
        raises(ChargekeepError, machine.start, Once(), code=errors.TOKEN_REPLAYED)
        assert self.boot() and self.uses() == self.starts() == 1
        raises(
            ChargekeepError, self.world.station.machine.start, Once(), code=errors.TOKEN_REPLAYED
        )
        return begun


def test_every_cut_in_the_ledger():
    seen = []
    for outcome in OUTCOMES:
        cut = 0
        while True:
            site = device = None
            gc.collect()
            site = Site()
            assert site.boot()
            device = site.world.ledger.device
            device.cut_in, device.outcome = cut, outcome
            done = site.present()
            device.cut_in = -1
            if done:
                break
            seen.append(site.afterwards())
            cut += 1
    assert 0 in seen and 1 in seen
    print("%d power cuts" % len(seen))


def test_every_cut_in_the_use_table_and_again_at_the_boot():
    for after in (False, True):
        for again in (None, False, True):
            site = None
            gc.collect()
            site = Site()
            assert site.boot()
            site.store.cut, site.store.after = 0, after
            assert not site.present()
            assert site.starts() == 1 and site.uses() == after
            if again is not None:
                site.store.cut, site.store.after = 0, again
                assert site.boot() is after  # counted already: nothing is written
                site.store.cut = None
                site.world.cut()
            assert site.afterwards() == 1


def full(name, data):
    raise OSError(28)


def test_a_use_that_flash_refuses_gives_no_power():
    site = Site()
    assert site.boot()
    machine = site.world.station.machine
    site.store.write = full
    raises(ChargekeepError, machine.start, Once(), code=errors.SPENT_FULL)
    assert site.world.run(3) and machine.state == "idle" and not site.world.level
    assert site.boot() and site.uses() == 0 and site.starts() == 1
    del site.store.write
    assert site.present() and site.uses() == 1


def test_a_use_that_flash_refuses_after_a_boot_gives_no_power():
    site = Site()
    assert site.boot()
    site.store.cut = 0
    assert not site.present() and site.starts() == 1
    site.store.write = full
    assert site.boot() and not site.world.level
    assert site.world.station.machine.state == "idle" and site.uses() == 0
    del site.store.write
    assert site.present() and site.uses() == 1
