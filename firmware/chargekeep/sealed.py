# Secrets at rest: the files of a store that hold one are encrypted and authenticated under a key
# of the board. Such a file opens only on the board that sealed it, unchanged and under its own
# name. What that is worth depends on what the board can keep to itself: see THREATS.md.

import os

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.hmac256 import hmac_sha256
from chargekeep.store import Store

# The device's seed and the site key; Wi-Fi and MQTT passwords; seal keys of the ledger
SECRETS = ("identity", "network", "ledger.key", "commission.seal")

_NONCE = const(12)
_TAG = const(16)
_BLOCK = const(32)


class SealedStore(Store):
    """The directory `root`, as Store; what is in `SECRETS` is sealed under `secret`, bytes that
    only this board has."""

    def __init__(self, root, secret):
        super().__init__(root)
        self._cipher_key = hmac_sha256(secret, b"chargekeep seal cipher")
        self._tag_key = hmac_sha256(secret, b"chargekeep seal tag")

    def read(self, name):
        """Content of `name`, or None. Raises SECRET where it was not sealed here, or changed."""
        data = super().read(name)
        if data is None or name not in SECRETS:
            return data
        at = len(data) - _TAG
        if at < _NONCE or not _same(data[at:], self.tag(name, data[:at])):
            raise ChargekeepError(errors.SECRET, name)
        return self._crypt(data[:_NONCE], data[_NONCE:at])

    def write(self, name, data):
        """Replace `name`, as `Store.write` does."""
        if name in SECRETS:
            # Never used before, or two contents would share a key stream
            nonce = os.urandom(_NONCE)
            sealed = nonce + self._crypt(nonce, data)
            data = sealed + self.tag(name, sealed)
        super().write(name, data)

    def tag(self, name, data):
        """16 bytes that only this board can have put under `data` in the file `name`."""
        return hmac_sha256(self._tag_key, name.encode() + b"\0" + data)[:_TAG]

    def _crypt(self, nonce, data):
        # HMAC-SHA256 in counter mode: stock images of some boards have no AES
        out = bytearray(data)
        for start in range(0, len(out), _BLOCK):
            stream = hmac_sha256(self._cipher_key, nonce + start.to_bytes(4, "big"))
            for i in range(start, min(start + _BLOCK, len(out))):
                out[i] ^= stream[i - start]
        return bytes(out)


def _same(a, b):
    # In constant time, so that a tag cannot be found byte by byte
    difference = 0
    for x, y in zip(a, b):
        difference |= x ^ y
    return not difference
