"""The wire formats of firmware/FORMATS.md sections 1, 2 and 5, as the host reads and writes them.

Written from that page alone and on other libraries than the firmware (cbor2, PyNaCl,
cryptography), so that an error in one side does not hide in the other. Everything that reads is
strict: bytes that are not the one deterministic encoding of what they mean are refused with a
`WireError` that has the firmware's code.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import cbor2
import nacl.bindings
import nacl.exceptions
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TRUST_LIST = 65001
ENTITLEMENT = 65002
ALLOWLIST = 65003
REVOCATION = 65004
TARIFF = 65005
CONFIGURATION = 65006
COMMAND = 65007
TIME_STATEMENT = 65008
ACKNOWLEDGEMENT = 65009
FIRMWARE = 65010
BATCH = 65011
BATCH_AT = 119  # bytes of the signed hash before the batch
BATCH_NAME = 16  # bytes of its hash by which the next one names a batch
HEAD = 65012
EVIDENCE = 65013

NAMES = {
    TRUST_LIST: "trust",
    ENTITLEMENT: "entitlement",
    ALLOWLIST: "allowlist",
    REVOCATION: "revocation",
    TARIFF: "tariff",
    CONFIGURATION: "config",
    COMMAND: "command",
    TIME_STATEMENT: "time",
    ACKNOWLEDGEMENT: "ack",
    FIRMWARE: "firmware",
    BATCH: "batch",
    HEAD: "head",
    EVIDENCE: "evidence",
}
"""Content type to the short name of the object, which is also its topic below `down/`."""

SCOPE = {
    ENTITLEMENT: 1,
    ALLOWLIST: 2,
    REVOCATION: 2,
    TARIFF: 4,
    CONFIGURATION: 8,
    COMMAND: 16,
    TIME_STATEMENT: 32,
    ACKNOWLEDGEMENT: 64,
    FIRMWARE: 128,
}
"""Content type to the bit an issuer needs in the trust list's scope."""

TEXT_PREFIX = "CK1:"
LIMITS = -65537
"""The private CWT claim with an entitlement's limits."""

CBOR_TRUNCATED = 100
CBOR_NOT_CANONICAL = 102
CBOR_UNSUPPORTED = 104
CBOR_LIMIT = 105
COSE_FORM = 110
COSE_ALGORITHM = 111
COSE_CONTENT_TYPE = 112
COSE_UNKNOWN_KID = 113
COSE_SIGNATURE = 114
TOKEN_FORM = 200

_MAX_DEPTH = 8
_SIGN1 = 18
_EDDSA = -8

KeyFor = Callable[[bytes, int], bytes | None]
"""`(kid, content type)` to a public key of 32 bytes, or None if there is none for that use."""


UNDECODABLE = (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError)
"""What cbor2 raises: dates, decimals and other things that tags make have errors of their own."""


class WireError(ValueError):
    """Bytes that are refused. `code` is a number of firmware/chargekeep/errors.py."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"E{code} {detail}")
        self.code = code
        self.detail = detail


def _ordered(obj: Any, depth: int) -> Any:
    """`obj` with its maps in the order of RFC 8949 section 4.2.1, which cbor2 then keeps.

    cbor2's own `canonical=True` sorts by length first (RFC 7049), another order where signs mix.
    """
    kind = type(obj)
    if kind is int:
        if not -(2**63) <= obj < 2**63:
            raise WireError(CBOR_UNSUPPORTED, "integer out of range")
        return obj
    if kind is bytes or kind is str or kind is bool or obj is None:
        return obj
    if depth >= _MAX_DEPTH:
        raise WireError(CBOR_LIMIT, f"nested deeper than {_MAX_DEPTH}")
    if kind is list or kind is tuple:
        return [_ordered(item, depth + 1) for item in obj]
    if kind is dict:
        for key in obj:
            if type(key) is not int or not -(2**63) <= key < 2**63:
                raise WireError(CBOR_UNSUPPORTED, "map key is not an integer")
        # Bytewise order of encoded integers: 0, 1, ... then -1, -2, ...
        keys = sorted(obj, key=lambda key: (key < 0, abs(key)))
        return {key: _ordered(obj[key], depth + 1) for key in keys}
    raise WireError(CBOR_UNSUPPORTED, f"{kind.__name__} has no place in a message")


def _with_tag(obj: Any) -> Any:
    if type(obj) is cbor2.CBORTag and obj.tag == _SIGN1:
        return cbor2.CBORTag(_SIGN1, _ordered(obj.value, 1))
    return _ordered(obj, 0)


def dumps(obj: Any) -> bytes:
    """The deterministic encoding of integers, bytes, str, lists, maps of integer keys, bool, None.

    A whole message may be a `cbor2.CBORTag(18, ...)`. Raises `WireError` for anything else.
    """
    return cbor2.dumps(_with_tag(obj))


def loads(data: bytes) -> Any:
    """What `data` means, if it is the one encoding `dumps` would write; else `WireError`."""
    try:
        obj = cbor2.loads(data)
    except cbor2.CBORDecodeEOF:
        raise WireError(CBOR_TRUNCATED, "ends early") from None
    except UNDECODABLE as error:
        raise WireError(CBOR_UNSUPPORTED, str(error)) from None
    if cbor2.dumps(_with_tag(obj)) != data:
        raise WireError(CBOR_NOT_CANONICAL, "not the deterministic encoding, or bytes follow")
    return obj


def kid(public_key: bytes) -> bytes:
    """The 4-byte key id: the first bytes of SHA-256 of the 32-byte public key."""
    return hashlib.sha256(public_key).digest()[:4]


def public_bytes(private_key: Ed25519PrivateKey) -> bytes:
    """The 32-byte public key of `private_key`."""
    return private_key.public_key().public_bytes_raw()


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    # Sig_structure of RFC 9052 section 4.4, with no external data.
    return cbor2.dumps(["Signature1", protected, b"", payload])


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is `public_key`'s over `message`.

    By libsodium's strict rules: S >= L, keys of small order or not canonical are refused.
    """
    try:
        nacl.bindings.crypto_sign_open(signature + message, public_key)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError):
        return False
    return True


def frame(content_type: int, key_id: bytes) -> tuple[bytes, bytes]:
    """How a message begins, and how what is signed of it does; the payload follows in both."""
    protected = cbor2.dumps(dumps({1: _EDDSA, 3: content_type, 4: key_id}))
    return b"\xd2\x84" + protected + b"\xa0", b"\x84\x6aSignature1" + protected + b"\x40"


class Sealer:
    """Makes objects of one content type with one key; what they have in common is made once."""

    def __init__(self, content_type: int, private_key: Ed25519PrivateKey) -> None:
        public_key = public_bytes(private_key)
        self._head, self._signed = frame(content_type, kid(public_key))
        self._key = private_key.private_bytes_raw() + public_key

    def seal(self, payload_obj: Any) -> bytes:
        """A tagged COSE_Sign1 (RFC 9052 section 4.2) over the encoding of `payload_obj`."""
        payload = cbor2.dumps(dumps(payload_obj))
        signature = nacl.bindings.crypto_sign(self._signed + payload, self._key)[:64]
        return self._head + payload + b"\x58\x40" + signature


def seal_sign1(content_type: int, private_key: Ed25519PrivateKey, payload_obj: Any) -> bytes:
    """What `Sealer` makes of one object."""
    return Sealer(content_type, private_key).seal(payload_obj)


def _split(data: bytes) -> tuple[int, bytes, bytes, bytes, bytes]:
    """`(content type, kid, protected, payload, signature)` of a well-formed message."""
    message = loads(data)
    if type(message) is not cbor2.CBORTag or type(message.value) is not list:
        raise WireError(COSE_FORM, "not a tagged COSE_Sign1")
    if len(message.value) != 4:
        raise WireError(COSE_FORM, "a COSE_Sign1 has four parts")
    protected, unprotected, payload, signature = message.value
    if (
        type(protected) is not bytes
        or unprotected != {}
        or type(payload) is not bytes
        or type(signature) is not bytes
        or len(signature) != 64
    ):
        raise WireError(COSE_FORM, "a part has the wrong type or length")
    header = loads(protected)
    if type(header) is not dict or set(header) != {1, 3, 4}:
        raise WireError(COSE_FORM, "the protected header has other labels than 1, 3 and 4")
    if header[1] != _EDDSA:
        raise WireError(COSE_ALGORITHM, f"algorithm {header[1]} is not EdDSA")
    if type(header[3]) is not int or type(header[4]) is not bytes or len(header[4]) != 4:
        raise WireError(COSE_FORM, "content type or kid has the wrong type or length")
    return header[3], header[4], protected, payload, signature


def peek_sign1(data: bytes) -> tuple[int, bytes, Any]:
    """`(content type, kid, payload)` with the signature NOT checked: for listings only."""
    content_type, key_id, _, payload, _ = _split(data)
    return content_type, key_id, loads(payload)


def open_sign1(data: bytes, content_type: int, key_for: KeyFor) -> Any:
    """The decoded payload of a COSE_Sign1 of `content_type`, its signature verified."""
    actual, key_id, protected, payload, signature = _split(data)
    if actual != content_type:
        raise WireError(COSE_CONTENT_TYPE, f"content type {actual}, not {content_type}")
    public_key = key_for(key_id, content_type)
    if public_key is None:
        raise WireError(COSE_UNKNOWN_KID, f"no key {key_id.hex()} for {content_type}")
    if not verify(public_key, _to_be_signed(protected, payload), signature):
        raise WireError(COSE_SIGNATURE, "the signature does not verify")
    return loads(payload)


def seal_batch(private_key: Ed25519PrivateKey, body: dict[int, Any], before: bytes = b"") -> bytes:
    """A ledger batch as a station sends it: its SHA-256, signed, and then the batch itself.

    before: the one that was sent just before, if there is one.
    """
    if before:
        body = body | {15: hashlib.sha256(before[BATCH_AT:]).digest()[:BATCH_NAME]}
    encoded = dumps(body)
    return seal_sign1(BATCH, private_key, hashlib.sha256(encoded).digest()) + encoded


def peek_batch(data: bytes) -> Any:
    """The batch in `data`, its signature NOT checked."""
    return loads(data[BATCH_AT:])


def open_batch(data: bytes, key_for: KeyFor) -> Any:
    """The batch in `data`, its signature verified."""
    if open_sign1(data[:BATCH_AT], BATCH, key_for) != hashlib.sha256(data[BATCH_AT:]).digest():
        raise WireError(COSE_SIGNATURE, "another batch than the one that was signed")
    return peek_batch(data)


def id_token_hash(site_key: bytes, id_token: str) -> bytes:
    """The 16 bytes that stand for an IdToken on a device: HMAC-SHA256 under the site key, cut."""
    return hmac.digest(site_key, id_token.encode(), "sha256")[:16]


def to_text(data: bytes) -> str:
    """An entitlement as a QR code, an NFC tag or a serial line carries it."""
    return TEXT_PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """The bytes of `to_text`; `WireError` for any other spelling of them."""
    body = text.removeprefix(TEXT_PREFIX)
    try:
        data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise WireError(TOKEN_FORM, "not base64url") from None
    if to_text(data) != text:
        raise WireError(TOKEN_FORM, f"not {TEXT_PREFIX} and unpadded base64url")
    return data


def topic(site: str, station: str, *parts: str) -> str:
    """An MQTT topic of a station: `chargekeep/1/<site>/<station>/<parts>`."""
    for part in (site, station):
        if not part or any(c in "+#/\0" for c in part):
            raise ValueError(f"{part!r} cannot be a site or a station: empty, or has one of + # /")
    return "/".join(("chargekeep/1", site, station, *parts))


def partition(station: str) -> int:
    """0 to 63: which `up/log/pNN` topic a station sends its ledger to."""
    return hashlib.sha256(station.encode()).digest()[0] % 64
