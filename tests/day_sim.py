"""A day of a station with three meters on one bus, in simulated time and a real heap.

`day(hours, transactions)` returns figures; bench and tests use it.
"""

import gc
import time

from meter_sim import Bus, Clock, Random, Sdm630
from station_sim import Decision

from chargekeep.health import Health
from chargekeep.metering import sdm630
from chargekeep.metering.meter import ModbusMeter
from chargekeep.metering.modbus import Master
from chargekeep.metering.sampler import Sampler
from chargekeep.timebase import Timebase
from chargekeep.transaction.machine import Machine
from chargekeep.transaction.relay import Relay


class Sink:
    """The ledger's contract, keeping no more than counts."""

    def __init__(self):
        self.counts = {}
        self._counters = [0] * 16

    def append(self, kind, body):
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def append_many(self, records):
        for kind, body in records:
            self.append(kind, body)
        return 1

    def counter(self, i):
        return self._counters[i]

    def advance(self, i, value):
        self._counters[i] = value

    def records(self, from_seq=1):
        return iter(())


class Pin:
    def __init__(self, meter, watts):
        self._meter = meter
        self._watts = watts
        self.level = 0

    def value(self, level=None):
        if level is not None:
            self.level = level
            self._meter.power_w = self._watts if level else 0
        return self.level


def day(hours=24, transactions=200, evses=3):
    clock = Clock(1000)
    meters = {a: Sdm630(clock, 1000 * a) for a in range(1, evses + 1)}
    bus = Bus(clock, meters)
    master = Master(bus, clock_ms=clock.ms)
    health = Health()
    ledger = Sink()
    timebase = Timebase(ticks_ms=clock.ms)
    samplers = []
    machines = []
    for a in meters:
        sampler = Sampler(ModbusMeter(master, sdm630, a), health, clock_ms=clock.ms)
        relay = Relay(Pin(meters[a], 3000 * a))
        machines.append(Machine(a, 1, ledger, sampler, relay, timebase, health))
        machines[-1].resume()
        samplers.append(sampler)
    random = Random(7)
    end = clock.now + hours * 3600000
    every = hours * 3600000 // transactions
    next_start = clock.now + 60000
    tick = clock.now
    heap = []
    stalls = [0] * 64  # how many steps took 2**(i/4) us
    started = late = 0
    hour = clock.now
    while clock.now < end:
        wait = 250
        for sampler in samplers:
            begin = time.ticks_us()
            wait = min(wait, sampler.step())
            _note(stalls, time.ticks_diff(time.ticks_us(), begin))
        if clock.now >= tick:
            late += clock.now - tick > 500
            tick += 250
            for machine in machines:
                begin = time.ticks_us()
                machine.tick()
                _note(stalls, time.ticks_diff(time.ticks_us(), begin))
        if clock.now >= next_start and started < transactions:
            next_start += every
            machine = machines[started % evses]
            if machine.state == "idle":
                limit = 50 + random.below(400)
                machine.start(Decision(b"%08d" % started, max_wh=limit, id_hash=None))
                started += 1
        if clock.now >= hour:
            hour += 3600000
            gc.collect()
            heap.append(gc.mem_alloc() if hasattr(gc, "mem_alloc") else 0)
        # A busy loop comes round every 20 ms rather than the 5 ms it asks for.
        clock.now += max(1, min(4 * wait, tick - clock.now))
    return {
        "started": started,
        "ended": ledger.counts.get(4, 0),
        "records": sum(ledger.counts.values()),
        "cycles": sum([s.cycles for s in samplers]),
        "good": sum([s.good_cycles for s in samplers]),
        "errors": health.errors,
        "late": late,
        "heap": heap,
        "p99_us": _quantile(stalls, 99),
        "worst_us": _quantile(stalls, 100),
    }


def _note(stalls, us):
    i = 0
    while us > 1 and i < 60:
        if us < 4:
            i += (0, 0, 4, 6)[us]
            break
        us >>= 1
        i += 4
    stalls[i] += 1


def _quantile(stalls, percent):
    # Upper bound of the bucket in which the quantile lies.
    total = sum(stalls)
    seen = 0
    for i in range(len(stalls)):
        seen += stalls[i]
        if seen * 100 >= percent * total:
            return 2 ** ((i + 4) // 4) if i % 4 == 0 else 3 * 2 ** (i // 4)
    return 0
