# The IdTokens that may charge, by the thousand: sorted pages of 512 bytes in a file, each proven
# against the root hash in a signed header (layout in FORMATS.md section 2). A look-up reads one
# page a level, at most 4, into one buffer. A new list grows in the other of two slots (loader.py)
# while the old one serves; the switch is one atomic write.

import hashlib

from micropython import const

from chargekeep import borrow, errors
from chargekeep.authorization import form
from chargekeep.errors import ChargekeepError

PAGE = const(512)
CHUNK_PAGES = const(4)

_COUNT = const(10)  # keys of the header
_ROOT = const(11)
_PAGES = const(12)
_EXP = const(13)
_BASES = const(14)
_MAX_BASES = const(8)

_HEAD = const(8)  # of a page
_ITEM = const(21)
_ITEMS = const(24)
_SEPARATOR = const(5)
_HASH = const(16)
_MAX_LEVEL = const(3)

_ACTIVE = "allowlist"  # slot number (one byte) and header of the list in force
_COMING = "allowlist.coming"  # header of the list that is being loaded into the other slot
_SLOT = "allowlist.slot%d"


class Header(form.Object):
    """What is signed of a list: `count` of entries, hash of page 0, number of pages, expiry, and
    the versions of lists that a delta leads from."""

    def __init__(self, payload):
        super().__init__(payload, (_COUNT, _ROOT, _PAGES, _EXP), (_BASES,))
        self.count = form.uint(self.body[_COUNT])
        self.root = form.octets(self.body[_ROOT], 32)
        self.pages = form.uint(self.body[_PAGES], form.U16, 1)
        self.exp = form.uint(self.body[_EXP])
        self.bases = form.array(self.body.get(_BASES, []), _MAX_BASES)
        for version in self.bases:
            form.uint(version)


class Allowlist:
    """The list in force (`header`, None: none) and the one that is coming (`coming` or None)."""

    def __init__(self, store, pause):
        """`pause()` is awaited every few pages of long work."""
        self._store = store
        self._pause = pause
        self.header = None
        self.coming = None
        self._slot = 0
        self._loader = None
        self.base = 0  # version of the list that a delta is awaited from
        self._damaged = False
        self.pages_read = 0

    # The list in force

    def stored(self):
        """Signed bytes of the header in force, or None."""
        data = self._store.read(_ACTIVE)
        return data[1:] if data else None

    def use(self, header):
        """Take `header`, parsed from `stored()`, for the list in force; None for no list."""
        self.header = header
        if header:
            self._slot = self._store.read(_ACTIVE)[0] & 1

    def look_up(self, id_hash):
        """`(policy index, expiry)` of the entry, or None. Raises LIST_PAGE if flash does not hold
        what was signed."""
        if not self.header:
            return None
        try:
            with open(self._path(self._slot), "rb") as f:
                return self._descend(f, id_hash)
        except (OSError, ChargekeepError) as e:
            self._damaged = True
            raise ChargekeepError(errors.LIST_PAGE, str(e))

    def _descend(self, f, id_hash):
        page = bytearray(PAGE)
        number, proof = 0, self.header.root
        for _ in range(_MAX_LEVEL + 1):
            f.seek(number * PAGE)
            self.pages_read += 1
            if f.readinto(page) != PAGE or not _proves(proof, page):
                raise ChargekeepError(errors.LIST_PAGE, "page %d" % number)
            if not page[0]:
                at = search(page, id_hash)
                if at < 0 or page[at : at + _HASH] != id_hash:
                    return None
                at += _HASH
                return page[at], int.from_bytes(page[at + 1 : at + 5], "big")
            at = search(page, id_hash[:_SEPARATOR])
            if at < 0:
                return None
            number = (page[2] << 8 | page[3]) + (at - _HEAD) // _ITEM
            proof = bytes(page[at + _SEPARATOR : at + _ITEM])
        raise ChargekeepError(errors.LIST_PAGE, "depth")

    # The list that is coming

    async def expect(self, header, data):
        """Load the list of `header` next, signed as `data`; what was loaded of another is dropped.

        Returns True where it is in force already, because only its header is new.
        """
        old = self.header
        same = old and (header.root, header.pages) == (old.root, old.pages)
        if same and not self._damaged:
            self._switch(header, data, self._slot)
            return True
        self._store.write(_COMING, data)
        self._store.remove(_SLOT % (1 - self._slot))
        self._load(header)
        return False

    def stored_coming(self):
        """Signed bytes of the header of the list that was being loaded, or None."""
        return self._store.read(_COMING)

    async def resume(self, header):
        """Go on with `header`, parsed from `stored_coming()`, after the pages that hold.

        Returns True where the list was complete and is in force now.
        """
        self._load(header)
        await self._loader.prove()
        await self._loader.reuse()
        return self._loader.complete and await self._finish()

    def wanted(self):
        """`(version, n)` of the next chunk to give to `chunk`, or None.

        Where n is negative it is the delta from the list of version -n.
        """
        if not self.coming:
            return None
        if self.base:
            return self.coming.version, -self.base
        return self.coming.version, self._loader.taken // CHUNK_PAGES

    async def chunk(self, version, n, data):
        """Take chunk `n` of the list `version`.

        False where it is not the one wanted, True where it was the last and the list is in force
        now, else None. Raises LIST_PAGE or OSError; what was taken before stays.
        """
        if (version, n) != self.wanted():
            return False
        if self.base:
            self.base = 0  # where it does not do, chunks will
            await borrow("chargekeep.authorization.delta").apply(self._loader, data)
        else:
            await self._loader.chunk(data)
            await self._loader.reuse()
        return await self._finish() if self._loader.complete else None

    def forget_coming(self):
        """Drop what was being loaded."""
        self._store.remove(_COMING)
        self._store.remove(_SLOT % (1 - self._slot))
        if self.coming:
            self.coming = self._loader = None

    def _load(self, header):
        self.coming = header
        old = self._path(self._slot) if self.header and not self._damaged else None
        new = self._path(1 - self._slot)
        loader = borrow("chargekeep.authorization.loader")
        self._loader = loader.Loader(header, new, old, self._pause)
        self.base = self.header.version if old and self.header.version in header.bases else 0

    async def _finish(self):
        await self._loader.prove()  # from what flash holds now, not from what was received
        if not self._loader.complete:
            raise ChargekeepError(errors.LIST_PAGE, "read back")
        self._switch(self.coming, self.stored_coming(), 1 - self._slot)
        return True

    def _switch(self, header, data, slot):
        self._store.write(_ACTIVE, bytes((slot,)) + data)
        self.header = header
        self._slot = slot
        self._damaged = False
        self.forget_coming()

    def _path(self, slot):
        return self._store.path(_SLOT % slot)


def _proves(proof, page):
    return hashlib.sha256(page).digest()[: len(proof)] == proof


def search(page, key):
    """In a page: offset of the last item whose first bytes are <= `key`, or -1."""
    size = len(key)
    low, high = 0, min(page[1], _ITEMS)
    while low < high:
        middle = (low + high) // 2
        at = _HEAD + middle * _ITEM
        if page[at : at + size] <= key:
            low = middle + 1
        else:
            high = middle
    return _HEAD + (low - 1) * _ITEM if low else -1
