# Points of edwards25519 (RFC 8032 section 5.1) as programs for the field machine: signed combs of
# 7 teeth and 37 columns (one doubling and one addition per table a column), and the making of a
# comb table. Long work comes as generators that yield every few milliseconds.

from micropython import const

from chargekeep.credential.comb_base import POINTS
from chargekeep.credential.field import Machine, P

L = 2**252 + 27742317777372353535851937790883648493
D = 0x52036CEE2B6FFE738CC740797779E89800700A4D4141D8AB75EB4DCA135978A3
_SQRT_M1 = const(0x2B8324804FC1DF0B2B4D00993DFBD7A72F431806AD2FE478C4EE1B274A0EA0B0)

_TEETH = const(7)
_SPACING = const(37)
_ENTRIES = const(64)
TABLE_SIZE = const(6144)
_SLICE = const(12)  # columns a run: 3 ms on RP2040

_MUL = const(1)
_SQR = const(2)
_ADD = const(3)
_SUB = const(4)
_SELECT = const(5)
_INVERT = const(6)

# Registers. X:Y:Z:T is the running point, x = X/Z, y = Y/Z, xy = T/Z (RFC 8032 section 5.1.4).
_X = const(0)
_Y = const(1)
_Z = const(2)
_T = const(3)
_A = const(4)
_B = const(5)
_C = const(6)
_E = const(7)
_F = const(8)
_G = const(9)
_H = const(10)
_N0 = const(11)  # the other point of an addition: y + x, y - x, 2dxy (and 2z)
_N1 = const(12)
_N2 = const(13)
_N3 = const(14)
_D2 = const(15)  # 2d
_ZERO = const(16)
_V = const(17)
_U = const(18)

# fmt: off
_DOUBLE = bytes((  # dbl-2008-hwcd, RFC 8032 section 5.1.4: 4M + 4S
    _ADD, _E, _X, _Y,
    _SQR, _A, _X, 1,
    _SQR, _B, _Y, 1,
    _SQR, _C, _Z, 1,
    _SQR, _E, _E, 1,
    _ADD, _C, _C, _C,
    _ADD, _H, _A, _B,
    _SUB, _E, _H, _E,
    _SUB, _G, _A, _B,
    _ADD, _F, _C, _G,
))
_PRODUCTS = bytes((
    _MUL, _X, _E, _F,
    _MUL, _Y, _G, _H,
    _MUL, _Z, _F, _G,
))
_PRODUCT_T = bytes((
    _MUL, _T, _E, _H,
))
_MIXED = bytes((  # madd-2008-hwcd-3, complete: 7M
    _SUB, _A, _Y, _X,
    _MUL, _A, _A, _N1,
    _ADD, _B, _Y, _X,
    _MUL, _B, _B, _N0,
    _MUL, _C, _T, _N2,
    _ADD, _G, _Z, _Z,
    _SUB, _E, _B, _A,
    _SUB, _F, _G, _C,
    _ADD, _G, _G, _C,
    _ADD, _H, _B, _A,
))
_PROJECTIVE = bytes((  # the same with 2Z in N3
    _SUB, _A, _Y, _X,
    _MUL, _A, _A, _N1,
    _ADD, _B, _Y, _X,
    _MUL, _B, _B, _N0,
    _MUL, _C, _T, _N2,
    _MUL, _G, _Z, _N3,
    _SUB, _E, _B, _A,
    _SUB, _F, _G, _C,
    _ADD, _G, _G, _C,
    _ADD, _H, _B, _A,
))
_CACHE = bytes((  # N = X:Y:Z:T
    _ADD, _N0, _Y, _X,
    _SUB, _N1, _Y, _X,
    _MUL, _N2, _T, _D2,
    _ADD, _N3, _Z, _Z,
))
_NEGATE_N2 = bytes((_SUB, _N2, _ZERO, _N2))
_ADD_N = _PROJECTIVE + _PRODUCTS + _PRODUCT_T
_COLUMN = _DOUBLE + _PRODUCTS + _PRODUCT_T + bytes((_SELECT, _N0, 0, 0)) + _MIXED + _PRODUCTS
_COLUMN_2 = _COLUMN + _PRODUCT_T + bytes((_SELECT, _N0, 0, 1)) + _MIXED + _PRODUCTS
_AFFINE = bytes((  # X, Y = x, y
    _INVERT, _A, _Z, 0,
    _MUL, _X, _X, _A,
    _MUL, _Y, _Y, _A,
))
_ENTRY = bytes((  # N = table entry of x, y in X, Y
    _ADD, _N0, _Y, _X,
    _SUB, _N1, _Y, _X,
    _MUL, _N2, _X, _Y,
    _MUL, _N2, _N2, _D2,
))
_NORMALIZE = bytes((  # U = 1/(Z of this and the entries before), V = product of those before
    _MUL, _A, _U, _V,
    _MUL, _U, _U, _Z,
    _MUL, _X, _X, _A,
    _MUL, _Y, _Y, _A,
)) + _ENTRY
_ACCUMULATE_Z = bytes((_MUL, _V, _V, _Z))
_INVERT_V = bytes((_INVERT, _U, _V, 0))
# x = u v^3 (u v^7)^((p - 5) / 8), RFC 8032 section 5.1.3; y, d and 1 in Y, D2 and Z, u and v kept.
_DECOMPRESS = bytes((
    _SQR, _A, _Y, 1,
    _SUB, _U, _A, _Z,
    _MUL, _V, _A, _D2,
    _ADD, _V, _V, _Z,
    _SQR, _A, _V, 1,
    _MUL, _A, _A, _V,
    _MUL, _B, _A, _U,  # u v^3
    _SQR, _A, _A, 1,
    _MUL, _A, _A, _V,
    _MUL, _A, _A, _U,  # w = u v^7
    _SQR, _C, _A, 1,
    _SQR, _E, _C, 2,
    _MUL, _E, _E, _A,  # w^9
    _MUL, _C, _C, _E,  # w^11
    _SQR, _C, _C, 1,
    _MUL, _C, _C, _E,  # w^(2^5 - 1)
    _SQR, _E, _C, 5,
    _MUL, _C, _C, _E,  # 2^10 - 1
    _SQR, _E, _C, 10,
    _MUL, _E, _E, _C,  # 2^20 - 1
    _SQR, _F, _E, 20,
    _MUL, _E, _E, _F,  # 2^40 - 1
    _SQR, _E, _E, 10,
    _MUL, _C, _C, _E,  # 2^50 - 1
    _SQR, _E, _C, 50,
    _MUL, _E, _E, _C,  # 2^100 - 1
    _SQR, _F, _E, 100,
    _MUL, _E, _E, _F,  # 2^200 - 1
    _SQR, _E, _E, 50,
    _MUL, _E, _E, _C,  # 2^250 - 1
    _SQR, _E, _E, 2,
    _MUL, _E, _E, _A,  # w^(2^252 - 3)
    _MUL, _X, _E, _B,
    _SQR, _A, _X, 1,
    _MUL, _A, _A, _V,  # v x^2, which is u or -u where the point exists
))
# fmt: on


def _identity(machine):
    machine[_X] = 0
    machine[_Y] = 1
    machine[_Z] = 1
    machine[_T] = 0


def _digits(scalar):
    # Every comb digit is +1 or -1 (Hamburg's signed all-bits set): with bits b of 1 for +, the
    # digits sum to 2b - (2^259 - 1), so b = (scalar + 2^259 - 1) / 2 modulo the (odd) order.
    scalar += 2 ** (_TEETH * _SPACING) - 1
    if scalar & 1:
        scalar += L
    return scalar >> 1


def _evaluate(machine, program):
    _identity(machine)
    for column in range(_SPACING - 1, -1, -_SLICE):
        machine.run(program, column, min(_SLICE, column + 1))
        yield


def encode(machine):
    """The running point as RFC 8032 section 5.1.2 encodes it: 32 bytes."""
    machine.run(_AFFINE)
    return (machine[_Y] | (machine[_X] & 1) << 255).to_bytes(32, "little")


def multiply_base(scalar):
    """Generator: yields None while it works, at last the encoding of scalar * B.

    `scalar` is 0 to L - 1.
    """
    machine = Machine((base_table(),), (_digits(scalar),))
    yield from _evaluate(machine, _COLUMN)
    yield encode(machine)


def multiply_two(s, k, table):
    """Generator: yields None while it works, at last the encoding of s * B + k * (table's point).

    `s` and `k` are 0 to L - 1; the table's point must have order L.
    """
    machine = Machine((base_table(), table), (_digits(s), _digits(k)))
    yield from _evaluate(machine, _COLUMN_2)
    yield encode(machine)


def negative_table(public_key):
    """Generator: yields None while it works, at last the comb table of -A, or None where
    `public_key` is no canonical encoding (RFC 8032 section 5.1.3) of a point of order L.
    """
    machine = Machine()
    if not _decompress(machine, public_key):
        yield None
        return
    yield
    machine[_X] = P - machine[_X]
    table = yield from _build(machine)
    # Digits whose integer value is L, exactly: L * A is the identity for points of the
    # prime-order subgroup only.
    machine = Machine((table,), ((L + 2 ** (_TEETH * _SPACING) - 1) >> 1,))
    yield from _evaluate(machine, _COLUMN)
    identity = machine[_X] == 0 and machine[_Y] == machine[_Z]
    yield table if identity and public_key != b"\x01" + bytes(31) else None


def _decompress(machine, encoded):
    y = int.from_bytes(encoded, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    if y >= P:
        return False
    machine[_Y] = y
    machine[_Z] = 1
    machine[_D2] = D
    machine.run(_DECOMPRESS)
    x = machine[_X]
    square = machine[_A]
    u = machine[_U]
    if square != u:
        if square + u != P:
            return False
        x = x * _SQRT_M1 % P
    if x == 0 and sign:
        return False
    if x & 1 != sign:
        x = P - x
    machine[_X] = x
    return True


def _load_point(machine, first, buffer, offset):
    for i in range(4):
        machine.load(first + i, buffer, offset + 32 * i)


def _store_point(machine, first, buffer, offset):
    for i in range(4):
        machine.store(first + i, buffer, offset + 32 * i)


def _build(machine):
    # With P_j = 2^(37j) * (the affine point in X, Y): entry m is P_6 plus, for each j < 6,
    # P_j where bit j of m is 0, -P_j where it is 1. So the next bit is an addition of -2 P_j.
    table = bytearray(TABLE_SIZE)
    scratch = bytearray(32 * _ENTRIES)
    total = memoryview(scratch)[0:128]
    point = memoryview(scratch)[128:256]
    minus_two = memoryview(scratch)[256:]
    machine[_ZERO] = 0
    machine[_D2] = 2 * D % P
    machine[_T] = machine[_X] * machine[_Y] % P
    _store_point(machine, _X, point, 0)
    _identity(machine)
    _store_point(machine, _X, total, 0)
    for j in range(_TEETH):
        _load_point(machine, _X, point, 0)
        machine.run(_CACHE)
        _load_point(machine, _X, total, 0)
        machine.run(_ADD_N)
        _store_point(machine, _X, total, 0)
        if j == _TEETH - 1:
            break
        _load_point(machine, _X, point, 0)
        machine.run(_DOUBLE + _PRODUCTS + _PRODUCT_T)
        machine.run(_CACHE + _NEGATE_N2)
        machine.store(_N0, minus_two, 128 * j + 32)
        machine.store(_N1, minus_two, 128 * j)
        machine.store(_N2, minus_two, 128 * j + 64)
        machine.store(_N3, minus_two, 128 * j + 96)
        machine.run(_DOUBLE + _PRODUCTS + _PRODUCT_T, 0, _SPACING - 1)
        _store_point(machine, _X, point, 0)
        yield
    _load_point(machine, _X, total, 0)
    for i in range(3):
        machine.store(_X + i, table, 32 * i)
    for j in range(_TEETH - 1):
        _load_point(machine, _N0, minus_two, 128 * j)
        for m in range(1 << j):
            for i in range(3):
                machine.load(_X + i, table, 96 * m + 32 * i)
            # T is not kept: (X : Y : Z) scaled by Z has T = XY.
            machine.run(_RESCALE + _ADD_N)
            for i in range(3):
                machine.store(_X + i, table, 96 * (m + (1 << j)) + 32 * i)
        yield
    # All 64 denominators with one inversion (Montgomery's trick).
    machine[_V] = 1
    for m in range(_ENTRIES):
        machine.store(_V, scratch, 32 * m)
        machine.load(_Z, table, 96 * m + 64)
        machine.run(_ACCUMULATE_Z)
    machine.run(_INVERT_V)
    yield
    for m in range(_ENTRIES - 1, -1, -1):
        machine.load(_V, scratch, 32 * m)
        for i in range(3):
            machine.load(_X + i, table, 96 * m + 32 * i)
        machine.run(_NORMALIZE)
        for i in range(3):
            machine.store(_N0 + i, table, 96 * m + 32 * i)
    yield
    return table


# fmt: off
_RESCALE = bytes((
    _MUL, _T, _X, _Y,
    _MUL, _X, _X, _Z,
    _MUL, _Y, _Y, _Z,
    _SQR, _Z, _Z, 1,
))
# fmt: on

_base = None


def base_table():
    """The comb table of B, made from `comb_base` at the first use."""
    global _base
    if _base is None:
        table = bytearray(TABLE_SIZE)
        machine = Machine()
        machine[_D2] = 2 * D % P
        for m in range(_ENTRIES):
            machine.load(_X, POINTS, 64 * m)
            machine.load(_Y, POINTS, 64 * m + 32)
            machine.run(_ENTRY)
            for i in range(3):
                machine.store(_N0 + i, table, 96 * m + 32 * i)
        _base = table
    return _base
