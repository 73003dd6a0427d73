# The keyed hash that stands for an IdToken wherever something is at rest.

import hashlib

from micropython import const

_BLOCK = const(64)
_HASH_BYTES = const(16)


def hmac_sha256(key, message):
    """HMAC-SHA256 (RFC 2104) of `message`, 32 bytes, for a key of at most 64 bytes."""
    key = key + bytes(_BLOCK - len(key))
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key))
    inner.update(message)
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in key))
    outer.update(inner.digest())
    return outer.digest()


def id_hash(site_key, id_token):
    """16 bytes for `id_token` (text) at the site of `site_key` (32 bytes)."""
    return hmac_sha256(site_key, id_token.encode())[:_HASH_BYTES]
