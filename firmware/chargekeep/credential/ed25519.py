# Ed25519 (RFC 8032 section 5.1), strict: verification, signing, public keys. Every key in use has
# a comb table, so a verification is 37 doublings and 74 additions; a key costs 6 KiB of heap.

import asyncio

from chargekeep.credential.curve import L, multiply_base, multiply_two, negative_table
from chargekeep.credential.sha512 import Sha512
from chargekeep.errors import KEY_WEAK, ChargekeepError


class PreparedKey:
    """A public key with the comb table of -A, which was found to have order L."""

    def __init__(self, public_key, table):
        self.public_key = public_key
        self.table = table


_last = None  # the key of the last verification


def _run(steps):
    # The last thing a generator yields is its result.
    result = None
    for step in steps:
        result = step
    return result


def _prepare(public_key):
    # Generator: None while it works, at last the PreparedKey, or False.
    global _last
    if isinstance(public_key, PreparedKey):
        yield public_key
        return
    if _last and _last.public_key == public_key:
        yield _last
        return
    table = None
    if len(public_key) == 32:
        for step in negative_table(bytes(public_key)):
            table = step
            yield
    if not table:
        yield False
        return
    _last = PreparedKey(bytes(public_key), table)
    yield _last


def prepare(public_key):
    """A `PreparedKey` of 32 bytes `public_key`, for many verifications.

    Raises ChargekeepError(KEY_WEAK) where the key is no canonical encoding of a point of order L:
    small-order and mixed-order keys are refused.
    """
    key = _run(_prepare(public_key))
    if not key:
        raise ChargekeepError(KEY_WEAK, "public key")
    return key


def _verify(key, message, signature):
    # Generator: None while it works, at last True or False.
    if len(signature) != 64:
        yield False
        return
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        yield False
        return
    for step in _prepare(key):
        prepared = step
        yield
    if not prepared:
        yield False
        return
    r = bytes(signature[:32])
    hash = Sha512(r)
    hash.update(prepared.public_key)
    hash.update(message)
    k = int.from_bytes(hash.digest(), "little") % L
    yield
    for step in multiply_two(s, k, prepared.table):
        encoded = step
        yield
    yield encoded == r


def verify(key, message, signature):
    """True where `signature` (64 bytes) of `message` is valid under `key`: 32 bytes, or what
    `prepare` returned.

    The strictest of the usual rules: S < L; A canonical, of order L; R compared as encoded, so
    canonical; cofactorless equation. Never raises for bad input of the right types.
    """
    return _run(_verify(key, message, signature))


async def verify_async(key, message, signature):
    """As `verify`; lets other tasks run every few milliseconds (RP2040)."""
    for step in _verify(key, message, signature):
        result = step
        await asyncio.sleep(0)
    return result


def _expand(seed):
    h = bytearray(Sha512(seed).digest())
    h[0] &= 248
    h[31] = h[31] & 127 | 64
    return int.from_bytes(h[:32], "little") % L, bytes(h[32:])


def _multiply_base(scalar):
    return _run(multiply_base(scalar))


def public_key(seed):
    """The 32-byte public key of the 32-byte private key `seed` (RFC 8032 section 5.1.5)."""
    return _multiply_base(_expand(seed)[0])


def sign(seed, message):
    """The 64-byte signature of `message` (RFC 8032 section 5.1.6), deterministic."""
    a, prefix = _expand(seed)
    public = _multiply_base(a)
    hash = Sha512(prefix)
    hash.update(message)
    r = int.from_bytes(hash.digest(), "little") % L
    encoded = _multiply_base(r)
    hash = Sha512(encoded)
    hash.update(public)
    hash.update(message)
    k = int.from_bytes(hash.digest(), "little")
    return encoded + ((r + k * a) % L).to_bytes(32, "little")
