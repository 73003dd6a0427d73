# HMAC-SHA256 (RFC 2104), which stock images lack on boards without TLS. Two hashes and about 300
# bytes of short-lived heap a call.

from hashlib import sha256

_BLOCK = 64  # bytes, of SHA-256


def hmac_sha256(key, message):
    """32 bytes. `key` of at most 64 bytes, as all keys here are; a longer one is hashed first."""
    if len(key) > _BLOCK:
        key = sha256(key).digest()
    key = key + bytes(_BLOCK - len(key))
    inner = sha256(bytes([b ^ 0x36 for b in key]))
    inner.update(message)
    outer = sha256(bytes([b ^ 0x5C for b in key]))
    outer.update(inner.digest())
    return outer.digest()
