# also: cpython
# The meters that are not Modbus: pulses (S0), SML telegrams, IEC 62056-21 mode C.
import struct

from meter_sim import Clock, Random
from mptest import raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.metering import sml
from chargekeep.metering.iec62056 import Iec62056Meter, even_parity, find, quantity
from chargekeep.metering.pulse import PulseCounter, PulseMeter
from chargekeep.metering.rate import Rate
from chargekeep.metering.sampler import Sampler


class Line:
    """A UART whose other end puts bytes into `coming`."""

    def __init__(self):
        self.coming = b""
        self.sent = []

    def write(self, data):
        self.sent.append(bytes(data))

    def any(self):
        return len(self.coming)

    def read(self, n):
        data, self.coming = self.coming[:n], self.coming[n:]
        return data


# Pulses


class Input:
    """machine.Pin with one interrupt handler."""

    IRQ_RISING = 1
    IRQ_FALLING = 2

    def irq(self, handler, trigger, hard=False):
        self.handler = handler
        self.trigger = trigger
        self.hard = hard


class SoftInput(Input):
    def irq(self, handler, trigger):
        Input.irq(self, handler, trigger)


def test_pulses_count_energy_and_power():
    clock = Clock(1000)
    pin = Input()
    counter = PulseCounter(pin, {"active": 0}, clock.ms)
    assert pin.hard and pin.trigger == Input.IRQ_FALLING
    meter = PulseMeter(counter, per_kwh=1000, clock_ms=clock.ms)
    meter.anchor(180200)
    for i in range(100):
        pin.handler(pin)
        clock.now += 5  # bounce
        pin.handler(pin)
        clock.now += 355
        if i % 3 == 0:
            assert meter.begin() and meter.poll()
    meter.poll()
    assert meter.register_wh == 180300 and 9500 < meter.power_w < 10500
    for _ in range(2):
        clock.now += 9000
        meter.poll()
    assert meter.power_w == 400, "no pulse for 9 s is no more than 400 W"
    clock.now += 75000
    meter.poll()
    assert meter.power_w < 50 and meter.resolution_wh == 1


def test_a_slow_pulse_output_and_one_without_hard_interrupts():
    clock = Clock(0)
    pin = SoftInput()
    meter = PulseMeter(PulseCounter(pin, {"debounce_ms": 200}, clock.ms), 80, 0, clock.ms)
    assert meter.resolution_wh == 13 and not pin.hard and pin.trigger == Input.IRQ_RISING
    for _ in range(8):
        pin.handler(pin)
        clock.now += 150  # the contact opens, and bounces
        pin.handler(pin)
        clock.now += 850
    meter.poll()
    assert meter.register_wh == 100


def test_a_pulse_meter_goes_on_from_the_recorded_register():
    clock = Clock(1000)
    meter = PulseMeter(PulseCounter(Input(), {}, clock.ms), clock_ms=clock.ms)
    sampler = Sampler(meter, Health(), clock_ms=clock.ms)
    sampler.anchor(5000)
    for _ in range(20):
        clock.now += 100
        sampler.step()
    assert sampler.register_wh == 5000


def test_power_from_a_register():
    rate = Rate(10)
    assert rate.power_w(1000, 0) == 0
    now = 0
    for second in range(10, 100, 10):  # 3.6 kW, read every 10 s
        now = 1000 * second
        assert rate.power_w(1000 + second, now) == 3600
    assert rate.power_w(1090, now + 10000) == 3600 and rate.power_w(1090, now + 100000) == 360
    assert rate.power_w(1090, now + 800000) < 50
    assert rate.power_w(1100, now + 810000) == 44
    assert rate.power_w(20, now + 820000) == 0, "another meter"


# SML


def tl(kind, data):
    return bytes([kind | (len(data) + 1)]) + data


def list_entry(obis, unit, scaler, value, kind=0x50):
    size = 8 if kind == 0x50 else 4
    number = value.to_bytes(size, "big")
    return (
        b"\x77\x07" + obis + b"\x65\x00\x00\x01\x82\x01"  # status, no time
        + bytes([0x62, unit, 0x52, scaler & 0xFF]) + tl(kind, number) + b"\x01"
    )  # fmt: skip


def telegram(wh, watts, escape_in_data=False):
    """An SML file as a household meter sends it, with made-up identities."""
    owner = b"\x0b\x0a\x01CKP\x00\x00\x00\x00\x07"
    body = list_entry(b"\x01\x00\x01\x08\x00\xff", 30, -1, wh * 10)
    body += list_entry(b"\x01\x00\x10\x07\x00\xff", 27, 0, watts)
    if escape_in_data:
        body += b"\x05\x1b\x1b\x1b\x1b"
    message = b"\x76\x05\x00\x00\x00\x01\x62\x00\x62\x00\x72\x63\x07\x01\x77\x01" + owner
    message += b"\x01\x01\x72" + body + b"\x01\x01\x63\x00\x00\x00"
    message = message.replace(b"\x1b\x1b\x1b\x1b", b"\x1b" * 8)
    fill = -len(message) % 4
    whole = b"\x1b\x1b\x1b\x1b\x01\x01\x01\x01" + message + bytes(fill)
    whole += b"\x1b\x1b\x1b\x1b\x1a" + bytes([fill])
    return whole + struct.pack("<H", sml.crc16_x25(whole))


def listen(meter, clock, most=6000):
    meter.begin()
    end = clock.now + most
    while clock.now < end:
        if meter.poll():
            return True
        clock.now += 20
    return False


def test_sml_crc():
    assert sml.crc16_x25(b"123456789") == 0x906E  # CRC-16/IBM-SDLC check value


def test_sml_telegram():
    clock = Clock(0)
    line = Line()
    meter = sml.SmlMeter(line, clock.ms)
    line.coming = telegram(1, 1)[37:] + telegram(180200, 11000) + telegram(180203, 11000)[:50]
    assert listen(meter, clock)
    assert (meter.register_wh, meter.power_w) == (180200, 11000)
    line.coming = telegram(180203, 11000)[50:]
    assert listen(meter, clock) and meter.register_wh == 180203
    line.coming = telegram(180204, -500 & (2**64 - 1))
    assert listen(meter, clock) and meter.power_w == -500
    line.coming = telegram(180205, 3, escape_in_data=True)
    assert listen(meter, clock) and meter.register_wh == 180205


def test_sml_faults_are_found():
    clock = Clock(0)
    line = Line()
    meter = sml.SmlMeter(line, clock.ms)
    raises(ChargekeepError, listen, meter, clock, code=errors.METER_TIMEOUT)
    good = telegram(180200, 11000)
    random = Random(9)
    for _ in range(200):
        at = 8 + random.below(len(good) - 8)
        data = bytearray(good)
        data[at] ^= 1 << random.below(8)
        line.coming = bytes(data) + good
        try:
            listen(meter, clock)
            assert meter.register_wh == 180200
        except ChargekeepError as e:
            assert e.code in (errors.METER_CRC, errors.METER_FRAME, errors.METER_TIMEOUT), e
        meter._buffer = line.coming = b""
    line.coming = b"\x1b\x1b\x1b\x1b\x01\x01\x01\x01" + bytes(1100)
    raises(ChargekeepError, listen, meter, clock, code=errors.METER_FRAME)
    # A whole telegram without the register
    line.coming = telegram(180200, 5).replace(
        b"\x01\x00\x01\x08\x00\xff", b"\x01\x00\x02\x08\x00\xff"
    )
    whole = line.coming[:-2]
    line.coming = whole + struct.pack("<H", sml.crc16_x25(whole))
    raises(ChargekeepError, listen, meter, clock, code=errors.METER_NOT_A_NUMBER)


def test_sml_never_trusts_a_length():
    random = Random(3)
    good = telegram(180200, 11000)
    for _ in range(300):
        cut = good[: random.below(len(good))]
        data = bytearray(cut + bytes([random.below(256) for _ in range(8)]))
        try:
            sml.entry(bytes(data), b"\x01\x00\x01\x08\x00\xff", 30)
        except ChargekeepError as e:
            assert e.code == errors.METER_FRAME


# IEC 62056-21


class ModeC:
    """A meter: identifies itself, then reads out at the rate that was agreed."""

    def __init__(self, clock, readout, offered="5"):
        self.clock = clock
        self.line = Line()
        self.line.write = self.write
        self.readout = readout
        self.offered = offered
        self.baudrate = 300
        self.at = None
        self.answer = self.coming = b""

    def set_baudrate(self, rate):
        self.baudrate = rate

    def write(self, data):
        text = bytes([b & 0x7F for b in data])
        assert all(bin(b).count("1") % 2 == 0 for b in data), "even parity"
        assert self.baudrate == 300
        if text == b"/?!\r\n":
            self.put(500, "/CKP%s" % self.offered + "chargekeep\r\n", 300)
        elif text == b"\x06050\r\n":
            block = self.readout + "!\r\n\x03"
            check = 0
            for c in block.encode():
                check ^= c
            self.put(700, "\x02" + block + chr(check), 9600)
        else:
            raise AssertionError(text)

    def put(self, after, text, rate):
        self.at = self.clock.now + after
        self.answer = even_parity(text)
        self.rate = rate

    def poll(self):
        if self.at is not None and self.clock.now >= self.at:
            self.at = None
            # At another rate than ours there is only rubbish.
            self.coming = bytes(self.answer) if self.rate == self.baudrate else b"\xff" * 9
        self.line.coming += self.coming[:3]
        self.coming = self.coming[3:]


READOUT = "F.F(00)\r\n0.0.0(12345678)\r\n1-0:1.8.0*255(000180.200*kWh)\r\n1.7.0(11.04*kW)\r\n"


def read_out(readout=READOUT, spoil=None, **other):
    clock = Clock(0)
    peer = ModeC(clock, readout, **other)
    meter = Iec62056Meter(peer.line, peer.set_baudrate, clock_ms=clock.ms)
    meter.begin()
    while clock.now < 30000:
        clock.now += 20
        peer.poll()
        if spoil:
            peer.coming = spoil(peer.coming)
        if meter.poll():
            return meter
    raise AssertionError("no end")


def test_iec62056_readout():
    meter = read_out()
    assert (meter.register_wh, meter.power_w) == (180200, 11040)
    assert meter.identification == "CKP5chargekeep"


def test_iec62056_faults():
    raises(ChargekeepError, read_out, READOUT, lambda data: b"", code=errors.METER_TIMEOUT)
    raises(
        ChargekeepError,
        read_out,
        READOUT,
        lambda data: data.replace(even_parity("180.200"), even_parity("980.200")),
        code=errors.METER_CRC,
    )
    raises(ChargekeepError, read_out, "F.F(00)\r\n", code=errors.METER_NOT_A_NUMBER)
    raises(ChargekeepError, read_out, "1.8.0(18x.2*kWh)\r\n", code=errors.METER_NOT_A_NUMBER)
    raises(
        ChargekeepError,
        lambda: read_out(offered="?"),
        code=errors.METER_FRAME,
    )


def test_quantities_are_exact():
    assert quantity("000180.200*kWh", "Wh") == 180200000
    assert quantity("16777216.001*kWh", "Wh") == 16777216001000
    assert quantity("12*Wh", "Wh") == 12000
    assert quantity("11.04*kW", "W") == 11040000
    for wrong in ("", "*kWh", "12*kvarh", "1-2*kWh", "12.3.4*kWh", "nan*kWh", "-5*kWh"):
        assert quantity(wrong, "Wh") is None, wrong
    assert find("11.8.0(1)\r\n1.8.0(2)\r\n", "1.8.0") == "2"
    assert find("1-0:1.8.0(3*kWh)(7)\r\n", "1.8.0") == "3*kWh"
    assert find("1.8.0", "1.8.0") is None


def test_even_parity():
    assert even_parity("/?!\r\n") == b"\xaf\x3f\x21\x8d\x0a"
