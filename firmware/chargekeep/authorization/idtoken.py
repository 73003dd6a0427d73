# The keyed hash that stands for an IdToken wherever something is at rest.

from micropython import const

from chargekeep.hmac256 import hmac_sha256

_HASH_BYTES = const(16)


def id_hash(site_key, id_token):
    """16 bytes for `id_token` (text) at the site of `site_key` (32 bytes)."""
    return hmac_sha256(site_key, id_token.encode())[:_HASH_BYTES]
