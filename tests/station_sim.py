"""A station's metering and transaction parts in a simulated world, on MicroPython and CPython.

The world is what a power cut leaves: clock, meter, car and flash. A `Station` is what it takes.
"""

import ocpp_terms as terms
from meter_sim import Clock
from nor_sim import NorSim, PowerCut

from chargekeep import errors
from chargekeep.config import Config
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.ledger.ring import Ledger
from chargekeep.metering.sampler import Sampler
from chargekeep.timebase import Timebase
from chargekeep.transaction.machine import Machine
from chargekeep.transaction.relay import Relay

EPOCH = 1_700_000_000
KEY = bytes(range(32))


class FakeLedger:
    """The ledger's contract on a list; `full` refuses, `cut` cuts the power at the n-th write,
    before it is durable or after, as `torn` says."""

    def __init__(self):
        self.log = []
        self.counters = [0] * 16
        self.stamp = None
        self.full = False
        self.cut = None
        self.torn = False

    def _write(self, store):
        if self.cut is not None:
            self.cut -= 1
            if self.cut < 0:
                if not self.torn:
                    store()
                raise PowerCut
        store()

    def mounted(self, timebase):
        self.stamp = timebase.stamp
        self.cut = None
        return self

    def append(self, kind, body):
        return self.append_many([(kind, body)])

    def append_many(self, records):
        if self.full:
            raise ChargekeepError(errors.LEDGER_FULL)
        for kind, body in records:
            entry = (kind, self.stamp() + list(body))
            self._write(lambda entry=entry: self.log.append(entry))
        return len(self.log)

    def counter(self, i):
        return self.counters[i]

    def advance(self, i, value):
        if value < self.counters[i]:
            raise ChargekeepError(errors.COUNTER_DECREASE)

        def store():
            self.counters[i] = value

        self._write(store)

    def records(self, from_seq=1):
        for seq, (kind, payload) in enumerate(self.log, 1):
            if seq >= from_seq:
                yield seq, kind, payload


class FlashLedger:
    """The real ledger on simulated flash: `cut` and `outcome` go to the flash."""

    def __init__(self, blocks=4, seed=1):
        self.device = NorSim(blocks, seed)
        Ledger.format(self.device, b"station-sim-log!", KEY)
        self.mounted(None)

    def mounted(self, timebase):
        self.device.cut_in = -1
        self._ledger = Ledger(self.device, KEY, timebase)
        self._ledger.mount()
        return self._ledger

    @property
    def log(self):
        return [(kind, payload) for _, kind, payload in self._ledger.records()]


class DirectMeter:
    """A meter that answers at once, for stories of many hours. `told` replaces its register,
    `silent` takes it off the bus."""

    step_ms = 5
    cycle_ms = 1000
    rollover_wh = 0
    resolution_wh = 1

    def __init__(self, clock, wh=0):
        self._clock = clock
        self._since = clock.now
        self._mws = wh * 3600000
        self.flows_w = 0
        self.told = None
        self.silent = False
        self.register_wh = None
        self.power_w = None

    def flow(self, power_w):
        self._mws += self.flows_w * (self._clock.now - self._since)
        self._since = self._clock.now
        self.flows_w = power_w

    @property
    def wh(self):
        self.flow(self.flows_w)
        return self._mws // 3600000

    @wh.setter
    def wh(self, wh):
        self._mws = wh * 3600000
        self._since = self._clock.now

    def begin(self):
        return True

    def poll(self):
        if self.silent:
            raise ChargekeepError(errors.METER_TIMEOUT)
        self.register_wh = self.wh if self.told is None else self.told
        self.power_w = self.flows_w
        return True

    def frame(self):
        return b""


class Decision:
    def __init__(self, cti=b"token--1", max_wh=0, max_s=0, max_w=0, id_hash=b"h" * 16):
        self.accepted = True
        self.stop = False
        self.code = 0
        self.id_hash = id_hash
        self.cti = cti
        self.kid = b"kid1"
        self.max_wh = max_wh
        self.max_s = max_s
        self.max_w = max_w
        self.tariff_id = 1
        self.tariff_version = 3
        self.evidence = (1_900_000_000, 3, 1, 2, 3, 4)


class World:
    def __init__(self, wh=180200, demand_w=11000, feedback=False, ledger=None):
        self.clock = Clock(1000)
        self.meter = DirectMeter(self.clock, wh)
        self.ledger = ledger or FakeLedger()
        self.demand_w = demand_w
        self.plugged_in = True
        self.level = 0
        self.stuck = False
        self.feedback = feedback
        self.boots = 0
        self.clock_set = True
        self.step_s = 0  # how much the clock was put forward
        self.station = None

    # The relay's pin and the contactor behind it.

    def value(self, level=None):
        if level is not None:
            self.level = level
            self.load()
        return self.level

    def actuator(self, clock_ms, health):
        return Relay(self, FeedbackPin(self) if self.feedback else None)

    def load(self):
        closed = self.level or self.stuck
        self.meter.flow(self.demand_w if closed and self.plugged_in else 0)

    @property
    def closed(self):
        return bool(self.level or self.stuck)

    def boot(self, **settings):
        self.boots += 1
        self.value(0)
        self.station = Station(self, **settings)
        return self.station

    def cut(self):
        """The power goes: the relay falls off, what was in RAM is gone."""
        self.value(0)
        self.station = None

    def run(self, seconds):
        """Time passes; where a planned power cut comes, it ends early and returns False."""
        end = self.clock.now + int(seconds * 1000)
        try:
            while self.clock.now < end:
                self.clock.now += 250
                if self.station:
                    self.station.step()
        except PowerCut:
            self.cut()
            return False
        return True

    # What the ledger says in the end.

    def bodies(self, kind):
        return [payload[4:] for k, payload in self.ledger.log if k == kind]

    def attributed_wh(self):
        """(Wh of transactions, unattributed Wh), replayed from the records alone."""
        of_transactions = unattributed = 0
        start = None
        for kind, payload in self.ledger.log:
            body = payload[4:]
            if kind == terms.RECORD_STARTED:
                assert start is None, "two at once"
                start = body[6]
            elif kind == terms.RECORD_SEGMENT and start is not None:
                start -= body[0] - body[1]
            elif kind == terms.RECORD_ENDED:
                assert body[4] >= start, "negative energy"
                of_transactions += body[4] - start
                start = None
            elif kind == terms.RECORD_UNATTRIBUTED:
                assert body[1] > body[0]
                unattributed += body[1] - body[0]
        return of_transactions, unattributed


class FeedbackPin:
    def __init__(self, world):
        self._world = world

    def value(self):
        return int(self._world.closed)


class Station:
    def __init__(self, world, **settings):
        self.world = world
        self.health = Health()
        clock = world.clock
        booted = clock.now
        self.timebase = Timebase(
            ticks_ms=lambda: clock.now - booted, ticks_diff=lambda a, b: a - b
        )
        self.timebase.start(world.boots, 0)
        if world.clock_set:
            self.timebase.hint(EPOCH + clock.now // 1000 + world.step_s)
        self.sampler = Sampler(world.meter, self.health, clock_ms=self.timebase.ticks_ms)
        actuator = world.actuator(self.timebase.ticks_ms, self.health)
        self.used = {}
        self.machine = Machine(
            1,
            1,
            world.ledger.mounted(self.timebase),
            self.sampler,
            actuator,
            self.timebase,
            self.health,
            on_used=self.use,
            **settings,
        )
        self.machine.resume()

    def use(self, cti, tx_id, wh, s):
        self.used[(cti, tx_id)] = (wh, s)

    def step(self):
        while self.sampler.step() < 20:
            pass
        self.machine.tick()


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


def settings_of(w, **values):
    """The station's machine has these settings."""
    config = Config()
    for name, value in values.items():
        assert hasattr(config, name), name
        setattr(config, name, value)
    w.station.machine._config = lambda: config
