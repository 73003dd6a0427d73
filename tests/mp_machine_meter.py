# also: cpython
# heap: 320k
# The machine and its meter: every watt-hour is in the records, whatever meter and contactor do.
import ocpp_terms as terms
from mptest import raises
from station_sim import Decision, World, kinds, ready, settings_of, settled

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.transaction.recall import Memory


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


def test_no_start_before_the_first_sample():
    w = World()
    w.meter.silent = True
    m = w.boot().machine
    w.run(2)
    raises(ChargekeepError, m.start, Decision(), code=errors.METER_STALE)
    assert not w.ledger.log


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


def test_no_start_from_a_register_in_doubt():
    w, m = ready()
    w.meter.wh += 60  # flowed past an open contactor
    w.run(1.5)
    raises(ChargekeepError, m.start, Decision(), code=errors.METER_STALE)
    w.run(5)
    m.start(Decision(max_wh=100))
    w.run(60)
    assert w.bodies(terms.RECORD_ENDED)[0][4] - w.bodies(terms.RECORD_STARTED)[0][6] <= 107


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


def test_the_frame_of_a_doubtful_reading_is_in_the_ledger_once():
    w, m = ready()
    m.start(Decision())
    w.meter.frame = lambda: b"what it said" * 20
    w.ledger.full = True
    for told in (5000000, 6000000):
        w.run(10)
        w.meter.told = told
        w.run(1.5)
        w.meter.told = None
        w.ledger.full = False  # what flash refused is kept until it takes it
    w.run(10)
    ((code, count, detail, raw),) = w.bodies(terms.RECORD_FAULT)
    assert (code, detail) == (errors.METER_JUMP, "5000000 Wh") and count >= 1
    assert raw == (b"what it said" * 20)[:128] and m._sampler.evidence is None
    w.run(1000)
    w.meter.told = 5000000
    w.run(1.5)
    assert len(w.bodies(terms.RECORD_FAULT)) == 2, "another episode"


def test_what_flows_past_a_stop_is_not_the_drivers():
    w, m = ready(demand_w=0)
    m.start(Decision())
    w.run(20)
    m.stop()
    w.meter.wh += 25  # in less than two seconds: no jump, but more than 25 kW could take
    w.run(5)
    assert 0 < w.bodies(terms.RECORD_ENDED)[0][4] - 180200 <= 14
