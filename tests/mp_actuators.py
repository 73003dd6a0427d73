# also: cpython
# heap: 320k
# Existing chargers behind a serial line, each with a simulated peer: OpenEVSE over RAPI, EVSE DIN
# and Phoenix EV-CC over Modbus. The transaction machine runs on each of them.
import ocpp_terms as terms
from meter_sim import Bus, Clock
from station_sim import Decision, World

from chargekeep import errors
from chargekeep.health import Health
from chargekeep.metering.modbus import Master
from chargekeep.transaction import rapi
from chargekeep.transaction.modbus_evse import EV_CC, EVSE_DIN, ModbusEvse
from chargekeep.transaction.relay import Relay
from chargekeep.transaction.remote import CHARGING


class OpenEvse:
    """The other end of RAPI: sleeps, wakes, and charges while a car is there."""

    def __init__(self, world):
        self.world = world
        self.amps = 16
        self.dead = False
        self.deaf = ()  # commands it answers with $NK
        self.reply = b""
        self.seen = []

    def write(self, data):
        if self.dead:
            return
        assert data.endswith(b"\r")
        words = rapi.answer(data[:-1])
        assert words is not None, data
        self.seen = self.seen[-9:] + [words[0]]
        if words[0] in self.deaf:
            self.reply += b"$NK^21\r"
            return
        told = "OK"
        if words[0] == b"FE":
            self.world.value(1)
        elif words[0] == b"FS":
            self.world.value(0)
        elif words[0] == b"SC":
            self.amps = int(words[1])
        elif words[0] == b"GS":
            state = 254
            if self.world.closed:
                state = 3 if self.world.plugged_in and self.world.demand_w else 2
                if not self.world.plugged_in:
                    state = 1
            told = "OK %x 0" % state
        self.reply += b"$ST 3\r" + rapi.line(told)

    def any(self):
        return len(self.reply)

    def read(self, n):
        data, self.reply = self.reply[:n], self.reply[n:]
        return data


class Registers:
    """The other end of Modbus: `EVSE_DIN` or `EV_CC` by their registers."""

    def __init__(self, world, controller):
        self.world = world
        self.din = controller is EVSE_DIN
        self.amps = 0

    def __setitem__(self, register, value):
        if register in (1000, 22000):
            self.amps = value
        if register in (1000, 20000):
            self.world.value(1 if value else 0)

    def get(self, register):
        world = self.world
        at = 0 if not world.plugged_in else 2 if world.closed and world.demand_w else 1
        if register == 1002 and self.din:
            return at + 1
        if register == 24000 and not self.din:
            return ord("ABC"[at]) << 8
        return None


def world_on(kind):
    """A world whose station drives `kind` of charger, and that charger."""
    w = World(demand_w=3000)
    if kind == "rapi":
        peer = OpenEvse(w)
        w.actuator = lambda clock_ms, health: rapi.Rapi(peer, health, clock_ms=clock_ms)
    elif kind == "relay":
        peer = None
        w.actuator = lambda clock_ms, health: Relay(w)
    else:
        controller = EVSE_DIN if kind == "din" else EV_CC
        peer = Registers(w, controller)

        def make(clock_ms, health):
            bus = Bus(w.clock, {1: peer})
            w.bus = bus
            return ModbusEvse(
                Master(bus, clock_ms=w.clock.ms), controller, health, phases=1, clock_ms=clock_ms
            )

        w.actuator = make
    w.boot()
    w.run(5)
    return w, peer


KINDS = ("relay", "rapi", "din", "ev_cc")


def test_every_charger_runs_a_transaction():
    for kind in KINDS:
        w, peer = world_on(kind)
        m = w.station.machine
        assert m.state == "idle" and not w.closed, kind
        m.start(Decision(max_wh=100))
        w.run(1.5)
        assert w.closed and w.meter.flows_w == 3000, kind
        w.run(60)
        assert m.state == "charging" and m.charging_state == terms.CHARGING, kind
        if kind != "relay":
            assert m._actuator.feedback() is True and m._actuator.pilot == CHARGING, kind
            assert m._actuator.vehicle() is True
            assert peer.amps == 16
        w.run(120)
        assert m.state == "idle" and not w.closed and m.unsafe == 0, kind
        body = w.bodies(terms.RECORD_ENDED)[0]
        assert body[3] == terms.STOPPED_ENERGY_LIMIT
        assert 100 <= w.attributed_wh()[0] <= 103, (kind, w.attributed_wh())
        assert not w.station.health.errors, (kind, w.station.health.errors)


def test_a_withdrawal_reaches_the_charger_within_a_second():
    for kind in KINDS:
        w, _ = world_on(kind)
        m = w.station.machine
        m.start(Decision())
        w.run(20)
        m.emergency(errors.UNSAFE, "test")
        at = w.clock.now
        while w.closed:
            w.run(0.25)
            assert w.clock.now - at <= 1000, kind


def test_a_car_that_leaves_ends_the_transaction():
    for kind in KINDS[1:]:
        w, _ = world_on(kind)
        m = w.station.machine
        m.start(Decision())
        w.run(20)
        w.plugged_in = False
        w.load()
        w.run(5)
        assert m.state == "idle", kind
        assert w.bodies(terms.RECORD_ENDED)[0][3] == terms.STOPPED_EV_DISCONNECTED, kind


def test_a_charger_that_does_not_withdraw_is_unsafe():
    w, peer = world_on("rapi")
    m = w.station.machine
    m.start(Decision())
    w.run(20)
    peer.deaf = (b"FS",)
    m.stop()
    w.run(2.5)
    assert m.unsafe == errors.ACTUATOR_FEEDBACK and w.closed
    assert w.station.health.errors[errors.ACTUATOR_SILENT]
    peer.deaf = ()
    w.run(2)
    assert not w.closed and m._actuator.feedback() is False


def test_a_charger_that_confirms_but_goes_on_is_unsafe():
    w, peer = world_on("rapi")
    m = w.station.machine
    m.start(Decision())
    w.run(20)
    w.stuck = True  # it says it sleeps, and its contactor is welded
    m.stop()
    w.run(3)
    assert m.unsafe == errors.ACTUATOR_FEEDBACK and b"FS" in peer.seen


def test_a_charger_that_dies_while_charging():
    for kind in ("rapi", "din"):
        w, peer = world_on(kind)
        m = w.station.machine
        m.start(Decision())
        w.run(20)
        if kind == "rapi":
            peer.dead = True
        else:
            w.bus.devices = {}
        w.run(5)
        assert m.state == "charging" and m._actuator.feedback() is None
        m.stop()
        w.run(3)
        assert m.unsafe == errors.ACTUATOR_FEEDBACK, kind
        assert w.station.health.errors[errors.ACTUATOR_SILENT]


def test_power_limit_becomes_a_current():
    for kind in ("rapi", "din", "ev_cc"):
        w, peer = world_on(kind)
        m = w.station.machine
        m.start(Decision(max_w=2300))
        w.run(3)
        assert peer.amps == 10, (kind, peer.amps)
        w.run(60)
        assert m.state == "charging", "the charger keeps the limit, not we"


def test_a_limit_below_6_a_cannot_be_kept():
    w, peer = world_on("rapi")
    actuator = w.station.machine._actuator
    assert not actuator.limit(6 * 230 - 1) and actuator.limit(6 * 230)
    assert actuator.limit(0) and actuator.limit(50000)
    w.run(2)
    assert peer.amps == 16


def test_rapi_lines():
    # Check values from the protocol's description in the open_evse sources
    assert rapi.line("GM") == b"$GM^2E\r"
    assert rapi.line("FE") == b"$FE^27\r"
    assert rapi.answer(b"$GM^2E") == [b"GM"]
    assert rapi.answer(b"$OK 3 15") == [b"OK", b"3", b"15"]
    assert rapi.answer(b"$OK 3^00") is None and rapi.answer(b"OK 3") is None


def test_rapi_states():
    health = Health()
    clock = Clock(0)
    w = World()
    charger = rapi.Rapi(OpenEvse(w), health, clock_ms=clock.ms)
    charger.permitted = True
    for told, pilot in (
        (b"1", "A"),
        (b"2", "B"),
        (b"3", "C"),
        (b"fe", None),
        (b"254", None),
        (b"5", None),
    ):
        assert charger._state([b"OK", told, b"0"])
        assert charger.pilot == pilot, told
    for wrong in ([b"OK"], [b"OK", b"x1"]):
        assert not charger._state(wrong)


def test_controllers_share_a_bus_with_a_meter():
    from meter_sim import Sdm630

    from chargekeep.metering import sdm630
    from chargekeep.metering.meter import ModbusMeter
    from chargekeep.metering.sampler import Sampler

    w = World()
    clock = w.clock
    peer = Registers(w, EVSE_DIN)
    bus = Bus(clock, {1: Sdm630(clock, 1000), 2: peer})
    master = Master(bus, clock_ms=clock.ms)
    health = Health()
    sampler = Sampler(ModbusMeter(master, sdm630), health, clock_ms=clock.ms)
    evse = ModbusEvse(master, EVSE_DIN, health, address=2, clock_ms=clock.ms)
    tick = 0
    while clock.now < 60000:
        if clock.now >= tick:
            tick = clock.now + 250
            evse.poll()
            if clock.now > 30000:
                evse.permit()
        clock.now += max(1, sampler.step())
    assert sampler.good_cycles >= 57 and peer.amps == 16 and evse.pilot == CHARGING
    assert not health.errors, health.errors
