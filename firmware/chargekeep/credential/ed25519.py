# Ed25519 (RFC 8032 section 5.1) with the strictest of the usual rules. Both points of a
# verification have comb tables, so it is 43 doublings and 86 additions. The base point's table and
# that of the last key take 6 KiB of heap, at import, when memory is whole.
#
# What "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko 2020) calls the choices:
#   S < L (RFC 8032 section 5.1.7 step 1), so signatures are not malleable (SUF-CMA);
#   A canonical and not of small order, so a signature binds its message and key (SBS);
#   A of order L: where A has no part of small order, the cofactorless equation S B = R + k A and
#   the one multiplied by 8 agree, and nobody can sign what only some verifiers accept;
#   R compared as encoded, hence canonical; R itself may be any point that satisfies this.

import asyncio
import hashlib
from binascii import hexlify

from micropython import const

from chargekeep import borrow
from chargekeep.credential.curve import (
    TABLE_SIZE,
    L,
    encode,
    multiply,
    multiply_two,
    sum_equals,
)
from chargekeep.credential.sha512 import Sha512
from chargekeep.errors import KEY_WEAK, SIGNING_FAULT, ChargekeepError

TABLE = "comb-"  # how the files of tables are called
_TAG = const(16)  # of the store, after a table: whoever can change one can forge signatures

_store = None


class PreparedKey:
    """A public key with the comb table of -A; made by `prepare`."""

    def __init__(self):
        self.public_key = None
        self.buffer = bytearray(TABLE_SIZE + _TAG)
        self.table = memoryview(self.buffer)[:TABLE_SIZE]
        self.users = 0  # computations that hold it


_recent = PreparedKey()  # of the last key that came as bytes
_base = PreparedKey()  # of -B, so that its table is that of B
MINUS_B = b"\x58" + b"\x66" * 30 + b"\xe6"


class SigningKey:
    """What a 32-byte seed stands for: scalar, prefix and public key (RFC 8032 section 5.1.5)."""

    def __init__(self, seed):
        self.seed = bytes(seed)
        h = bytearray(Sha512(self.seed).digest())
        h[0] &= 248
        h[31] = h[31] & 127 | 64
        self.scalar = int.from_bytes(h[:32], "little") % L
        self.prefix = bytes(h[32:])
        self.public_key = encode(*_run(_multiply_base(self.scalar)))


_signer = None  # of the last seed


def _run(steps):
    # The last thing a generator yields is its result.
    result = None
    for step in steps:
        result = step
    return result


async def _run_async(steps):
    try:
        for step in steps:
            result = step
            await asyncio.sleep(0)
        return result
    finally:
        steps.close()  # a cancelled task gives back what it holds


def keep_tables(store):
    """Call at start: makes the base point's table, and from now on keeps that and the tables of
    `prepare` in `store` (sealed.py), to read them back instead of making them anew.
    """
    global _store
    _store = store
    _base.public_key = None
    _make_base()


def table_name(public_key):
    """The file of the store that holds the table of `public_key`, if one does."""
    return TABLE + hexlify(hashlib.sha256(public_key).digest()[:4]).decode()


def _load(prepared, public_key):
    # Whether the store had an intact table of this very key.
    buffer = prepared.buffer
    try:
        with open(_store.path(table_name(public_key)), "rb") as f:
            if f.readinto(buffer) != len(buffer):
                return False
    except OSError:
        return False
    return buffer[TABLE_SIZE:] == _tag(public_key, prepared.table)


def _tag(public_key, table):
    h = hashlib.sha256(public_key)
    h.update(table)
    return _store.tag(table_name(public_key), h.digest())


def _prepare(prepared, public_key, write=False):
    # Generator: None while it works, at last whether `prepared` is now for `public_key`.
    prepared.public_key = None
    made = False
    if len(public_key) == 32:
        made = _store and _load(prepared, public_key)
        if not made:
            comb = "chargekeep.credential.comb"
            for step in borrow(comb).negative_table(public_key, prepared.table):
                made = step
                yield
            if made and _store and write:
                prepared.buffer[TABLE_SIZE:] = _tag(public_key, prepared.table)
                _store.write(table_name(public_key), prepared.buffer)
    if made:
        prepared.public_key = public_key
    yield made


def _make_base():
    # In one go, so that no task sees half a table.
    if _base.public_key is None:
        _run(_prepare(_base, MINUS_B, True))


def _multiply_base(scalar):
    _make_base()
    yield from multiply(scalar, _base.table)


def prepare(public_key):
    """A `PreparedKey` of 32 bytes `public_key`, for many verifications; costs 3 KiB of heap.

    Raises ChargekeepError(KEY_WEAK) where the key is no canonical encoding of a point of order L:
    small-order and mixed-order keys are refused.
    """
    prepared = PreparedKey()
    if not _run(_prepare(prepared, bytes(public_key), True)):
        raise ChargekeepError(KEY_WEAK, "public key")
    return prepared


async def store_table(public_key):
    """Have the store of `keep_tables` hold the table of 32 bytes `public_key`; for tables.py."""
    await _run_async(_prepare(PreparedKey(), public_key, True))


def _with_table(key, use, patient):
    # Generator: yields what `use(prepared)` does, at last its result; False for a bad key.
    # Where another task works with another key, a patient one waits for the buffer.
    if isinstance(key, PreparedKey):
        prepared = key
    else:
        key = bytes(key)
        prepared = _recent
        while patient and prepared.users and prepared.public_key != key:
            yield
        if prepared.users and prepared.public_key != key:
            prepared = PreparedKey()
    prepared.users += 1
    try:
        _make_base()
        if prepared is not key and prepared.public_key != key:
            for _step in _prepare(prepared, key):
                yield
            if prepared.public_key is None:
                yield False
                return
        yield from use(prepared)
    finally:
        prepared.users -= 1


def _challenge(r, public_key, message):
    h = Sha512(r)
    h.update(public_key)
    h.update(message)
    return int.from_bytes(h.digest(), "little") % L


def _verify(key, message, signature, patient=False):
    # Generator: None while it works, at last True or False.
    s = int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= L:
        yield False
        return

    def equation(prepared):
        r = bytes(signature[:32])
        k = _challenge(r, prepared.public_key, message)
        yield
        point = None
        for step in multiply_two(s, k, (_base.table, prepared.table)):
            point = step
            yield
        yield encode(*point) == r

    yield from _with_table(key, equation, patient)


def verify(key, message, signature):
    """True where `signature` (64 bytes) of `message` is valid under `key`: 32 bytes, or what
    `prepare` returned. Never raises for bad values; all arguments are bytes-like.
    """
    return _run(_verify(key, message, signature))


async def verify_async(key, message, signature):
    """As `verify`; lets other tasks run every 5 ms or sooner (RP2040)."""
    return await _run_async(_verify(key, message, signature, True))


def public_key(seed):
    """The 32-byte public key of the 32-byte private key `seed` (RFC 8032 section 5.1.5)."""
    return _signing_key(seed).public_key


def _signing_key(seed):
    global _signer
    if isinstance(seed, SigningKey):
        return seed
    if _signer is None or _signer.seed != seed:
        _signer = SigningKey(seed)
    return _signer


def _sign(seed, message, patient=False):
    # Generator: None while it works, at last the signature, or False after a fault.
    key = _signing_key(seed)
    h = Sha512(key.prefix)
    h.update(message)
    r = int.from_bytes(h.digest(), "little") % L
    point = None
    for step in _multiply_base(r):
        point = step
        yield
    encoded = encode(*point)
    s = (r + _challenge(encoded, key.public_key, message) * key.scalar) % L

    def check(prepared):
        # A glitch anywhere above must not leave the board: two signatures of one message that
        # differ tell the private key.
        k = _challenge(encoded, prepared.public_key, message)
        right = False
        for step in sum_equals(s, k, (_base.table, prepared.table), point):
            right = step
            yield
        yield right and encoded + s.to_bytes(32, "little")

    yield from _with_table(key.public_key, check, patient)


def _signed(signature):
    if not signature:
        raise ChargekeepError(SIGNING_FAULT)
    return signature


def sign(seed, message):
    """The 64-byte signature of `message` (RFC 8032 section 5.1.6), deterministic; `seed` is the
    32-byte private key or a `SigningKey`. Verified before it is returned.

    On RP2040 the multiplication takes the same time for all keys and messages; arithmetic modulo
    L is on Python ints, whose time depends a little on the values, as does everything elsewhere.

    Raises ChargekeepError(SIGNING_FAULT) where the signature does not verify.
    """
    return _signed(_run(_sign(seed, message)))


async def sign_async(seed, message):
    """As `sign`; lets other tasks run every 5 ms or sooner (RP2040)."""
    return _signed(await _run_async(_sign(seed, message, True)))
