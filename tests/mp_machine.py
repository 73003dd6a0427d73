# also: cpython
# heap: 320k
# The transaction machine in a simulated world: starts, stops, limits, and what flash refuses.
import ocpp_terms as terms
from mptest import raises
from station_sim import Decision, kinds, ready, settings_of, settled

from chargekeep import errors
from chargekeep.errors import ChargekeepError


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


def test_on_begin_may_refuse():
    def refuse(decision):
        raise ChargekeepError(errors.TOKEN_REPLAYED)

    w, m = ready(settings={"on_begin": refuse})
    raises(ChargekeepError, m.start, Decision(), code=errors.TOKEN_REPLAYED)
    assert w.ledger.counters[1] == 0, "a refusal costs no slot"
    assert w.meter.flows_w == 0 and terms.RECORD_STARTED not in kinds(w)


def test_no_power_flows_where_the_use_is_not_counted():
    def refuse(transaction):
        assert kinds(w)[-1] == terms.RECORD_STARTED
        raise ChargekeepError(errors.SPENT_FULL)

    w, m = ready(settings={"on_started": refuse})
    raises(ChargekeepError, m.start, Decision(), code=errors.SPENT_FULL)
    assert w.meter.flows_w == 0
    w.run(3)
    assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_OTHER and m.state == "idle"
    assert settled(w) == 0


def test_emergency_withdraws_at_once():
    w, m = ready()
    m.start(Decision())
    w.run(20)
    for code in range(40):
        w.station.health.count(code)  # more kinds of errors than it counts
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


def test_an_end_whose_use_cannot_be_stored_is_recorded_once():
    def full(*used):
        raise OSError(28)

    w, m = ready()
    m._on_used = full
    m.start(Decision())
    w.run(20)
    m.stop()
    w.run(5)
    assert m.state == "idle" and len(w.bodies(terms.RECORD_ENDED)) == 1
    assert w.station.health.errors[errors.LEDGER_PROGRAM] == 1
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


def test_info():
    w, m = ready()
    assert m.info() is None
    m.start(Decision())
    w.run(30)
    info = m.info()
    assert info["id"] == 1 and info["state"] == "charging" and 80 < info["energy_wh"] < 95
    assert 28 <= info["time_s"] <= 30 and info["tariff"] == [1, 3]


def test_the_enumerations_are_those_of_ocpp():
    from chargekeep.transaction import accounts, machine, recall

    for module in (accounts, machine, recall):
        for name, value in module.__dict__.items():  # none on MicroPython: constants are inlined
            if hasattr(terms, name[1:]):
                assert value == getattr(terms, name[1:]), name
