# The IdTokens that may charge, by the thousand: sorted pages of 512 bytes in a file, each proven
# against the root hash in a signed header (layout in FORMATS.md section 2). A look-up reads one
# page a level, at most 4, into one buffer. A new list grows in the other of two slots, page by
# page as it arrives, while the old one serves; the switch is one atomic write.

import hashlib

from micropython import const

from chargekeep import errors
from chargekeep.authorization import form
from chargekeep.errors import ChargekeepError

PAGE = const(512)
CHUNK_PAGES = const(4)

_COUNT = const(10)  # keys of the header
_ROOT = const(11)
_PAGES = const(12)
_EXP = const(13)

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
    """What is signed of a list: `count` of entries, hash of page 0, number of pages, expiry."""

    def __init__(self, payload):
        super().__init__(payload, (_COUNT, _ROOT, _PAGES, _EXP))
        self.count = form.uint(self.body[_COUNT])
        self.root = form.octets(self.body[_ROOT], 32)
        self.pages = form.uint(self.body[_PAGES], form.U16, 1)
        self.exp = form.uint(self.body[_EXP])


class Prover:
    """Takes the pages of one list in order and proves each by the ones before it."""

    def __init__(self, header, read_page):
        self._header = header
        self._read_page = read_page  # of a page number that was taken: its 512 bytes
        self.taken = 0
        self._entries = 0
        self._named = 1  # pages that index pages so far account for, the root included
        self._parent = -1  # number of the index page whose children are coming
        self._page = b""
        self._item = 0

    def take(self, page):
        """The next page. Raises LIST_PAGE, taking nothing, where it is not what was signed."""
        digest = hashlib.sha256(page).digest()
        level, count, first = page[0], page[1], page[2] << 8 | page[3]
        if self.taken == 0:
            proven = digest == self._header.root and level <= _MAX_LEVEL
        else:
            if self._item >= (self._page[1] if self._page else 0):
                self._parent += 1
                self._page = self._read_page(self._parent)
                self._item = 0
            at = _HEAD + self._item * _ITEM
            proven = (
                self._page[at + _SEPARATOR : at + _ITEM] == digest[:_HASH]
                and self._page[at : at + _SEPARATOR] == page[_HEAD : _HEAD + _SEPARATOR]
                and level == self._page[0] - 1
                and count
            )
        # The hashes prove what was signed, the rest that it is a tree which every look-up leaves
        if not proven or count > _ITEMS or first != (self._named if level else 0):
            raise ChargekeepError(errors.LIST_PAGE, "page %d" % self.taken)
        named = self._named + (count if level else 0)
        entries = self._entries + (0 if level else count)
        self.taken += 1
        if named > self._header.pages or (
            self.taken == self._header.pages
            and (named != self.taken or entries != self._header.count)
        ):
            self.taken -= 1
            raise ChargekeepError(errors.LIST_PAGE, "page %d" % self.taken)
        self._named = named
        self._entries = entries
        self._item += 1


class Allowlist:
    """The list in force (`header`, None: none) and the one that is coming (`coming` or None)."""

    def __init__(self, store, pause):
        """`pause()` is awaited every few pages of long work."""
        self._store = store
        self._pause = pause
        self.header = None
        self.coming = None
        self._slot = 0
        self._prover = None
        self._received = 0, b""  # first page and pages of the chunk being taken
        self._damaged = False
        self._buffer = bytearray(PAGE)
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
        page = self._buffer
        number, proof = 0, self.header.root
        for _ in range(_MAX_LEVEL + 1):
            f.seek(number * PAGE)
            self.pages_read += 1
            if f.readinto(page) != PAGE or not _proves(proof, page):
                raise ChargekeepError(errors.LIST_PAGE, "page %d" % number)
            if not page[0]:
                at = _search(page, id_hash)
                if at < 0 or page[at : at + _HASH] != id_hash:
                    return None
                at += _HASH
                return page[at], int.from_bytes(page[at + 1 : at + 5], "big")
            at = _search(page, id_hash[:_SEPARATOR])
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
        self.coming = header
        self._prover = Prover(header, self._read_page)
        return False

    def stored_coming(self):
        """Signed bytes of the header of the list that was being loaded, or None."""
        return self._store.read(_COMING)

    async def resume(self, header):
        """Go on with `header`, parsed from `stored_coming()`, after the pages that hold.

        Returns True where the list was complete and is in force now.
        """
        self.coming = header
        await self._prove()
        return self._finish()

    def wanted(self):
        """`(version, n)` of the next chunk to give to `chunk`, or None."""
        if not self.coming:
            return None
        return self.coming.version, self._prover.taken // CHUNK_PAGES

    async def chunk(self, version, n, data):
        """Take chunk `n` of the list `version`.

        False where it is not the one wanted, True where it was the last and the list is in force
        now, else None. Raises LIST_PAGE or OSError; what was taken before stays.
        """
        if (version, n) != self.wanted():
            return False
        prover = self._prover
        first = n * CHUNK_PAGES
        count = min(CHUNK_PAGES, self.coming.pages - first)
        if len(data) != count * PAGE:
            raise ChargekeepError(errors.LIST_PAGE, "chunk length")
        data = memoryview(data)
        start = prover.taken
        self._received = first, data
        error = None
        try:
            while prover.taken < first + count:
                at = (prover.taken - first) * PAGE
                prover.take(data[at : at + PAGE])
        except ChargekeepError as e:
            error = e
        self._received = 0, b""
        try:
            with open(self._path(1 - self._slot), "r+b" if start else "wb") as f:
                f.seek(start * PAGE)
                f.write(data[(start - first) * PAGE : (prover.taken - first) * PAGE])
                f.flush()
        except OSError:
            await self._prove()
            raise
        if error:
            raise error
        await self._pause()
        if prover.taken < self.coming.pages:
            return None
        await self._prove()  # from what flash holds now, not from what was received
        if self._prover.taken < self.coming.pages:
            raise ChargekeepError(errors.LIST_PAGE, "read back")
        return self._finish()

    def forget_coming(self):
        """Drop what was being loaded."""
        self.coming = self._prover = None
        self._store.remove(_COMING)
        self._store.remove(_SLOT % (1 - self._slot))

    async def _prove(self):
        self._prover = prover = Prover(self.coming, self._read_page)
        try:
            with open(self._path(1 - self._slot), "rb") as f:
                while prover.taken < self.coming.pages:
                    page = f.read(PAGE)
                    if len(page) < PAGE:
                        break
                    prover.take(page)
                    await self._pause()
        except (OSError, ChargekeepError):
            return  # the pages up to here hold; the rest comes again

    def _finish(self):
        if self._prover.taken < self.coming.pages:
            return False
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

    def _read_page(self, number):
        first, data = self._received
        at = (number - first) * PAGE
        if 0 <= at < len(data):
            return data[at : at + PAGE]
        with open(self._path(1 - self._slot), "rb") as f:
            f.seek(number * PAGE)
            return f.read(PAGE)


def _proves(proof, page):
    return hashlib.sha256(page).digest()[: len(proof)] == proof


def _search(page, key):
    """Offset of the last item whose first bytes are <= `key`, or -1."""
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
