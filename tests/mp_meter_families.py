# also: cpython
# Every Modbus family against golden frames (encoded by pymodbus from the manuals' tables), and
# the rules that all families keep.
from binascii import unhexlify

from meter_sim import Clock
from mptest import raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.metering import meter as m
from chargekeep.metering.modbus import Master

# 9,876,543.2 Wh, 7,200 W, 230 V, 50 Hz: family -> (request, reply) of each block
GOLDEN = {
    "sdm630": (
        (
            "010400340018b1ce",
            "01043045e100000000000045e1000000000000000000003f8000000000000000000000"
            + "0000000042480000461a522c000000002d37",
        ),
    ),
    "sdm72": (
        ("0104003400023005", "01040445e10000bebe"),
        ("01040048000471df", "010408461a5229000000004ba2"),
    ),
    "sdm120": (
        (
            "01040000000e71ce",
            "01041c43660000000000000000000041fa6f4e000000000000000045e10000a8c3",
        ),
        ("01040046000691dd", "01040c42480000461a522c00000000b141"),
    ),
    "pzem004t": (("010400000008f1cc", "01041008fc7a48000019400001b43f009601f42baa"),),
    "abb_b2x": (
        ("010350000008550c", "01031000000000000f1206ffffffffffffffff1e36"),
        ("01035b140002972b", "010304000afc809a91"),
        ("01035b2c000156e7", "0103021388b512"),
    ),
    "em340": (
        ("010400280002f1c3", "010404194000013ccc"),
        ("0104003300034004", "01040601f481cd0001a894"),
        ("0104004e000491de", "0104080000000000000000240d"),
    ),
    "em24": (
        ("010400280002f1c3", "010404194000013ccc"),
        ("0104003700018004", "01040201f4b927"),
        ("0104003e00049005", "01040881cd000100000000ccad"),
        ("0104005c00037019", "0104060000000000006093"),
    ),
}
GOLDEN["sdm230"] = GOLDEN["sdm120"]

# What a register of the family's resolution shows of 9,876,543.2 Wh
SHOWN = {"sdm72": 9876540, "abb_b2x": 9876540, "em340": 9876500, "em24": 9876500}


def family(name):
    return __import__("chargekeep.metering." + name, None, None, ["x"])


class Script:
    """A UART that expects each request and gives its reply."""

    def __init__(self, pairs):
        self.pairs = [(unhexlify(a), unhexlify(b)) for a, b in pairs]
        self.coming = b""

    def write(self, frame):
        request, self.coming = self.pairs.pop(0)
        assert bytes(frame) == request, bytes(frame)

    def any(self):
        return len(self.coming)

    def readinto(self, buf):
        n = min(len(buf), len(self.coming))
        buf[:n] = self.coming[:n]
        self.coming = self.coming[n:]
        return n


def read(name, pairs):
    clock = Clock(100)
    script = Script(pairs)
    meter = m.ModbusMeter(Master(script, clock_ms=clock.ms), family(name))
    assert meter.begin()
    while not meter.poll():
        clock.now += 5
    assert not script.pairs
    return meter


def test_golden_frames():
    for name, pairs in GOLDEN.items():
        meter = read(name, pairs)
        # A float32 of 9,876.543 kWh is exact to 1 Wh
        assert meter.register_wh == SHOWN.get(name, 9876543), (name, meter.register_wh)
        assert meter.power_w == 7200, name
        assert meter.values.get(m.FREQUENCY, 50000) == 50000, name
        assert meter.values.get(m.VOLTAGE, 230000) == 230000, name
        exported = meter.values.get(m.ENERGY_EXPORT, 0)
        assert exported == (None if name == "abb_b2x" else 0), (name, exported)


def test_no_two_blocks_of_a_family_have_the_same_length():
    for name in GOLDEN:
        f = family(name)
        counts = [block[1] for block in f.BLOCKS]
        assert len(set(counts)) == len(counts), name
        for first, count, fields in f.BLOCKS:
            assert 0 < count <= 80 and first + count <= 0x10000
            for offset, _, encoding, _ in fields:
                size = 1 if encoding in (m.U16, m.S16) else 4 if encoding == m.U64 else 2
                assert offset + size <= count, (name, offset)
        measurands = [field[1] for block in f.BLOCKS for field in block[2]]
        assert m.ENERGY in measurands and m.POWER in measurands


def test_encodings():
    d = m.decode
    assert d(b"\x12\x34", 0, m.U16, 10) == 0x1234 * 10
    assert d(b"\xff\xfe", 0, m.S16, 1) == -2
    assert d(b"\xff\xff\xff\xfe", 0, m.S32, 1) == -2
    assert d(b"\x00\x01\x00\x02", 0, m.U32, 1) == 65538
    assert d(b"\x00\x01\x00\x02", 0, m.U32W, 1) == 131073
    assert d(b"\xff\xfe\xff\xff", 0, m.S32W, 100) == -200
    assert d(b"\xff\xfe\xff\xff", 0, m.U32W, 1) == 0xFFFFFFFE
    assert d(b"\x00" * 7 + b"\x05", 0, m.U64, 10) == 50
    for unmeasured, encoding in (
        (b"\xff" * 8, m.U64),
        (b"\x7f\xff\xff\xff", m.S32),
        (b"\xff\xff", m.U16),
        (b"\x7f\xff", m.S16),
    ):
        assert d(unmeasured, 0, encoding, 1) is None


def test_a_register_that_is_not_measured_is_no_reading():
    pairs = (("010350000008550c", "010310" + "ff" * 16 + "2c00"),) + GOLDEN["abb_b2x"][1:]
    reply = unhexlify(pairs[0][1])[:-2]
    from meter_sim import with_crc

    pairs = ((pairs[0][0], "".join(["%02x" % b for b in with_crc(reply)])),) + pairs[1:]
    raises(ChargekeepError, read, "abb_b2x", pairs, code=errors.METER_NOT_A_NUMBER)
