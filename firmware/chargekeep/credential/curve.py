# Points of edwards25519 (RFC 8032 section 5.1) as programs for the field machine: signed combs of
# 6 teeth and 43 columns (one doubling and one addition per table a column), and the making of a
# comb table. Long work comes as generators that yield every few milliseconds.

import sys

from micropython import const

# The architecture of native code, py/persistentcode.h: 4 is ARMv6-M, to 8 ARMv7E-M.
if 4 <= getattr(sys.implementation, "_mpy", 0) >> 10 & 15 <= 8:
    from chargekeep.credential.field_thumb import Machine
else:
    from chargekeep.credential.field import Machine

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
_CURVE_D = const(0x52036CEE2B6FFE738CC740797779E89800700A4D4141D8AB75EB4DCA135978A3)
_SQRT_M1 = const(0x2B8324804FC1DF0B2B4D00993DFBD7A72F431806AD2FE478C4EE1B274A0EA0B0)

_TEETH = const(6)
_SPACING = const(43)
_ENTRIES = const(32)
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


def _program(text):
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
_DOUBLE = _program(
    "E=X+Y A=X^1 B=Y^1 C=Z^1 E=E^1 C=C+C H=A+B E=H-E G=A-B F=C+G X=E*F Y=G*H Z=F*G T=E*H"
)
# madd-2008-hwcd-3, complete: 6M, and one more for T where the next step is no doubling
_ADD_ENTRY = _program(
    "A=Y-X A=A*K B=Y+X B=B*J C=T*L G=Z+Z E=B-A F=G-C G=G+C H=B+A X=E*F Y=G*H Z=F*G"
)
_COLUMN = _DOUBLE + _program("J=0@0") + _ADD_ENTRY
_COLUMN_2 = _COLUMN + _program("T=E*H J=1@1") + _ADD_ENTRY
_AFFINE = _program("X=X*E Y=Y*E")
_SCALE = _program("A=A*Z B=B*Z")

# The rest makes tables.
# E = A^(2^250 - 1), by the exponents 9, 11 and 2^n - 1 for n = 5, 10, 20, 40, 50, 100, 200
_POWER = _program(
    "C=A^1 E=C^2 E=E*A C=C*E C=C^1 C=C*E E=C^5 C=C*E E=C^10 E=E*C F=E^20 E=E*F E=E^10 C=C*E "
    "E=C^50 E=E*C F=E^100 E=E*F E=E^50 E=E*C"
)
# U, V = y^2 - 1, d y^2 + 1 (Z is 1); X = U V^3 (U V^7)^((p - 5) / 8), the
# root of U / V or -U / V (RFC 8032 section 5.1.3); A = V X^2, that is U or -U.
_ROOT = (
    _program("A=Y^1 U=A-Z V=A*D V=V+Z A=V^1 A=A*V B=A*U A=A^1 A=A*V A=A*U")
    + _POWER
    + _program("E=E^2 E=E*A X=E*B A=X^1 A=A*V")
)
_CACHE = _program("J=Y+X K=Y-X L=T*D M=Z+Z")
_NEGATE = _program("A=J+O J=K+O K=A+O L=O-L")
# add-2008-hwcd-3, complete: 8M, and one for T
_ADD_CACHED = _program(
    "A=Y-X A=A*K B=Y+X B=B*J C=T*L G=Z*M E=B-A F=G-C G=G+C H=B+A X=E*F Y=G*H Z=F*G T=E*H"
)
# X : Y : Z without T is XZ : YZ : ZZ : XY
_RESCALE_ADD = _program("T=X*Y X=X*Z Y=Y*Z Z=Z^1") + _ADD_CACHED
# U = 1 / (product of Z up to this entry), V = product of those before; J, K, L = the entry
_NORMALIZE = _program("A=U*V U=U*Z X=X*A Y=Y*A J=Y+X K=Y-X L=X*Y L=L*D")
_TIMES_Z = _program("V=V*Z")


def _identity(machine):
    machine[_X] = 0
    machine[_Y] = 1
    machine[_Z] = 1
    machine[_T] = 0


def _digits(scalar):
    # Every comb digit is +1 or -1 (Hamburg's signed all-bits set): with bits b of 1 for +, the
    # digits sum to 2b - (2^258 - 1), so b = (scalar + 2^258 - 1) / 2 modulo the (odd) order.
    scalar += 2 ** (_TEETH * _SPACING) - 1
    if scalar & 1:
        scalar += L
    return scalar >> 1


def _evaluate(machine, program):
    _identity(machine)
    machine.run(program[len(_DOUBLE) :], _SPACING - 1)
    for column in range(_SPACING - 2, -1, -machine.COLUMNS):
        machine.run(program, column, machine.COLUMNS)
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
    yield from _evaluate(machine, _COLUMN)
    yield _affine(machine)


def multiply_two(s, k, tables):
    """Generator: yields None while it works, at last (x, y) of s * P + k * Q for two tables."""
    machine = Machine(tables, (_digits(s), _digits(k)))
    yield from _evaluate(machine, _COLUMN_2)
    yield _affine(machine)


def sum_equals(s, k, tables, point):
    """Generator: yields None while it works, at last whether the sum of `multiply_two` is `point`,
    (x, y). Saves the inversion.
    """
    machine = Machine(tables, (_digits(s), _digits(k)))
    yield from _evaluate(machine, _COLUMN_2)
    machine[_A], machine[_B] = point
    machine.run(_SCALE)
    yield machine[_A] == machine[_X] and machine[_B] == machine[_Y]


def negative_table(public_key, table):
    """Generator: yields None while it works, at last whether it made the comb table of -A.

    It did not where `public_key` is no canonical encoding (RFC 8032 section 5.1.3) of a point of
    order L. `table` is a bytearray of TABLE_SIZE.
    """
    machine = Machine()
    machine[_O] = 0
    if not _decompress(machine, public_key):
        yield False
        return
    yield
    machine[_X] = P - machine[_X]
    yield from _build(machine, table)
    # Digits whose value as an integer is L: the identity for points of order L (and 1) only.
    machine = Machine((table,), ((L + 2 ** (_TEETH * _SPACING) - 1) >> 1,))
    yield from _evaluate(machine, _COLUMN)
    identity = machine[_X] == 0 and machine[_Y] == machine[_Z]
    yield identity and public_key != b"\x01" + bytes(31)


def _decompress(machine, encoded):
    y = int.from_bytes(encoded, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if y >= P:
        return False
    machine[_Y] = y
    machine[_Z] = 1
    machine[_D] = _CURVE_D
    machine.run(_ROOT)
    x = machine[_X]
    square = machine[_A]
    u = machine[_U]
    if square != u:
        if (square + u) % P:
            return False
        x = x * _SQRT_M1 % P
    if x == 0 and sign:
        return False
    if x & 1 != sign:
        x = P - x
    machine[_X] = x
    return True


def _build(machine, table):
    # With P_j = 2^(43j) * (the affine point in X, Y): entry m is P_5 plus, for each j < 5,
    # P_j where bit j of m is 0, -P_j where it is 1. So the next bit is an addition of -2 P_j.
    load = machine.load
    store = machine.store
    run = machine.run
    scratch = bytearray(32 * _ENTRIES)  # sum of P_j, P_j, five -2 P_j; later products of Z
    machine[_D] = 2 * _CURVE_D
    machine[_T] = machine[_X] * machine[_Y]
    store(_X, 4, scratch, 128)
    _identity(machine)
    store(_X, 4, scratch, 0)
    for j in range(_TEETH):
        load(_X, 4, scratch, 128)
        run(_CACHE)
        load(_X, 4, scratch, 0)
        run(_ADD_CACHED)
        store(_X, 4, scratch, 0)
        if j < _TEETH - 1:
            load(_X, 4, scratch, 128)
            run(_DOUBLE + _CACHE + _NEGATE)
            store(_J, 4, scratch, 256 + 128 * j)
            yield
            for _ in range(0, _SPACING - 1, machine.COLUMNS):
                run(_DOUBLE, 0, machine.COLUMNS)
                yield
            store(_X, 4, scratch, 128)
    load(_X, 4, scratch, 0)
    store(_X, 3, table, 0)
    for m in range(1, _ENTRIES):
        # The entry without its highest bit j.
        j = 0
        while 2 << j <= m:
            j += 1
        load(_J, 4, scratch, 256 + 128 * j)
        load(_X, 3, table, 96 * (m - (1 << j)))
        run(_RESCALE_ADD)
        store(_X, 3, table, 96 * m)
        if m & 3 == 3:
            yield
    # All 32 denominators with one inversion (Montgomery's trick).
    machine[_V] = 1
    for m in range(_ENTRIES):
        store(_V, 1, scratch, 32 * m)
        load(_Z, 1, table, 96 * m + 64)
        run(_TIMES_Z)
        if m & 3 == 3:
            yield
    machine.invert(_U, _V)
    for m in range(_ENTRIES - 1, -1, -1):
        if m & 3 == 3:
            yield
        load(_V, 1, scratch, 32 * m)
        load(_X, 3, table, 96 * m)
        run(_NORMALIZE)
        store(_J, 3, table, 96 * m)
    yield
