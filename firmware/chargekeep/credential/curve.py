# Points of edwards25519 (RFC 8032 section 5.1) as programs for the field machine: signed combs of
# 6 teeth and 43 columns (one doubling and one addition per table a column); comb.py makes their
# tables. Long work comes as generators that yield every few milliseconds.

import sys

from micropython import const

# The architecture of native code, py/persistentcode.h: 4 is ARMv6-M, to 8 ARMv7E-M.
if 4 <= getattr(sys.implementation, "_mpy", 0) >> 10 & 15 <= 8:
    from chargekeep.credential.field_thumb import Machine
else:
    from chargekeep.credential.field import Machine

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

TEETH = const(6)
SPACING = const(43)
TABLE_SIZE = const(3072)

# Registers of the machine. X : Y : Z : T is the running point, x = X/Z, y = Y/Z, xy = T/Z
# (RFC 8032 section 5.1.4); J, K, L, M are the second point of an addition: y + x, y - x, 2dxy, 2z;
# D is d or 2d, O zero; A, B, C, E, F, G, H, U, V come and go.
_NAMES = "XYZTABCEFGHJKLMDOUV"
_X = const(0)
_Y = const(1)
_Z = const(2)
_T = const(3)
_A = const(4)
_B = const(5)
_E = const(7)
_J = const(11)
_K = const(12)
_L = const(13)
_D = const(15)
_O = const(16)
_U = const(17)
_V = const(18)


def program(text):
    # "A=B*C": A = B * C, the same for + and -; "A=B^5": A = B squared 5 times; "J=1@1": J, K, L =
    # this column's entry of table 1.
    code = bytearray()
    for step in text.split():
        b = step[4:]
        code.append(" *^+-@".index(step[3]))
        code.append(_NAMES.index(step[0]))
        code.append(max(0, _NAMES.find(step[2])))
        code.append(int(b) if b.isdigit() else _NAMES.index(b))
    return bytes(code)


# dbl-2008-hwcd, as RFC 8032 section 5.1.4: 4M + 4S
DOUBLE = program(
    "E=X+Y A=X^1 B=Y^1 C=Z^1 E=E^1 C=C+C H=A+B E=H-E G=A-B F=C+G X=E*F Y=G*H Z=F*G T=E*H"
)
# madd-2008-hwcd-3, complete: 6M, and one more for T where the next step is no doubling
_ADD_ENTRY = program(
    "A=Y-X A=A*K B=Y+X B=B*J C=T*L G=Z+Z E=B-A F=G-C G=G+C H=B+A X=E*F Y=G*H Z=F*G"
)
COLUMN = DOUBLE + program("J=0@0") + _ADD_ENTRY
_COLUMN_2 = COLUMN + program("T=E*H J=1@1") + _ADD_ENTRY
_AFFINE = program("X=X*E Y=Y*E")
_SCALE = program("A=A*Z B=B*Z")


def set_identity(machine):
    machine[_X] = 0
    machine[_Y] = 1
    machine[_Z] = 1
    machine[_T] = 0


def _digits(scalar):
    # Every comb digit is +1 or -1 (Hamburg's signed all-bits set): with bits b of 1 for +, the
    # digits sum to 2b - (2^258 - 1), so b = (scalar + 2^258 - 1) / 2 modulo the (odd) order.
    scalar += 2 ** (TEETH * SPACING) - 1
    if scalar & 1:
        scalar += L
    return scalar >> 1


def evaluate(machine, code):
    set_identity(machine)
    machine.run(code[len(DOUBLE) :], SPACING - 1)
    for column in range(SPACING - 2, -1, -machine.COLUMNS):
        machine.run(code, column, machine.COLUMNS)
        yield


def _affine(machine):
    machine.invert(_E, _Z)
    machine.run(_AFFINE)
    return machine[_X], machine[_Y]


def encode(x, y):
    """The point's 32 bytes (RFC 8032 section 5.1.2)."""
    return (y | (x & 1) << 255).to_bytes(32, "little")


def multiply(scalar, table):
    """Generator: yields None while it works, at last (x, y) of scalar * (the table's point).

    `scalar` is 0 to L - 1; the point must have order L, here and below.
    """
    machine = Machine((table,), (_digits(scalar),))
    yield from evaluate(machine, COLUMN)
    yield _affine(machine)


def multiply_two(s, k, tables):
    """Generator: yields None while it works, at last (x, y) of s * P + k * Q for two tables."""
    machine = Machine(tables, (_digits(s), _digits(k)))
    yield from evaluate(machine, _COLUMN_2)
    yield _affine(machine)


def sum_equals(s, k, tables, point):
    """Generator: yields None while it works, at last whether the sum of `multiply_two` is `point`,
    (x, y). Saves the inversion.
    """
    machine = Machine(tables, (_digits(s), _digits(k)))
    yield from evaluate(machine, _COLUMN_2)
    machine[_A], machine[_B] = point
    machine.run(_SCALE)
    yield machine[_A] == machine[_X] and machine[_B] == machine[_Y]
