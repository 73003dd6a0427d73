# Figures of metering and transactions on the MicroPython VM, as JSON: vm_metering.py HOURS.
import gc
import json
import sys

from day_sim import day
from meter_sim import Bus, Clock, Random, Sdm630
from station_sim import Decision, World

from chargekeep.health import Health
from chargekeep.metering import sdm630
from chargekeep.metering.meter import ModbusMeter
from chargekeep.metering.modbus import Master
from chargekeep.metering.sampler import Sampler


def bad_line(hours=1, per_mille=50):
    """Percent of good cycles, and wrong values, with so many corrupted replies."""
    clock = Clock(1000)
    device = Sdm630(clock, 180200, 11000)
    bus = Bus(clock, {1: device})
    random = Random(11)

    def fault(reply):
        if not random.chance(per_mille):
            return [(0, reply)]
        at = random.below(len(reply))
        mask = 1 + random.below(255)
        return [(0, bytes([b ^ mask if i == at else b for i, b in enumerate(reply)]))]

    bus.fault = fault
    meter = ModbusMeter(Master(bus, clock_ms=clock.ms), sdm630)
    sampler = Sampler(meter, Health(), clock_ms=clock.ms)
    seen = wrong = 0
    end = clock.now + hours * 3600000
    while clock.now < end:
        clock.now += max(1, sampler.step())
        if sampler.samples != seen:
            seen = sampler.samples
            wrong += not -2 <= sampler.register_wh - device.wh <= 0
    return 100 * sampler.good_cycles / sampler.cycles, wrong


class Repeater:
    """A UART that answers each request at once with the same reply, and allocates nothing."""

    def __init__(self, reply):
        self.reply = reply
        self.at = self.left = 0

    def write(self, frame):
        self.at = 0
        self.left = len(self.reply)

    def any(self):
        return self.left

    def readinto(self, buf):
        n = 0
        while self.left and n < len(buf):
            buf[n] = self.reply[self.at]
            self.at += 1
            self.left -= 1
            n += 1
        return n


def cycle_heap(cycles=100):
    """Bytes of heap that a sampling cycle takes."""
    clock = Clock(1000)
    bus = Bus(clock, {1: Sdm630(clock, 180200, 11000)})
    replies = []
    bus.fault = lambda reply: replies.append(reply) or [(0, reply)]
    master = Master(bus, clock_ms=clock.ms)
    sampler = Sampler(ModbusMeter(master, sdm630), Health(), clock_ms=clock.ms)
    while sampler.samples < 3:
        clock.now += max(1, sampler.step())
    master._uart = Repeater(replies[-1])
    gc.collect()
    gc.disable()
    first = sampler.samples
    before = gc.mem_alloc()
    for _ in range(cycles * 200):
        clock.now += 5
        sampler.step()
    used = gc.mem_alloc() - before
    gc.enable()
    # What the loop's own clock costs on a VM that boxes it is not the cycle's
    return used / (sampler.samples - first)


def loss(cuts=300):
    """Most Wh and seconds between the last record and a power cut, at 22 and at 3.6 kW."""
    random = Random(3)
    worst_wh = worst_s = 0
    for i in range(cuts):
        w = World(demand_w=3600 if i % 2 else 22000)
        m = w.boot().machine
        w.run(3)
        m.start(Decision())
        w.run(5 + random.below(60000) / 1000)
        kind, payload = w.ledger.log[-1]
        register = payload[4:][3] if kind == 3 else payload[4:][6]
        worst_wh = max(worst_wh, w.meter.wh - register)
        worst_s = max(worst_s, w.station.timebase.uptime_s() - payload[3])
    return worst_wh, worst_s


good, wrong = bad_line()
wh, s = loss()
figures = day(int(sys.argv[1]), max(1, 200 * int(sys.argv[1]) // 24))
print(
    json.dumps(
        {
            "meter_good_cycles_percent_at_5pct_errors": round(good, 2),
            "meter_wrong_values_at_5pct_errors": wrong,
            "modbus_cycle_heap_bytes": cycle_heap(),
            "transaction_loss_bound_wh": wh,
            "transaction_loss_bound_s": s,
            "loop_stall_p99_ms": figures["p99_us"] / 1000,
            "metering_missed_cycles": figures["cycles"] - figures["good"],
            "metering_heap_growth_bytes": max(figures["heap"][1:]) - figures["heap"][1],
        }
    )
)
