# also: cpython
# heap: 320k
# Power cuts: what a boot finds in the ledger, and what becomes of the interrupted transaction.
import gc
import os

import ocpp_terms as terms
from nor_sim import OUTCOMES, PowerCut
from station_sim import Decision, FlashLedger, World, ready, settled

from chargekeep.transaction.recall import Memory


def test_power_cut_and_resume():
    w, m = ready()
    m.start(Decision(max_wh=2000))
    w.run(100)
    w.cut()
    assert w.meter.flows_w == 0
    w.run(30)
    m = w.boot().machine
    assert m.state == "resuming" and w.meter.flows_w == 0
    w.run(5)
    assert m.state == "charging" and w.meter.flows_w == 11000
    assert m.transaction.seq_no == len(w.bodies(terms.RECORD_UPDATED))
    w.run(2000)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[3] == terms.STOPPED_ENERGY_LIMIT
    assert 2000 <= settled(w) < 2010
    # Time is of both boots, the dark half minute included.
    _, seconds = w.station.used[(b"token--1", 1)]
    assert seconds >= 100 + 30 + 5


def test_resume_without_a_clock_counts_at_least_the_time_awake():
    w = World()
    w.clock_set = False
    w.boot()
    w.run(3)
    w.station.machine.start(Decision(max_s=300))
    w.run(100)
    w.cut()
    w.run(1000)
    w.boot()
    w.run(150)
    assert w.station.machine.state == "charging"
    w.run(70)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_TIME_LIMIT


def test_a_resumed_transaction_has_its_own_time_only():
    w, m = ready()
    m.start(Decision(max_wh=100))
    w.run(600)
    assert m.state == "idle"
    m.start(Decision())
    w.run(60)
    w.cut()
    tx = Memory(w.ledger).transaction
    assert tx.id == 2 and 50 <= tx.elapsed_s <= 60


def interrupted(w, max_wh):
    """A transaction during which the power goes where `w` says; False where it did not."""
    try:
        w.station.machine.start(Decision(max_wh=max_wh))
        if w.run(90):
            return False
    except PowerCut:
        w.cut()
    w.run(7)
    w.boot()
    w.run(200)
    started = w.bodies(terms.RECORD_STARTED)
    assert len(started) == len(w.bodies(terms.RECORD_ENDED)) <= 1
    assert settled(w) <= max_wh + 7 if started else settled(w) == 0
    return True


def test_power_cut_at_every_write():
    for torn in (False, True):
        step = 0
        w, _ = ready()
        w.ledger.cut, w.ledger.torn = 0, torn
        while interrupted(w, 200):
            step += 1
            w, _ = ready()
            w.ledger.cut, w.ledger.torn = step, torn
        assert step > 8, step


def test_a_stop_is_not_undone_by_a_power_cut():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    m.present(Decision())
    w.cut()
    w.boot()
    w.run(5)
    assert w.meter.flows_w == 0
    assert w.bodies(terms.RECORD_ENDED)[0][2:4] == [terms.STOP_AUTHORIZED, terms.STOPPED_LOCAL]
    settled(w)


def test_a_stop_before_the_first_sample_of_a_boot():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    w.cut()
    m = w.boot().machine
    assert m.present(Decision()) is False and m.state == "ending"
    w.run(5)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_LOCAL
    settled(w)


def test_resume_refused_ends_with_power_loss_at_the_true_register():
    w, m = ready()
    m.start(Decision())
    w.run(27)
    before = w.meter.wh
    w.cut()
    m = w.boot(may_resume=lambda tx: False).machine
    w.run(5)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[3] == terms.STOPPED_DEAUTHORIZED and body[4] == before
    w, m = ready()
    m.start(Decision())
    w.run(27)
    w.cut()
    m = w.boot().machine
    m._actuator.vehicle = lambda: False
    before = w.meter.wh
    w.run(5)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[3] == terms.STOPPED_POWER_LOSS and body[4] == before
    settled(w)


def test_resume_with_a_dead_meter_ends_at_the_last_checkpoint():
    w, m = ready()
    m.start(Decision())
    w.run(27)
    w.cut()
    w.meter.silent = True
    w.boot()
    w.run(70)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[3] == terms.STOPPED_POWER_LOSS and w.meter.flows_w == 0
    w.meter.silent = False
    w.run(5)
    assert 0 <= w.meter.wh - body[4] <= 50
    settled(w)


def test_energy_that_flowed_while_dark_is_nobodys():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    w.cut()
    w.meter.wh += 5000
    w.boot()
    w.run(5)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_POWER_LOSS
    assert w.bodies(terms.RECORD_UNATTRIBUTED)[-1][1] == w.meter.wh
    assert settled(w) < 100


def test_energy_that_flowed_while_dark_is_nobodys_even_if_the_end_has_to_wait():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    w.cut()
    before = w.ledger.log[-1][1][7]
    w.meter.wh += 5000
    w.boot()
    w.ledger.full = True
    w.run(15)
    w.ledger.full = False
    w.run(5)
    assert w.bodies(terms.RECORD_ENDED)[0][4] == before
    settled(w)


def test_used_energy_is_told_even_if_the_power_goes_between():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    m.stop()

    def dead(*used):
        raise PowerCut

    m._on_used = dead
    assert not w.run(5)
    station = w.boot()
    energy = w.attributed_wh()[0]
    assert station.used[(b"token--1", 1)][0] == energy > 50


def test_an_outage_longer_than_the_setting_ends_the_transaction():
    w, m = ready()
    m.start(Decision())
    w.run(30)
    w.cut()
    w.run(3700)
    w.boot()
    w.run(5)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_POWER_LOSS
    settled(w)


def test_power_cuts_on_the_real_ledger():
    """Whatever a cut leaves in flash, at every operation of a short transaction."""
    nightly = os.getenv("CHARGEKEEP_NIGHTLY") == "1"
    for number, outcome in enumerate(OUTCOMES):
        step = 0 if nightly else number % 3
        while True:
            w = None
            gc.collect()
            w = World(ledger=FlashLedger(seed=step + 1))
            w.boot()
            w.run(3)
            w.ledger.device.outcome = outcome
            w.ledger.device.cut_in = step
            if not interrupted(w, 120):
                break
            step += 1 if nightly else 3
        assert step > 6, step


def test_a_boot_reads_no_more_than_it_needs():
    w, m = ready()
    for _ in range(5):
        m.start(Decision(max_wh=300))
        w.run(200)
        assert m.state == "idle"
        m.ended = None  # its evidence is recorded
        w.run(2)
    m.start(Decision())
    w.run(60)
    seen = []
    records = w.ledger.records
    w.ledger.records = lambda from_seq=1: (seen.append(from_seq), records(from_seq))[1]
    w.cut()
    m = w.boot().machine
    numbers = [seq for seq, kind, _ in records() if kind == terms.RECORD_STARTED]
    assert seen == [numbers[-1]] and m.transaction.id == 6
    w.run(5)
    m.stop()
    w.run(5)
    w.cut()
    m = w.boot().machine
    assert seen[-1] == numbers[-1] and m.ended.id == 6, "its evidence is still to be made"
    w.ledger.append(15, [6, b"evidence"])
    m.ended = None
    w.run(5)
    w.cut()
    m = w.boot().machine
    ends = [seq for seq, kind, _ in records() if kind == terms.RECORD_ENDED]
    assert seen[-1] == ends[-1] and m.ended is None and m.accounted_wh == w.meter.wh


def test_records_that_thinning_moved_are_recalled_in_any_order():
    w, m = ready()
    m.start(Decision(max_wh=5000))
    w.run(100)
    w.meter.wh = 555000
    w.run(60)
    w.cut()
    w.run(100)
    w.boot()
    w.run(60)
    w.cut()
    plain = Memory(w.ledger)

    class Moved:
        """Started and every other record come last, with the seq they had."""

        def records(self, from_seq=1):
            found = list(w.ledger.records())
            return iter(found[1::2] + found[0::2])

    moved = Memory(Moved())
    for name in ("accounted_wh", "last_wh", "register_wh", "stamp"):
        assert getattr(plain, name) == getattr(moved, name), name
    tx, other = plain.transaction, moved.transaction
    assert tx.__dict__ == other.__dict__ and tx.elapsed_s >= 310 and tx.offset_wh < -370000
