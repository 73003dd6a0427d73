"""The portable field, combs and tables against plain Python arithmetic."""

import random

import ed25519_reference as reference
import pytest
from ed25519_reference import L, P

from chargekeep.credential import comb, curve, ed25519

BOUNDARY = [0, 1, 2, 19, P - 1, P, P + 1, 2 * P, 2**255 - 1, 2**255, 2**256 - 1, 2**128 - 1]
A, B, C = (curve._NAMES.index(name) for name in "ABC")
OPERATIONS = {
    "C=A*B": lambda a, b: a * b,
    "C=A^1": lambda a, b: a * a,
    "C=A^9": lambda a, b: pow(a, 2**9, P),
    "C=A+B": lambda a, b: a + b,
    "C=A-B": lambda a, b: a - b,
    "C=A-B C=C*C C=C-A C=C*B": lambda a, b: ((a - b) ** 2 - a) * b,  # of what is not reduced
}


def _field(count, seed):
    rng = random.Random(seed)
    programs = {curve.program(text): f for text, f in OPERATIONS.items()}
    cases = [(a, b) for a in BOUNDARY for b in BOUNDARY]
    cases += [(rng.getrandbits(256), rng.getrandbits(256)) for _ in range(count - len(cases))]
    machine = curve.Machine()
    buffer = bytearray(64)
    for a, b in cases:
        buffer[:] = a.to_bytes(32, "little") + b.to_bytes(32, "little")
        for program, expected in programs.items():
            machine.load(A, 2, buffer, 0)
            machine.run(program)
            assert machine[C] == expected(a, b) % P
        machine.invert(C, A)
        assert machine[C] == pow(a, P - 2, P)
        machine.store(A, 2, buffer, 0)
        assert int.from_bytes(buffer[:32], "little") == a % P


def test_field():
    _field(1_000, 1)


@pytest.mark.nightly
def test_field_long():
    _field(100_000, 2)


def _entries(table):
    return [
        tuple(int.from_bytes(table[at + 32 * i : at + 32 * i + 32], "little") for i in range(3))
        for at in range(0, len(table), 96)
    ]


@pytest.mark.parametrize("scalar", [None, 1, 2**100 + 7])
def test_table(scalar):
    """The base point's comb table and others, entry by entry."""
    if scalar is None:
        point, key = reference.B, ed25519.MINUS_B
    else:
        point = reference.negate(reference.multiply(scalar, reference.B))
        key = reference.encode(reference.negate(point))
    table = bytearray(curve.TABLE_SIZE)
    assert ed25519._run(comb.negative_table(key, table))
    expected = [
        ((y + x) % P, (y - x) % P, 2 * reference.D * x * y % P) for x, y in reference.comb(point)
    ]
    assert _entries(table) == expected


def test_multiplication():
    """Scalars at the ends of their range and of every kind of digit."""
    rng = random.Random(3)
    base = bytearray(curve.TABLE_SIZE)
    assert ed25519._run(comb.negative_table(ed25519.MINUS_B, base))
    scalars = [0, 1, 2, 8, L - 2, L - 1, (L - 1) // 2, 2**43 - 1, 2**215, 2**252]
    scalars += [rng.randrange(L) for _ in range(10)]
    for scalar in scalars:
        expected = reference.multiply(scalar, reference.B)
        assert ed25519._run(curve.multiply(scalar, base)) == expected
        k = rng.choice(scalars)
        total = reference.add(expected, reference.multiply(k, reference.B))
        tables = (base, base)
        assert ed25519._run(curve.multiply_two(scalar, k, tables)) == total
        assert ed25519._run(curve.sum_equals(scalar, k, tables, total))
        assert not ed25519._run(curve.sum_equals(scalar, k, tables, reference.negate(total)))
        wrong = (total[0], (total[1] + 1) % P)
        assert not ed25519._run(curve.sum_equals(scalar, k, tables, wrong))


def test_a_fault_is_not_signed(monkeypatch):
    """Whatever is wrong in a signature, it does not leave `sign`."""
    seed = bytes(range(32))
    good = ed25519.sign(seed, b"message")
    key = ed25519.SigningKey(seed)
    challenge = ed25519._challenge
    calls = []

    def glitch(*args):
        calls.append(args)
        return challenge(*args) ^ (len(calls) == 1)

    monkeypatch.setattr(ed25519, "_challenge", glitch)
    with pytest.raises(ed25519.ChargekeepError) as error:
        ed25519.sign(key, b"message")
    assert error.value.code == ed25519.SIGNING_FAULT
    monkeypatch.undo()
    key.scalar += 1
    with pytest.raises(ed25519.ChargekeepError):
        ed25519.sign(key, b"message")
    key.scalar -= 1
    assert ed25519.sign(key, b"message") == good
