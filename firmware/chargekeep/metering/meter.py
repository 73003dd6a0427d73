# A Modbus meter from a description: a family module lists the blocks to read and where each
# measurand lies; this class asks for them one after the other and turns them into integers.
# Every value is an integer in thousandths of the SI unit (mW, mV, mA, mHz), energy in Wh.

from micropython import const

from chargekeep.errors import METER_NOT_A_NUMBER, ChargekeepError

# Measurands (OCPP 2.0.1 part 2, MeasurandEnumType); a phase follows after a point.
ENERGY = "Energy.Active.Import.Register"
ENERGY_EXPORT = "Energy.Active.Export.Register"
POWER = "Power.Active.Import"
VOLTAGE = "Voltage"
CURRENT = "Current.Import"
FREQUENCY = "Frequency"

# Encodings of a register, high byte first within each.
F32 = const(0)  # IEEE 754 single, high word first; read as thousandths
U16 = const(1)
S16 = const(2)
U32 = const(3)
S32 = const(4)
U32W = const(5)  # low word first
S32W = const(6)
U64 = const(7)


def thousandths(buf, i):
    """The float32 (big-endian) at `buf[i]` times 1000, rounded to an integer; None if no number.

    In integers throughout: a board's floats are 24 bits wide and would lose watt-hours above
    16,777 kWh. What is closer to zero than 1e-9 but not zero is no reading either: such values
    (2.5e-29) come from bytes that are not a float at all.
    """
    exponent = (buf[i] & 0x7F) << 1 | buf[i + 1] >> 7
    mantissa = (buf[i + 1] | 0x80) & 0xFF
    mantissa = mantissa << 16 | buf[i + 2] << 8 | buf[i + 3]
    if exponent == 0:
        return 0 if mantissa == 0x800000 else None
    if exponent == 255:
        return None
    # value = mantissa * 2**(exponent - 150), and 1000 = 125 * 2**3
    shift = 147 - exponent
    if shift > 50:
        return None
    if shift > 32:
        value = 0
    elif shift > 23:
        low = (mantissa & 0xFFF) * 125 >> 12
        value = ((mantissa >> 12) * 125 + low + (1 << (shift - 13))) >> (shift - 12)
    elif shift > 0:
        rest = mantissa & ((1 << shift) - 1)
        value = (mantissa >> shift) * 125 + ((rest * 125 + (1 << (shift - 1))) >> shift)
    elif shift > -16:
        value = mantissa * 125 << -shift
    else:
        return None
    return -value if buf[i] & 0x80 else value


def _integer(buf, i, size, signed):
    value = 0
    for j in range(i, i + size):
        value = value << 8 | buf[j]
    # Meters mark an unmeasured value by the highest of the type (ABB B23 manual, section 9.4).
    top = 1 << (8 * size - 1)
    if value == (top - 1 if signed else 2 * top - 1):
        return None
    return value - 2 * top if signed and value >= top else value


def _swapped(buf, i, signed):
    high = buf[i + 2] << 8 | buf[i + 3]
    if signed and high & 0x8000:
        high -= 0x10000
    return high * 65536 + (buf[i] << 8 | buf[i + 1])


def decode(buf, i, encoding, scale):
    """The integer of `encoding` at `buf[i]` times `scale`, or None if the meter has none."""
    if encoding == F32:
        value = thousandths(buf, i)
    elif encoding >= U32W and encoding <= S32W:
        value = _swapped(buf, i, encoding == S32W)
    else:
        size = 2 if encoding <= S16 else 8 if encoding == U64 else 4
        value = _integer(buf, i, size, encoding == S16 or encoding == S32)
    return None if value is None else value * scale


class ModbusMeter:
    """A meter of `family` at `address` on the bus of `master`.

    A family is a module with NAME, FUNCTION, ROLLOVER_WH (0: it has none that matters),
    RESOLUTION_WH (the step of its register), IDENTITY (see scan.py) and BLOCKS, a tuple of
    (first register, register count, fields), a field being (offset in registers, measurand,
    encoding, scale). No two blocks of a family have the same length, so
    that no late reply can stand in for another. `begin` and `poll` read all blocks once; then
    `register_wh` and `power_w` (None if the meter tells none) are of that reading, and `values`
    has everything.
    """

    cycle_ms = 1000

    def __init__(self, master, family, address=1):
        self.master = master
        self.family = family
        self.address = address
        self.rollover_wh = family.ROLLOVER_WH
        self.resolution_wh = family.RESOLUTION_WH
        self.values = {f[1]: None for block in family.BLOCKS for f in block[2]}
        self._block = 0
        self._asked = False  # the current block's request is out

    @property
    def step_ms(self):
        return self.master.step_ms

    @property
    def register_wh(self):
        return self.values[ENERGY]

    @property
    def power_w(self):
        power = self.values.get(POWER)
        return None if power is None else (power + 500) // 1000

    def frame(self):
        """The raw reply, for evidence."""
        m = self.master
        return bytes(memoryview(m.frame)[: m.received])

    def begin(self):
        """Start a reading; False while the bus is in use."""
        self._block = 0
        return self._ask()

    def _ask(self):
        block = self.family.BLOCKS[self._block]
        self._asked = self.master.begin(self.address, self.family.FUNCTION, block[0], block[1])
        return self._asked

    def poll(self):
        """True once all blocks are in. Raises METER_* as `Master.poll`, and NOT_A_NUMBER."""
        if not self._asked:
            self._ask()
            return False
        if not self.master.poll():
            return False
        m = self.master
        for field in self.family.BLOCKS[self._block][2]:
            value = decode(m.frame, m.start + 2 * field[0], field[2], field[3])
            self.values[field[1]] = value
            if value is None and field[1] is ENERGY:
                raise ChargekeepError(METER_NOT_A_NUMBER, "address %d" % self.address)
        self._block += 1
        if self._block < len(self.family.BLOCKS):
            self._asked = False
            self._ask()
            return False
        return True
