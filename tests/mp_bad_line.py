# heap: 320k
# Every family of meters on a line that damages one reply in twenty: no wrong value becomes a
# sample, and nearly every cycle is good. An hour of simulated time each in the nightly run.
import os
import struct

from meter_sim import Bus, Clock, Random, Sdm630
from mp_meter_readers import READOUT, ModeC, telegram

from chargekeep.health import Health
from chargekeep.metering import meter as encodings
from chargekeep.metering.iec62056 import Iec62056Meter
from chargekeep.metering.meter import ENERGY, POWER, ModbusMeter
from chargekeep.metering.modbus import Master
from chargekeep.metering.sampler import Sampler
from chargekeep.metering.scan import FAMILIES, family
from chargekeep.metering.sml import SmlMeter

MINUTES = 60 if os.getenv("CHARGEKEEP_NIGHTLY") == "1" else 2
POWER_W = 11000
PER_MILLE = 50


def spoiled(random, data):
    """`data` with one byte altered, one time in twenty."""
    if not random.chance(PER_MILLE):
        return data
    at = random.below(len(data))
    mask = 1 + random.below(127)
    return bytes([b ^ mask if i == at else b for i, b in enumerate(data)])


def watched(sampler, clock, wh, lag_ms, step=None):
    """Runs `sampler`; every sample must be what the meter showed within `lag_ms`."""
    seen = 0
    end = clock.now + MINUTES * 60000
    slack = lag_ms * POWER_W // 3600000 + 1 + sampler.resolution_wh
    while clock.now < end:
        clock.now += max(1, min(sampler.step(), 20))
        if step:
            step()
        if sampler.samples != seen:
            seen = sampler.samples
            assert -slack <= sampler.register_wh - wh() <= 0, (sampler.register_wh, wh())
            assert sampler.power_w == POWER_W
    return seen


def encoded(encoding, value):
    if encoding == encodings.F32:
        return struct.pack(">f", value / 1000)
    swapped = encoding in (encodings.U32W, encodings.S32W)
    size = {encodings.U16: 2, encodings.S16: 2, encodings.U64: 8}.get(encoding, 4)
    data = value.to_bytes(size, "big")
    return data[2:] + data[:2] if swapped else data


class Described:
    """A meter of any family, by the description that the driver reads it with."""

    def __init__(self, described, truth):
        self.described = described
        self.truth = truth

    def __call__(self, function, register, count):
        for first, size, fields in self.described.BLOCKS:
            if (register, count) == (first, size) and function == self.described.FUNCTION:
                data = bytearray(2 * size)
                for offset, measurand, encoding, scale in fields:
                    value = {ENERGY: self.truth.wh, POWER: 1000 * POWER_W}.get(measurand, 0)
                    part = encoded(encoding, value // scale)
                    data[2 * offset : 2 * offset + len(part)] = part
                return bytes(data)
        return 2


def test_modbus():
    for name in FAMILIES:
        clock = Clock(5000)
        random = Random(11)
        truth = Sdm630(clock, 180200, POWER_W)
        bus = Bus(clock, {1: Described(family(name), truth)})
        bus.fault = lambda reply, random=random: [(0, spoiled(random, reply))]
        health = Health()
        meter = ModbusMeter(Master(bus, clock_ms=clock.ms), family(name))
        sampler = Sampler(meter, health, clock_ms=clock.ms)
        watched(sampler, clock, lambda truth=truth: truth.wh, 400)
        good = 100 * sampler.good_cycles / sampler.cycles
        print(name, sampler.cycles, "cycles,", good, "% good", health.errors)
        assert good >= 99 and health.errors, name


class Pushing:
    """The line of an SML meter: a telegram a second, at 9600 baud."""

    def __init__(self, clock, truth, random):
        self.clock, self.truth, self.random = clock, truth, random
        self.sent = 0
        self._next = clock.now + 1000
        self._coming = self._arrived = b""
        self._since = 0

    def step(self):
        now = self.clock.now
        if now >= self._next:
            self._next += 1000
            self._since = now
            self._coming = spoiled(self.random, telegram(self.truth.wh, POWER_W))
            self.sent += 1
        n = (now - self._since) * 96 // 100
        if n > 0 and self._coming:
            self._arrived += self._coming[:n]
            self._coming = self._coming[n:]
            self._since = now

    def any(self):
        return len(self._arrived)

    def read(self, n):
        data, self._arrived = self._arrived[:n], self._arrived[n:]
        return data


def test_sml():
    clock = Clock(5000)
    truth = Sdm630(clock, 180200, POWER_W)
    line = Pushing(clock, truth, Random(11))
    health = Health()
    sampler = Sampler(SmlMeter(line, clock.ms), health, clock_ms=clock.ms)
    seen = watched(sampler, clock, lambda: truth.wh, 1500, line.step)
    good = 100 * seen / line.sent
    print("sml", line.sent, "telegrams,", good, "% good", sampler.cycles, health.errors)
    # Nobody repeats a telegram: what the line damaged is gone.
    assert good >= (94 if MINUTES == 60 else 90) and health.errors


def test_iec62056():
    clock = Clock(5000)
    truth = Sdm630(clock, 180200, POWER_W)
    random = Random(11)
    peer = ModeC(clock, READOUT)
    health = Health()
    meter = Iec62056Meter(peer.line, peer.set_baudrate, clock_ms=clock.ms)
    sampler = Sampler(meter, health, clock_ms=clock.ms)

    def step():
        if peer.at is not None and clock.now >= peer.at:
            peer.answer = spoiled(random, peer.answer)
        if peer.at is None and not peer.coming:
            kwh = "%06d.%03d" % (truth.wh // 1000, truth.wh % 1000)
            peer.readout = READOUT.replace("000180.200", kwh).replace("11.04", "11.00")
        peer.poll()

    watched(sampler, clock, lambda: truth.wh, 9000, step)
    good = 100 * sampler.good_cycles / sampler.cycles
    print("iec62056", sampler.cycles, "cycles,", good, "% good", health.errors)
    assert good >= 99 or MINUTES < 60
