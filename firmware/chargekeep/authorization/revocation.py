# What is not to be believed any more: revoked tokens (cti) and IdTokens (keyed hashes). The list
# replaces the one before. Kept packed: 8 bytes a token, 16 an IdToken; a look-up is a bisection.

from micropython import const

from chargekeep.authorization import form

_CTIS = const(10)
_HASHES = const(11)
_CTI_BYTES = const(8)
_HASH_BYTES = const(16)
_MAX = const(1024)


class RevocationList(form.Object):
    """`ctis` and `hashes`, each sorted and joined."""

    def __init__(self, payload):
        super().__init__(payload, (_CTIS, _HASHES))
        self.ctis = _joined(self.body[_CTIS], _CTI_BYTES)
        self.hashes = _joined(self.body[_HASHES], _HASH_BYTES)


class Revocations:
    """What `listed`, a `RevocationList`, revokes; without one nothing."""

    def __init__(self, listed=None):
        self.version = listed.version if listed else 0
        self._ctis = listed.ctis if listed else b""
        self._hashes = listed.hashes if listed else b""

    def revoked(self, cti, id_hash):
        """Is the token `cti` (or None) or the IdToken of `id_hash` revoked?"""
        return (cti is not None and _holds(self._ctis, cti)) or _holds(self._hashes, id_hash)


def _joined(items, length):
    last = b""
    for item in form.array(items, _MAX):
        if form.octets(item, length) <= last:
            form.fail("order")
        last = item
    return b"".join(items)


def _holds(packed, item):
    size = len(item)
    low, high = 0, len(packed) // size
    while low < high:
        middle = (low + high) // 2
        found = packed[middle * size : middle * size + size]
        if found == item:
            return True
        if found < item:
            low = middle + 1
        else:
            high = middle
    return False
