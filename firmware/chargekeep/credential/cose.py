# COSE_Sign1 (RFC 9052 section 4.2) with EdDSA over Ed25519 (RFC 9053 section 2.2): the one
# envelope of everything signed that reaches a station or leaves it. A message opens only as the
# content type that is asked for, so no object stands in for another; nothing of the payload is
# looked at before its signature holds.

from micropython import const

from chargekeep import cbor, errors
from chargekeep.credential import ed25519
from chargekeep.errors import ChargekeepError

TRUST_LIST = const(65001)  # content types, FORMATS.md section 2
ENTITLEMENT = const(65002)
ALLOWLIST = const(65003)
REVOCATION_LIST = const(65004)
TARIFF = const(65005)
CONFIGURATION = const(65006)
COMMAND = const(65007)
TIME_STATEMENT = const(65008)
ACKNOWLEDGEMENT = const(65009)
FIRMWARE_MANIFEST = const(65010)
LEDGER_BATCH = const(65011)

_TAG_SIGN1 = const(0xD2)  # tag 18, RFC 9052 section 2
_ALG = const(1)  # header parameters, RFC 9052 section 3.1
_CONTENT_TYPE = const(3)
_KID = const(4)
_EDDSA = const(-8)
_KID_BYTES = const(4)
_SIGNATURE_BYTES = const(64)


def parse(data):
    """`(content type, kid, protected, payload, signature)` of a message, nothing verified.

    Raises CBOR_*, COSE_FORM or COSE_ALGORITHM.
    """
    if not data or data[0] != _TAG_SIGN1:
        raise ChargekeepError(errors.COSE_FORM, "tag")
    parts = cbor.loads(memoryview(data)[1:])
    if type(parts) is not list or len(parts) != 4:
        raise ChargekeepError(errors.COSE_FORM, "array")
    protected, unprotected, payload, signature = parts
    if (
        type(protected) is not bytes
        or type(payload) is not bytes
        or type(signature) is not bytes
        or len(signature) != _SIGNATURE_BYTES
        or unprotected != {}
    ):
        raise ChargekeepError(errors.COSE_FORM, "parts")
    header = cbor.loads(protected)
    if type(header) is not dict or len(header) != 3:
        raise ChargekeepError(errors.COSE_FORM, "header")
    if header.get(_ALG) != _EDDSA:
        raise ChargekeepError(errors.COSE_ALGORITHM)
    content_type, kid = header.get(_CONTENT_TYPE), header.get(_KID)
    if type(content_type) is not int or type(kid) is not bytes or len(kid) != _KID_BYTES:
        raise ChargekeepError(errors.COSE_FORM, "header")
    return content_type, kid, protected, payload, signature


def open_sign1(data, content_type, key_for):
    """Payload of `data`, a message of `content_type` signed by `key_for(kid, content_type)`.

    `key_for` returns a public key (32 bytes or prepared) or raises. Raises what `parse` does,
    COSE_CONTENT_TYPE or COSE_SIGNATURE.
    """
    key, message, signature, payload = _to_verify(data, content_type, key_for)
    if not ed25519.verify(key, message, signature):
        raise ChargekeepError(errors.COSE_SIGNATURE)
    return payload


async def open_sign1_async(data, content_type, key_for):
    """As `open_sign1`, giving way to other tasks while it computes."""
    key, message, signature, payload = _to_verify(data, content_type, key_for)
    if not await ed25519.verify_async(key, message, signature):
        raise ChargekeepError(errors.COSE_SIGNATURE)
    return payload


def seal_sign1(content_type, kid, payload, sign):
    """The message that carries `payload`; `sign(message) -> signature` of 64 bytes."""
    protected = cbor.dumps({_ALG: _EDDSA, _CONTENT_TYPE: content_type, _KID: kid})
    signature = sign(_signed_bytes(protected, payload))
    return bytes((_TAG_SIGN1,)) + cbor.dumps([protected, {}, payload, signature])


async def seal_sign1_async(content_type, kid, payload, sign):
    """As `seal_sign1` with an awaitable `sign(message)`."""
    protected = cbor.dumps({_ALG: _EDDSA, _CONTENT_TYPE: content_type, _KID: kid})
    signature = await sign(_signed_bytes(protected, payload))
    return bytes((_TAG_SIGN1,)) + cbor.dumps([protected, {}, payload, signature])


def _to_verify(data, content_type, key_for):
    found, kid, protected, payload, signature = parse(data)
    if found != content_type:
        raise ChargekeepError(errors.COSE_CONTENT_TYPE, str(found))
    return key_for(kid, content_type), _signed_bytes(protected, payload), signature, payload


def _signed_bytes(protected, payload):
    """Sig_structure of RFC 9052 section 4.4."""
    return cbor.dumps(["Signature1", protected, b"", payload])
