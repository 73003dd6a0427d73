# also: cpython
# heap: 320k
# The transaction machine in a simulated world: starts, stops, limits, power cuts, a blind meter,
# a contactor that sticks; and that every watt-hour is in the records.
import gc
import os

import ocpp_terms as terms
from mptest import raises
from nor_sim import OUTCOMES, PowerCut
from station_sim import Decision, FlashLedger, World

from chargekeep import errors
from chargekeep.config import Config
from chargekeep.errors import ChargekeepError
from chargekeep.transaction.recall import Memory


def ready(**world):
    settings = world.pop("settings", {})
    w = World(**world)
    w.boot(**settings).step()
    assert w.run(3)
    assert w.station.machine.state == "idle"
    return w, w.station.machine


def kinds(w):
    return [kind for kind, _ in w.ledger.log]


def settled(w, since=180200):
    """All energy the meter counted is in the records, to the Wh."""
    of_transactions, unattributed = w.attributed_wh()
    m = w.station.machine
    assert m.transaction is None
    rest = m._sampler.register_wh - m.accounted_wh  # below the threshold for a record of its own
    assert of_transactions + unattributed + rest == m._sampler.register_wh - since
    assert w.meter.wh - m._sampler.register_wh <= 7
    return of_transactions


def test_started_is_durable_before_power_flows():
    w, m = ready()
    seen = []
    permit = w.value
    w.value = lambda level=None: (seen.append((level, kinds(w)[1:])), permit(level))[1]
    number = m.start(Decision())
    assert seen == [(1, [terms.RECORD_STARTED])], seen
    assert number == 1 and w.ledger.counters[1] == 1
    body = w.bodies(terms.RECORD_STARTED)[0]
    assert body == [1, 1, 1, b"h" * 16, b"token--1", b"kid1", 180200, 1, 3, 0, 0, 0, 1] + list(
        Decision().evidence
    )
    assert m.transaction.exp == Decision().evidence[0]
    seen.clear()
    w.run(20)
    m.stop(terms.STOPPED_REMOTE, terms.REMOTE_STOP)
    assert seen[0][0] == 0 and w.meter.flows_w == 0
    w.run(2)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[2:4] == [terms.REMOTE_STOP, terms.STOPPED_REMOTE] and m.state == "idle"
    assert body[4] == w.meter.wh == 180200 + settled(w)


def test_the_end_is_the_register_after_power_was_withdrawn():
    w, m = ready(demand_w=22000)
    for part in (0.25, 0.5, 0.75):
        m.start(Decision())
        w.run(20 + part)
        before = m._sampler.register_wh
        m.stop()
        w.run(2)
        assert before < w.bodies(terms.RECORD_ENDED)[-1][4] == w.meter.wh, part
    assert not w.bodies(terms.RECORD_UNATTRIBUTED)


def test_the_register_is_recorded_as_found():
    w, _ = ready()
    assert kinds(w) == [terms.RECORD_METER_VALUE]
    w.cut()
    w.meter.wh = 90000  # a meter exchanged before anything else was recorded
    w.boot()
    w.run(10)
    assert w.bodies(terms.RECORD_SEGMENT) == [[180200, 90000, 3]]


def test_a_meter_value_stands_for_all_energy_before_it():
    w, _ = ready(demand_w=60)
    settings_of(w, aligned_data_interval_s=60)
    w.stuck = True
    w.load()
    w.run(200)
    w.cut()
    values = [entry for entry in w.ledger.log if entry[0] == terms.RECORD_METER_VALUE]
    told = values[-1][1][4]
    assert Memory(w.ledger).accounted_wh == told >= 180202
    w.ledger.log = values  # what is older was acknowledged and erased
    assert Memory(w.ledger).accounted_wh == told


def test_checkpoints_every_10_s_or_50_wh():
    w, m = ready(demand_w=3600)
    m.start(Decision())
    w.run(60)
    periodic = [b for b in w.bodies(terms.RECORD_UPDATED) if b[2] == terms.METER_VALUE_PERIODIC]
    assert 5 <= len(periodic) <= 6
    w.demand_w = 22000
    w.load()
    w.run(60)
    registers = [b[3] for b in w.bodies(terms.RECORD_UPDATED)]
    assert all(b - a <= 57 for a, b in zip(registers, registers[1:]))
    numbers = [b[1] for b in w.bodies(terms.RECORD_UPDATED)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_car_that_rests_costs_little_flash():
    w, m = ready(demand_w=0)
    settings_of(w, ev_connection_timeout_s=1000)
    m.start(Decision())
    w.run(600)
    assert len(w.bodies(terms.RECORD_UPDATED)) <= 11
    assert m.charging_state == terms.SUSPENDED_EV
    w.demand_w = 7000
    w.load()
    w.run(2)
    assert m.charging_state == terms.CHARGING
    assert w.bodies(terms.RECORD_UPDATED)[-1][2] == terms.CHARGING_STATE_CHANGED


def test_energy_limit_overshoots_by_less_than_a_sample():
    w, m = ready(demand_w=22000)
    m.start(Decision(max_wh=300))
    w.run(120)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[2:4] == [terms.ENERGY_LIMIT_REACHED, terms.STOPPED_ENERGY_LIMIT]
    assert 300 <= settled(w) <= 300 + 2 * 7


def test_time_limit():
    w, m = ready()
    m.start(Decision(max_s=30))
    w.run(29)
    assert m.state == "charging"
    w.run(4)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[2:4] == [terms.TIME_LIMIT_REACHED, terms.STOPPED_TIME_LIMIT]


def test_power_limit_without_a_throttle_ends_the_transaction():
    w, m = ready(demand_w=11000)
    m.start(Decision(max_w=11000))
    w.run(30)
    assert m.state == "charging"
    w.demand_w = 16000
    w.load()
    w.run(20)
    assert m.state == "idle"
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_OTHER


def test_the_operator_may_limit_power():
    w, m = ready(demand_w=11000)
    m.limit(20000)
    m.start(Decision(max_w=15000))
    assert m._max_w() == 15000
    w.run(30)
    m.limit(0)
    assert m._max_w() == 15000
    m.limit(5000)
    assert m._max_w() == 5000
    w.run(20)
    assert m.state == "idle" and w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_OTHER
    m.start(Decision())
    assert m._max_w() == 5000


def test_the_same_token_stops_and_another_does_not():
    w, m = ready()
    assert m.present(Decision()) is True
    w.run(5)
    other = Decision(cti=b"token--2", id_hash=b"i" * 16)
    raises(ChargekeepError, m.present, other, code=errors.EVSE_OCCUPIED)
    assert m.present(Decision(cti=b"token--3")) is False, "another token of the same IdToken"
    w.run(2)
    assert w.bodies(terms.RECORD_ENDED)[0][2:4] == [terms.STOP_AUTHORIZED, terms.STOPPED_LOCAL]
    assert m.present(other) is True


def test_refusals():
    w, m = ready()
    no = Decision()
    no.accepted = False
    no.code = errors.TOKEN_EXPIRED
    raises(ChargekeepError, m.start, no, code=errors.TOKEN_EXPIRED)
    raises(ChargekeepError, m.stop, code=errors.TRANSACTION_STATE)
    assert m.accounted_wh
    w.ledger.full = True
    raises(ChargekeepError, m.start, Decision(), code=errors.TRANSACTION_NO_SPACE)
    w.ledger.full = False
    w.meter.silent = True
    w.run(8)
    raises(ChargekeepError, m.start, Decision(), code=errors.METER_STALE)
    assert w.meter.flows_w == 0 and terms.RECORD_STARTED not in kinds(w)


def test_no_start_before_the_first_sample():
    w = World()
    w.meter.silent = True
    m = w.boot().machine
    w.run(2)
    raises(ChargekeepError, m.start, Decision(), code=errors.METER_STALE)
    assert not w.ledger.log


def test_on_begin_may_refuse():
    def refuse(decision):
        raise ChargekeepError(errors.TOKEN_REPLAYED)

    w, m = ready(settings={"on_begin": refuse})
    raises(ChargekeepError, m.start, Decision(), code=errors.TOKEN_REPLAYED)
    assert w.ledger.counters[1] == 0, "a refusal costs no slot"
    assert w.meter.flows_w == 0 and terms.RECORD_STARTED not in kinds(w)


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


def test_power_cut_at_every_write():
    total = None
    for torn in (False, True):
        step = 0
        while True:
            w, m = ready()
            w.ledger.cut = step
            w.ledger.torn = torn
            try:
                m.start(Decision(max_wh=200))
                cut = not w.run(90)
            except PowerCut:
                w.cut()
                cut = True
            if not cut:
                break
            w.run(7)
            w.boot()
            w.run(200)
            started = w.bodies(terms.RECORD_STARTED)
            ended = w.bodies(terms.RECORD_ENDED)
            assert len(started) == len(ended) <= 1, (step, torn)
            assert settled(w) <= 207 if started else settled(w) == 0
            step += 1
        total = step
    assert total > 8, total


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


def test_meter_silent_for_ten_minutes():
    w, m = ready(demand_w=22000)
    m.start(Decision())
    w.run(60)
    before = w.meter.wh
    w.meter.silent = True
    w.run(600)
    assert m.state == "suspended" and w.meter.flows_w == 0
    assert w.meter.wh - before <= 510, "blind energy is bounded"
    assert w.bodies(terms.RECORD_FAULT)[0][0] == errors.METER_TIMEOUT
    assert w.bodies(terms.RECORD_UPDATED)[-1][4] == terms.SUSPENDED_EVSE
    w.meter.silent = False
    w.run(5)
    assert m.state == "charging" and w.meter.flows_w == 22000
    m.stop()
    w.run(2)
    settled(w)


def test_blind_near_the_limit_withdraws_sooner():
    w, m = ready(demand_w=22000)
    m.start(Decision(max_wh=400))
    w.run(50)
    w.meter.silent = True
    w.run(60)
    assert w.meter.flows_w == 0 and w.meter.wh - 180200 <= 410
    assert m.state == "suspended"
    w.meter.silent = False
    w.run(30)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_ENERGY_LIMIT
    assert settled(w) <= 410


def test_meter_swapped_mid_transaction():
    for new in (555000, 77000, 12):
        w, m = ready(demand_w=3600)
        m.start(Decision())
        w.run(60)
        first = w.meter.wh - 180200
        w.meter.wh = new
        w.run(60)
        m.stop()
        w.run(3)
        second = w.meter.wh - new
        (segment,) = w.bodies(terms.RECORD_SEGMENT)
        assert segment[1] - new <= 1
        energy = w.attributed_wh()[0]
        assert first + second - 3 <= energy <= first + second, (first, second, energy)


def test_glitches_bill_nothing():
    w, m = ready(demand_w=11000)
    m.start(Decision())
    for told in (5000000, 0, 180100, 2**31):
        w.run(10)
        w.meter.told = told
        w.run(1.5)
        w.meter.told = None
    w.run(10)
    m.stop()
    w.run(2)
    assert not w.bodies(terms.RECORD_SEGMENT)
    settled(w)


def test_unattributed_energy_is_recorded_and_a_leak_is_unsafe():
    w, m = ready(demand_w=3600)
    w.run(10)
    w.stuck = True
    w.load()
    w.run(3)
    assert m.unsafe == 0
    w.run(120)
    assert m.unsafe == errors.UNSAFE
    raises(ChargekeepError, m.start, Decision(), code=errors.UNSAFE)
    assert sum(b[1] - b[0] for b in w.bodies(terms.RECORD_UNATTRIBUTED)) >= 50
    settled(w)
    w.stuck = False
    w.load()
    m.clear()
    w.run(30)
    m.start(Decision())


def test_what_the_evse_itself_takes_is_no_leak():
    w, m = ready(demand_w=30)
    w.stuck = True
    w.load()
    w.run(3 * 3600)
    assert m.unsafe == 0
    assert sum(b[1] - b[0] for b in w.bodies(terms.RECORD_UNATTRIBUTED)) >= 50
    settled(w)


def test_a_welded_contactor_is_unsafe_within_a_second():
    w, m = ready(feedback=True)
    m.start(Decision())
    w.run(20)
    assert m.unsafe == 0
    w.stuck = True
    m.stop()
    w.run(1)
    assert m.unsafe == errors.ACTUATOR_FEEDBACK
    at_stop = w.meter.wh
    w.run(60)
    assert w.bodies(terms.RECORD_ENDED)[0][4] - at_stop <= 15, "the driver pays no leak"
    settled(w)
    assert w.bodies(terms.RECORD_FAULT)[0][:2] == [errors.ACTUATOR_FEEDBACK, 1]
    assert len(w.bodies(terms.RECORD_ENDED)) == 1 and len(w.bodies(terms.RECORD_FAULT)) == 1


def test_emergency_withdraws_at_once():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    m.emergency(errors.UNSAFE, "by the operator")
    assert w.meter.flows_w == 0
    w.run(2)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_EMERGENCY


def test_the_end_waits_for_room_in_flash():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    w.ledger.full = True
    w.run(30)
    m.stop()
    w.run(10)
    assert m.state == "ending" and w.meter.flows_w == 0
    assert w.station.health.errors[errors.LEDGER_FULL]
    w.ledger.full = False
    w.run(2)
    assert m.state == "idle"
    settled(w)


def test_car_that_leaves():
    w, m = ready()
    m.start(Decision())
    m._actuator.vehicle = lambda: True
    w.run(10)
    m._actuator.vehicle = lambda: False
    w.run(3)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[2:4] == [terms.EV_COMMUNICATION_LOST, terms.STOPPED_EV_DISCONNECTED]


def settings_of(w, **values):
    """The station's machine has these settings."""
    config = Config()
    for name, value in values.items():
        assert hasattr(config, name), name
        setattr(config, name, value)
    w.station.machine._config = lambda: config


def test_a_car_that_never_comes_and_one_that_is_full():
    w, m = ready(demand_w=0)
    m.start(Decision())
    w.run(119)
    assert m.state == "charging"
    w.run(5)
    body = w.bodies(terms.RECORD_ENDED)[0]
    assert body[3] == terms.STOPPED_TIMEOUT and m.state == "idle"
    settings_of(w, idle_timeout_s=600)
    w.demand_w = 11000
    m.start(Decision())
    w.run(200)
    w.demand_w = 0
    w.load()
    w.run(590)
    assert m.state == "charging"
    w.run(20)
    assert len(w.bodies(terms.RECORD_ENDED)) == 2
    settled(w)


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


def test_deauthorized_now_or_after_some_energy():
    w, m = ready()
    raises(ChargekeepError, m.deauthorize, 100, code=errors.TRANSACTION_STATE)
    m.start(Decision())
    w.run(30)
    m.deauthorize()
    w.run(2)
    assert w.bodies(terms.RECORD_ENDED)[0][2:4] == [terms.DEAUTHORIZED, terms.STOPPED_DEAUTHORIZED]
    m.start(Decision(max_wh=5000))
    w.run(30)
    before = m.info()["energy_wh"]
    m.deauthorize(100)
    m.deauthorize(100)
    w.run(60)
    body = w.bodies(terms.RECORD_ENDED)[1]
    assert body[3] == terms.STOPPED_DEAUTHORIZED and m.state == "idle"
    energy = body[4] - w.bodies(terms.RECORD_STARTED)[1][6]
    assert before + 100 <= energy <= before + 110


def test_clock_aligned_values():
    w, m = ready()
    settings_of(w, aligned_data_interval_s=60)
    m._slot = None
    m.start(Decision())
    w.run(600)
    values = [payload for kind, payload in w.ledger.log[1:] if kind == terms.RECORD_METER_VALUE]
    assert len(values) == 10
    assert all(payload[0] % 60 <= 1 and payload[5] == 11000 for payload in values)


def test_a_blind_meter_is_also_bounded_in_time():
    w, m = ready()
    settings_of(w, meter_stale_s=10)
    m.start(Decision())
    w.run(30)
    w.meter.silent = True
    w.run(12)
    assert m.state == "suspended"


def test_info():
    w, m = ready()
    assert m.info() is None
    m.start(Decision())
    w.run(30)
    info = m.info()
    assert info["id"] == 1 and info["state"] == "charging" and 80 < info["energy_wh"] < 95
    assert 28 <= info["time_s"] <= 30 and info["tariff"] == [1, 3]


def test_power_cuts_on_the_real_ledger():
    """Whatever a cut leaves in flash, at every operation of a short transaction."""
    nightly = os.getenv("CHARGEKEEP_NIGHTLY") == "1"
    for number, outcome in enumerate(OUTCOMES):
        step = 0 if nightly else number % 3
        while True:
            w = m = None
            gc.collect()
            w = World(ledger=FlashLedger(seed=step + 1))
            m = w.boot().machine
            w.run(3)
            w.ledger.device.outcome = outcome
            w.ledger.device.cut_in = step
            try:
                m.start(Decision(max_wh=120))
                cut = not w.run(60)
            except PowerCut:
                w.cut()
                cut = True
            if not cut:
                break
            w.run(7)
            w.boot()
            w.run(100)
            started = w.bodies(terms.RECORD_STARTED)
            ended = w.bodies(terms.RECORD_ENDED)
            assert len(started) == len(ended) <= 1, (step, outcome)
            assert settled(w) <= 127 if started else settled(w) == 0
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


def test_the_enumerations_are_those_of_ocpp():
    from chargekeep.transaction import machine, recall

    for module in (machine, recall):
        for name, value in module.__dict__.items():  # none on MicroPython: constants are inlined
            if hasattr(terms, name[1:]):
                assert value == getattr(terms, name[1:]), name
