# The field machine on plain ints: runs small programs of GF(2^255 - 19) operations over a register
# file. It is what every port without field_thumb uses, and the reference field_thumb is tested
# against. Not constant time: MicroPython's big ints are not.

from micropython import const

_P = const(2**255 - 19)

# An instruction is four bytes: operation, destination, two operands (register numbers).
_MUL = const(1)  # d = a * b
_SQR = const(2)  # d = a squared b times
_ADD = const(3)  # d = a + b
_SUB = const(4)  # d = a - b
# 5 SELECT: d, d + 1, d + 2 = this column's entry of table b for scalar b, sign applied

_LOW = const((1 << 255) - 1)
_TEETH = const(6)
_SPACING = const(43)
_REGISTERS = const(19)


class Machine:
    """A register file of field elements, two comb tables and their scalars.

    A comb table is 32 entries of 96 bytes: y + x, y - x and 2dxy of a point, each 32 bytes
    little-endian. Scalars are comb digits: bit i + 43j is 1 for +, 0 for - of tooth j, column i.
    """

    COLUMNS = 2  # that a run should do at most, a divisor of 42; some 10 ms on ESP32

    def __init__(self, tables=(), scalars=()):
        self._r = [0] * _REGISTERS
        self._tables = tables
        self._scalars = scalars

    def __getitem__(self, register):
        return self._r[register] % _P

    def __setitem__(self, register, value):
        self._r[register] = value

    def load(self, register, count, buffer, offset):
        """Set `count` registers from `register` on from the 32 bytes each at `offset`."""
        for i in range(register, register + count):
            self._r[i] = int.from_bytes(buffer[offset : offset + 32], "little")
            offset += 32

    def store(self, register, count, buffer, offset):
        """Write `count` registers from `register` on to `offset`; `load` reads them back."""
        for i in range(register, register + count):
            buffer[offset : offset + 32] = (self._r[i] % _P).to_bytes(32, "little")
            offset += 32

    def run(self, program, top=0, times=1):
        """Run `program` `times` over; SELECT takes column `top`, then the one below ..."""
        r = self._r
        for column in range(top, top - times, -1):
            code = iter(program)
            for op in code:
                d = next(code)
                a = next(code)
                b = next(code)
                if op == _MUL:
                    x = r[a] * r[b]
                    x = (x & _LOW) + 19 * (x >> 255)
                    r[d] = (x & _LOW) + 19 * (x >> 255)
                elif op == _ADD:
                    r[d] = r[a] + r[b]
                elif op == _SUB:
                    r[d] = r[a] - r[b]
                elif op == _SQR:
                    x = r[a]
                    for _ in range(b):
                        x = x * x
                        x = (x & _LOW) + 19 * (x >> 255)
                        x = (x & _LOW) + 19 * (x >> 255)
                    r[d] = x
                else:  # SELECT
                    self._select(d, b, column)

    def invert(self, d, a):
        """Register d = 1 / register a; 0 for 0."""
        # Extended Euclid, far below the cost of a ** (p - 2) in these ints.
        u, v, x, y = _P, self._r[a] % _P, 0, 1
        while v:
            q = u // v
            u, v = v, u - q * v
            x, y = y, x - q * y
        self._r[d] = x if u == 1 else 0

    def _select(self, d, which, column):
        digits = self._scalars[which] >> column
        entry = 0
        for j in range(_TEETH - 1):
            entry |= (digits >> (_SPACING * j) & 1) << j
        positive = digits >> (_SPACING * (_TEETH - 1)) & 1
        if positive:
            entry ^= (1 << (_TEETH - 1)) - 1
        table = self._tables[which]
        self.load(d, 3, table, 96 * entry)
        if not positive:
            r = self._r
            r[d], r[d + 1], r[d + 2] = r[d + 1], r[d], -r[d + 2]
