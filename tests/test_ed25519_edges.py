"""Where verifiers differ: signatures and keys made to tell them apart, what we say to each, and
what libsodium (PyNaCl) and OpenSSL (cryptography) say. "Taming the many EdDSAs" (Chalkias,
Garillot, Nikolaenko 2020) names the questions.

Ours is True only where both others are. Where another one accepts what we refuse, the row's
comment says why it does.
"""

import hashlib

import nacl.bindings
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ed25519_reference import (
    IDENTITY,
    B,
    L,
    P,
    add,
    challenge,
    encode,
    multiply,
    sign_with,
    torsion,
)

from chargekeep.credential import ed25519

TORSION = torsion()
A_SCALAR = int.from_bytes(hashlib.sha512(b"a").digest(), "little") % L
NONCE = int.from_bytes(hashlib.sha512(b"r").digest(), "little") % L
A_POINT = multiply(A_SCALAR, B)
A = encode(A_POINT)
R_POINT = multiply(NONCE, B)


def le(n):
    return n.to_bytes(32, "little")


def message_with(condition, r, key):
    """A message whose challenge satisfies `condition`."""
    return next(m for m in map(le, range(10_000)) if condition(challenge(r, key, m)))


def signed(key, r_point=R_POINT, scalar=A_SCALAR, condition=lambda k: True, r=None):
    """(key, message, signature) with S = nonce + k * scalar, k of the condition."""
    r = r or encode(r_point)
    message = message_with(condition, r, key)
    return key, message, sign_with(scalar, NONCE, key, message, r)


def with_s(row, change):
    key, message, signature = row
    s = change(int.from_bytes(signature[32:], "little"))
    return key, message, signature[:32] + le(s)


def rows():
    """(name, (key, message, signature), ours, libsodium, OpenSSL)."""
    good = signed(A)
    yield "valid", good, True, True, True
    yield "S + L", with_s(good, lambda s: s + L), False, False, False
    yield "S + 8 L", with_s(good, lambda s: s + 8 * L), False, False, False
    yield "S = L", with_s(good, lambda s: L), False, False, False
    yield "S = 0", with_s(good, lambda s: 0), False, False, False
    yield "S = 2^256 - 1", with_s(good, lambda s: 2**256 - 1), False, False, False
    yield "all zero", (bytes(32), b"", bytes(64)), False, False, False
    yield "all one", (b"\xff" * 32, b"", b"\xff" * 64), False, False, False
    yield "zero signature", (A, b"", bytes(64)), False, False, False
    yield "one signature", (A, b"", b"\xff" * 64), False, False, False
    # R of small order: only who has the key can make it, with nonce 0. libsodium refuses it.
    zero_nonce = encode(IDENTITY)
    k = challenge(zero_nonce, A, b"")
    row = (A, b"", zero_nonce + le(k * A_SCALAR % L))
    yield "R the identity", row, True, False, True
    # The same with R in another encoding: the comparison is of encodings.
    for name, r in (("y = p + 1", le(P + 1)), ("x = -0", le(1 | 1 << 255))):
        k = challenge(r, A, b"")
        row = (A, b"", r + le(k * A_SCALAR % L))
        yield f"R the identity, {name}", row, False, False, False
    # R with a part of small order satisfies the equation times 8 only.
    mixed_r = add(R_POINT, TORSION[1])
    yield "R of mixed order", signed(A, r_point=mixed_r), False, False, False
    # A of small order: S B = R holds for many messages, whoever signs. OpenSSL has no such check.
    for n, point in enumerate(TORSION):
        row = signed(encode(point), scalar=0, condition=lambda k: k % 8 == 0)
        yield f"A of small order {n}", row, False, False, True
        if n:
            row = signed(encode(point), scalar=0, condition=lambda k: k % 8 == 1)
            yield f"A of small order {n}, 8 divides no k", row, False, False, False
    # The same points in encodings that are not canonical. OpenSSL reads y modulo p, -0 as 0.
    for name, key in (
        ("y = p", le(P)),
        ("y = p, sign", le(P | 1 << 255)),
        ("y = p + 1", le(P + 1)),
        ("x = -0, y = 1", le(1 | 1 << 255)),
        ("x = -0, y = -1", le(P - 1 | 1 << 255)),
        ("x = -0, y = p + 1", le(P + 1 | 1 << 255)),
    ):
        row = signed(key, scalar=0, condition=lambda k: k % 8 == 0)
        yield f"A of small order, {name}", row, False, False, True
    # A = A' + T: where 8 divides k, the T vanishes; libsodium and OpenSSL take A as it is.
    for n in range(1, 8):
        key = encode(add(A_POINT, TORSION[n]))
        row = signed(key, condition=lambda k: k % 8 == 0)
        yield f"A of mixed order {n}", row, False, True, True
        row = signed(key, condition=lambda k: k % 8 == 1)
        yield f"A of mixed order {n}, 8 divides no k", row, False, False, False
    # No points: y = 2 is not on the curve; 2^255 - 1 is 18, which is.
    yield "A no point", signed(le(2)), False, False, False
    yield "A = 2^255 - 1", signed(le(2**255 - 1)), False, False, False
    yield "R no point", signed(A, r=le(2)), False, False, False


ROWS = list(rows())


def libsodium(key, message, signature):
    try:
        return nacl.bindings.crypto_sign_open(signature + message, key) == message
    except nacl.exceptions.BadSignatureError:
        return False


def openssl(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


@pytest.mark.parametrize("name, row, ours, sodium, ssl", ROWS, ids=[row[0] for row in ROWS])
def test_edge(name, row, ours, sodium, ssl):
    assert ed25519.verify(*row) == ours
    assert libsodium(*row) == sodium
    assert openssl(*row) == ssl
