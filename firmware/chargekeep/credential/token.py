# A token as text, for QR codes, NFC records and serial lines: `CK1:` and base64url without padding
# (RFC 4648 section 5). One text for one token: padding, other alphabets and stray bits are
# refused.

import binascii

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError

PREFIX = "CK1:"
_MAX_BYTES = const(400)


def from_text(text):
    """Bytes of a token as text. Raises TOKEN_FORM."""
    body = text[len(PREFIX) :]
    if not text.startswith(PREFIX) or not 0 < len(body) <= _MAX_BYTES * 4 // 3:
        raise ChargekeepError(errors.TOKEN_FORM, "text")
    try:
        data = binascii.a2b_base64(
            body.replace("-", "+").replace("_", "/") + "=" * (-len(body) % 4)
        )
    except ValueError:
        raise ChargekeepError(errors.TOKEN_FORM, "base64url")
    if to_text(data) != text:  # decoders are lenient in their own ways
        raise ChargekeepError(errors.TOKEN_FORM, "base64url")
    return data


def to_text(data):
    """`data` as text."""
    body = binascii.b2a_base64(data).decode().rstrip("\n=")
    return PREFIX + body.replace("+", "-").replace("/", "_")
