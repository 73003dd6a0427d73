# Makes the comb table of a point, as curve.py uses them: once a key, so ed25519.py loads this when
# it does and gives it back. Takes 1 KiB of heap while it works, and 0.1 s on RP2040.

from micropython import const

from chargekeep.credential.curve import (
    COLUMN,
    DOUBLE,
    SPACING,
    TEETH,
    L,
    Machine,
    P,
    evaluate,
    program,
    set_identity,
)

_CURVE_D = const(0x52036CEE2B6FFE738CC740797779E89800700A4D4141D8AB75EB4DCA135978A3)
_SQRT_M1 = const(0x2B8324804FC1DF0B2B4D00993DFBD7A72F431806AD2FE478C4EE1B274A0EA0B0)
_ENTRIES = const(32)

# Registers, see curve.py
_X = const(0)
_Y = const(1)
_Z = const(2)
_T = const(3)
_A = const(4)
_J = const(11)
_D = const(15)
_O = const(16)
_U = const(17)
_V = const(18)

# E = A^(2^250 - 1), by the exponents 9, 11 and 2^n - 1 for n = 5, 10, 20, 40, 50, 100, 200
_POWER = program(
    "C=A^1 E=C^2 E=E*A C=C*E C=C^1 C=C*E E=C^5 C=C*E E=C^10 E=E*C F=E^20 E=E*F E=E^10 C=C*E "
    "E=C^50 E=E*C F=E^100 E=E*F E=E^50 E=E*C"
)
# U, V = y^2 - 1, d y^2 + 1 (Z is 1); X = U V^3 (U V^7)^((p - 5) / 8), the
# root of U / V or -U / V (RFC 8032 section 5.1.3); A = V X^2, that is U or -U.
_ROOT = (
    program("A=Y^1 U=A-Z V=A*D V=V+Z A=V^1 A=A*V B=A*U A=A^1 A=A*V A=A*U")
    + _POWER
    + program("E=E^2 E=E*A X=E*B A=X^1 A=A*V")
)
_CACHE = program("J=Y+X K=Y-X L=T*D M=Z+Z")
_NEGATE = program("A=J+O J=K+O K=A+O L=O-L")
# add-2008-hwcd-3, complete: 8M, and one for T
_ADD_CACHED = program(
    "A=Y-X A=A*K B=Y+X B=B*J C=T*L G=Z*M E=B-A F=G-C G=G+C H=B+A X=E*F Y=G*H Z=F*G T=E*H"
)
# X : Y : Z without T is XZ : YZ : ZZ : XY
_RESCALE_ADD = program("T=X*Y X=X*Z Y=Y*Z Z=Z^1") + _ADD_CACHED
# U = 1 / (product of Z up to this entry), V = product of those before; J, K, L = the entry
_NORMALIZE = program("A=U*V U=U*Z X=X*A Y=Y*A J=Y+X K=Y-X L=X*Y L=L*D")
_TIMES_Z = program("V=V*Z")


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
    machine = Machine((table,), ((L + 2 ** (TEETH * SPACING) - 1) >> 1,))
    yield from evaluate(machine, COLUMN)
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
    set_identity(machine)
    store(_X, 4, scratch, 0)
    for j in range(TEETH):
        load(_X, 4, scratch, 128)
        run(_CACHE)
        load(_X, 4, scratch, 0)
        run(_ADD_CACHED)
        store(_X, 4, scratch, 0)
        if j < TEETH - 1:
            load(_X, 4, scratch, 128)
            run(DOUBLE + _CACHE + _NEGATE)
            store(_J, 4, scratch, 256 + 128 * j)
            yield
            for _ in range(0, SPACING - 1, machine.COLUMNS):
                run(DOUBLE, 0, machine.COLUMNS)
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
