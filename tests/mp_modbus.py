# also: cpython
# The master against a simulated bus; golden frames from Modbus over Serial Line V1.02 and the
# SDM630 protocol document, section 1.3.
import struct

from meter_sim import Bus, Clock, Random, with_crc
from mptest import raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.metering.modbus import Master, crc16

WORDS = {r: r * 257 & 0xFFFF for r in range(64)}


def setup(**settings):
    clock = Clock(1000)
    bus = Bus(clock, {1: WORDS, 2: {0: 7}})
    master = Master(bus, clock_ms=clock.ms, **settings)
    return clock, bus, master


def ask(clock, master, address=1, function=4, register=0, count=2, limit=2000):
    end = clock.now + limit
    while not master.begin(address, function, register, count):
        clock.now += 1
        assert clock.now < end
    while not master.poll():
        clock.now += master.step_ms
        assert clock.now < end, "no end"
    return bytes(memoryview(master.frame)[master.start : master.start + master.size])


def error(clock, master, code, **request):
    return raises(ChargekeepError, lambda: ask(clock, master, **request), code=code)


def test_crc():
    # "SDM630 ... protocol": 01 04 00 00 00 02 71 CB reads phase 1 volts.
    frame = b"\x01\x04\x00\x00\x00\x02\x71\xcb"
    assert crc16(frame, 0, 6) == 0xCB71
    assert with_crc(frame[:6]) == frame


def test_golden_request_and_reply():
    clock, bus, master = setup()
    bus.devices[1] = lambda function, register, count: b"\x43\x66\x33\x34"
    assert struct.unpack(">f", ask(clock, master))[0] - 230.2 < 1e-4
    assert bus.requests == [b"\x01\x04\x00\x00\x00\x02\x71\xcb"]
    assert master.replies == 1 and not master.busy


def test_silence_is_a_timeout_and_the_line_rests_after_it():
    clock, _, master = setup()
    began = clock.now
    error(clock, master, errors.METER_TIMEOUT, address=9)
    assert 200 <= clock.now - began < 260, clock.now - began
    assert not master.begin(1, 4, 0, 2)
    clock.now += 60
    assert ask(clock, master) == b"\x00\x00\x01\x01"


def test_exception_response():
    clock, _, master = setup()
    error(clock, master, errors.METER_EXCEPTION, register=100)
    assert master.exception == 2
    assert ask(clock, master) == b"\x00\x00\x01\x01"


def test_bad_crc_fails_early():
    clock, bus, master = setup()
    bus.fault = lambda reply: [(0, reply[:-1] + b"\x00")]
    began = clock.now
    error(clock, master, errors.METER_CRC)
    assert clock.now - began < 100, clock.now - began


def test_every_single_bit_error_is_refused():
    clock, bus, master = setup()
    length = 9
    for bit in range(8 * length):
        bus.fault = lambda reply, bit=bit: [
            (0, bytes([b ^ (1 << bit % 8 if i == bit // 8 else 0) for i, b in enumerate(reply)]))
        ]
        try:
            ask(clock, master)
        except ChargekeepError:
            continue
        raise AssertionError("bit %d" % bit)


def test_split_noise_and_other_addresses():
    clock, bus, master = setup()
    good = b"\x00\x00\x01\x01"
    bus.fault = lambda reply: [(0, reply[:3]), (60, reply[3:])]
    assert ask(clock, master) == good
    bus.fault = lambda reply: [(0, b"\xff\x01\x04\x00" + reply)]
    assert ask(clock, master) == good
    bus.fault = lambda reply: [(0, b"\x01\x04\x04" + reply + b"\x55")]
    assert ask(clock, master) == good
    bus.fault = lambda reply: [(0, with_crc(b"\x02\x04\x04\x12\x34\x56\x78"))]
    error(clock, master, errors.METER_FRAME)
    bus.fault = lambda reply: [(0, with_crc(b"\x01\x03\x04\x12\x34\x56\x78"))]
    error(clock, master, errors.METER_FRAME)
    bus.fault = lambda reply: [(0, with_crc(b"\x01\x04\x02\x12\x34"))]
    error(clock, master, errors.METER_FRAME)
    bus.fault = lambda reply: [(0, bytes(400))]
    error(clock, master, errors.METER_FRAME)
    bus.fault = None
    assert ask(clock, master, limit=5000) == good
    assert master.strays


def test_echo_of_the_adapter_is_skipped_and_learned():
    clock, bus, master = setup()
    bus.echo = True
    assert ask(clock, master) == b"\x00\x00\x01\x01"
    assert master.echo
    error(clock, master, errors.METER_TIMEOUT, address=9)
    # A write is answered by its repetition: with a known echo, the echo alone is no answer.
    assert ask(clock, master, address=2, function=6, register=5, count=77) == b"\x00\x05\x00\x4d"
    assert bus.devices[2][5] == 77
    error(clock, master, errors.METER_TIMEOUT, address=9, function=6)


def test_writes_with_and_without_echo():
    for echo in (False, True):
        clock, bus, master = setup()
        bus.echo = master.echo = echo
        written = ask(clock, master, address=2, function=6, register=5, count=77)
        assert written == b"\x00\x05\x00\x4d" and bus.devices[2][5] == 77
        # Modbus Application Protocol V1.1b3, section 6.12: reply is register and count.
        written = ask(clock, master, address=2, function=16, register=1000, count=32)
        assert written == b"\x03\xe8\x00\x01" and bus.devices[2][1000] == 32
        assert bus.requests[-1][:9] == b"\x02\x10\x03\xe8\x00\x01\x02\x00\x20"
        assert ask(clock, master, address=2, function=5, register=400, count=0xFF00)
        assert bus.devices[2][400] == 0xFF00
        error(clock, master, errors.METER_TIMEOUT, address=9, function=16)


def test_late_reply_does_not_answer_another_question():
    clock, bus, master = setup()
    bus.fault = lambda reply: [(250, reply)]
    error(clock, master, errors.METER_TIMEOUT, register=0, count=2)
    bus.fault = None
    assert ask(clock, master, register=8, count=3) == b"\x08\x08\x09\x09\x0a\x0a"


def test_direction_pin_is_held_while_sending():
    clock = Clock(0)
    bus = Bus(clock, {1: WORDS})
    pin = []
    master = Master(bus, clock_ms=clock.ms, direction=lambda on: pin.append((on, clock.now)))
    clock.now = 50
    ask(clock, master)
    assert pin[0] == (1, 50) and pin[1][0] == 0, pin
    assert 8 * 11000 / 9600 <= pin[1][1] - 50 < 15, pin


def test_rubbish_never_passes_for_a_reply():
    clock, bus, master = setup()
    random = Random(5)
    bus.fault = lambda reply: [
        (0, bytes([random.below(256) for _ in range(1 + random.below(40))]))
    ]
    failed = 0
    for _ in range(300):
        try:
            ask(clock, master)
        except ChargekeepError:
            failed += 1
    assert failed == 300


def test_count_is_bounded():
    clock, bus, master = setup()
    clock.now += 100
    raises(ChargekeepError, master.begin, 1, 4, 0, 126, code=errors.METER_FRAME)
    assert not bus.requests


def test_transfer():
    import asyncio
    from time import ticks_ms

    from chargekeep.metering.scan import transfer

    class Now:
        @property
        def now(self):
            return ticks_ms()

    bus = Bus(Now(), {1: WORDS})
    master = Master(bus)
    assert bytes(asyncio.run(transfer(master, 1, 3, 1, 2))) == b"\x01\x01\x02\x02"
