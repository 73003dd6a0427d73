# Loads a new allowlist into a file: page by page as it arrives or as the old list has it already,
# each proven before it is taken. Goes on after a reboot with the pages that hold. Imported only
# while a list is loading; needs at most 6 KiB of heap, the chunk that arrives included.

import hashlib

from micropython import const

from chargekeep import errors
from chargekeep.authorization.allowlist import PAGE, search
from chargekeep.errors import ChargekeepError

CHUNK_PAGES = const(4)

_HEAD = const(8)  # of a page, FORMATS.md section 2
_ITEM = const(21)
_ITEMS = const(24)
_SEPARATOR = const(5)
_HASH = const(16)
_MAX_LEVEL = const(3)
_FLUSH_PAGES = const(16)


class Prover:
    """Takes the pages of one list in order and proves each by the ones before it.

    `read_page(n)` gives page n, which was taken: 512 bytes.
    """

    def __init__(self, header, read_page):
        self._header = header
        self._read_page = read_page
        self.taken = 0
        self._entries = 0
        self._named = 1  # pages that index pages so far account for, the root included
        self._parent = -1  # number of the index page whose children are coming
        self._page = b""
        self._item = 0

    def expected(self):
        """Separator and hash of the next page, which is not the first: 21 bytes."""
        if self._item >= (self._page[1] if self._page else 0):
            self._parent += 1
            self._page = self._read_page(self._parent)
            self._item = 0
        at = _HEAD + self._item * _ITEM
        return self._page[at : at + _ITEM]

    def take(self, page):
        """The next page. Raises LIST_PAGE, taking nothing, where it is not what was signed."""
        header = self._header
        digest = hashlib.sha256(page).digest()
        level, count, first = page[0], page[1], page[2] << 8 | page[3]
        if self.taken == 0:
            proven = digest == header.root and level <= _MAX_LEVEL
        else:
            expected = self.expected()
            proven = (
                expected[_SEPARATOR:] == digest[:_HASH]
                and expected[:_SEPARATOR] == page[_HEAD : _HEAD + _SEPARATOR]
                and level == self._page[0] - 1
                and count
            )
        # The hashes prove what was signed, the rest that it is a tree which every look-up leaves
        named = self._named + (count if level else 0)
        entries = self._entries + (0 if level else count)
        last = self.taken + 1 == header.pages
        if (
            not proven
            or count > _ITEMS
            or first != (self._named if level else 0)
            or named > header.pages
            or (last and (named != header.pages or entries != header.count))
        ):
            raise ChargekeepError(errors.LIST_PAGE, "page %d" % self.taken)
        self.taken += 1
        self._named = named
        self._entries = entries
        self._item += 1


class Loader:
    """Builds the list of `header` in the file `path`; `old` is the path of the list in force, or
    None. `pause()` is awaited every page of long work."""

    def __init__(self, header, path, old, pause):
        self._header = header
        self.path = path
        self.old = old
        self.pause = pause
        self._received = 0, b""  # first page and pages of the chunk being taken
        self._prover = Prover(header, self._read_page)

    @property
    def taken(self):
        """Pages that are there."""
        return self._prover.taken

    @property
    def complete(self):
        return self._prover.taken == self._header.pages

    def take(self, page):
        """As Prover.take; the caller writes it."""
        self._prover.take(page)

    async def prove(self):
        """Start again from what the file holds."""
        self._prover = prover = Prover(self._header, self._read_page)
        try:
            with open(self.path, "rb") as f:
                while not self.complete:
                    page = f.read(PAGE)
                    if len(page) < PAGE:
                        break
                    prover.take(page)
                    await self.pause()
        except (OSError, ChargekeepError):
            return  # the pages up to here hold; the rest comes again

    async def chunk(self, data):
        """Take the chunk with the next page. Raises LIST_PAGE, after the pages before the one that
        is wrong were taken, or OSError."""
        prover = self._prover
        start = prover.taken
        first = start - start % CHUNK_PAGES
        end = min(first + CHUNK_PAGES, self._header.pages)
        if len(data) != (end - first) * PAGE:
            raise ChargekeepError(errors.LIST_PAGE, "chunk length")
        data = memoryview(data)
        self._received = first, data
        error = None
        try:
            while prover.taken < end:
                at = (prover.taken - first) * PAGE
                prover.take(data[at : at + PAGE])
        except ChargekeepError as e:
            error = e
        self._received = 0, b""
        try:
            with open(self.path, "r+b" if start else "wb") as f:
                f.seek(start * PAGE)
                f.write(data[(start - first) * PAGE : (prover.taken - first) * PAGE])
                f.flush()
        except OSError:
            await self.prove()
            raise
        if error:
            raise error
        await self.pause()

    async def reuse(self):
        """Take the next pages from the old list, as long as it has them."""
        if not self.old or not self.taken or self.complete:
            return
        try:
            with open(self.old, "rb") as old, open(self.path, "r+b") as f:
                f.seek(self.taken * PAGE)
                while not self.complete:
                    # Index pages are read back while their children come: those must be durable
                    page = self._find(old, self._prover.expected())
                    if page is None or page[0]:
                        break
                    self._prover.take(page)
                    f.write(page)
                    if self.taken % _FLUSH_PAGES == 0:
                        f.flush()
                    await self.pause()
                f.flush()
        except (OSError, ChargekeepError):
            await self.prove()

    def _find(self, old, wanted):
        """The old page of separator and hash `wanted`, or None."""
        separator = wanted[:_SEPARATOR]
        number = 0
        for _ in range(_MAX_LEVEL + 1):
            old.seek(number * PAGE)
            page = old.read(PAGE)
            if len(page) < PAGE or not page[0]:
                return None
            at = search(page, separator)
            if at < 0:
                return None
            number = (page[2] << 8 | page[3]) + (at - _HEAD) // _ITEM
            if page[at : at + _ITEM] == wanted:
                old.seek(number * PAGE)
                page = old.read(PAGE)
                return page if len(page) == PAGE else None
        return None

    def _read_page(self, number):
        first, data = self._received
        at = (number - first) * PAGE
        if 0 <= at < len(data):
            return bytes(data[at : at + PAGE])  # it outlives the chunk
        with open(self.path, "rb") as f:
            f.seek(number * PAGE)
            return f.read(PAGE)
