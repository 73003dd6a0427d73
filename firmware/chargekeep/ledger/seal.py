# The seal key evolves with every sector and the one before is forgotten, so whoever reads today's
# key can forge nothing that was sealed before (forward security as in Schneier and Kelsey 1999).
# The epoch of a key is the sector's sequence number, exactly. Signed heads fix the whole chain.

import struct

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.hmac256 import hmac_sha256

_FILE = "ledger.key"
_HEAD = b"chargekeep head 1"


def evolve(key):
    """The key of the next epoch."""
    return hmac_sha256(key, b"evolve")


def link_key(key):
    """16 bytes that key the chain links of the epoch."""
    return hmac_sha256(key, b"link")[:16]


def close_seal(key, last_seq, link):
    """What the next header says of a full sector: its last seq and link, under its own key."""
    return hmac_sha256(key, b"close" + struct.pack("<I", last_seq) + link)


def head_message(log_id, seq, link):
    """What the station signs in a head record."""
    return _HEAD + log_id + struct.pack("<I", seq) + link


class SealKey:
    """The key of one epoch. `key` is that of epoch 0.

    With a `store` (see store.py) the file holds epoch and key, and `key` may be None; `create`
    makes it. Without one the key of epoch 0 stays in memory and nothing is forgotten: fit for
    tests, and each mount costs one HMAC a sector ever opened.
    """

    def __init__(self, key, store=None):
        self.epoch = 0
        self.key = key
        self._store = store
        saved = store.read(_FILE) if store else None
        if saved is not None and len(saved) == 36:
            self.epoch = struct.unpack_from("<I", saved)[0]
            self.key = saved[4:]
        if self.key is None or len(self.key) != 32:
            raise ChargekeepError(errors.SECRET, "ledger key")

    def go(self, epoch):
        """Evolve to `epoch`. Raises LEDGER_TAMPERED where that key is forgotten."""
        if epoch < self.epoch:
            raise ChargekeepError(errors.LEDGER_TAMPERED, "sector older than its key")
        while self.epoch < epoch:
            self.key = evolve(self.key)
            self.epoch += 1

    def following(self):
        """The key of the next epoch, for `accept`."""
        return evolve(self.key)

    def accept(self, key):
        """The next epoch has begun under `key`: make that durable and forget the one before."""
        self.key = key
        self.epoch += 1
        if self._store:
            self._store.write(_FILE, struct.pack("<I", self.epoch) + self.key)

    @staticmethod
    def create(key, store):
        """Put the key of epoch 0 (32 bytes) into `store`, in place of any other."""
        store.write(_FILE, struct.pack("<I", 0) + key)
