# Makes the pages of a new allowlist from those of the one in force and a delta: what to take, to
# leave out and to add, leaf by leaf (FORMATS.md section 2). Nothing in a delta is believed: each
# page is proven against the new list's signed header before it is taken. Imported for a delta
# only; needs at most 6 KiB of heap, the delta included.

import hashlib

from micropython import const

from chargekeep import errors
from chargekeep.authorization.allowlist import CHUNK_PAGES, PAGE
from chargekeep.errors import ChargekeepError

_HEAD = const(8)  # of a page, FORMATS.md section 2
_ITEM = const(21)
_ITEMS = const(24)
_SEPARATOR = const(5)
_HASH = const(16)
_MAX_LEVEL = const(3)
_FLUSH_PAGES = const(16)

_LEAVES = const(0)  # kinds of instructions
_TAKE = const(1)
_SKIP = const(2)
_ADD = const(3)
_END = const(4)


async def apply(loader, data):
    """Take all pages that `loader` lacks. Raises LIST_PAGE where the delta does not give them:
    those before the first wrong one were taken."""
    try:
        with open(loader.old, "rb") as old:
            build = _Build(data, old, loader.pause)
            with open(loader.path, "r+b" if loader.taken else "wb") as f:
                await _take(loader, build, f)
    except (OSError, ChargekeepError) as e:
        await loader.prove()
        raise ChargekeepError(errors.LIST_PAGE, "delta: %s" % e)


async def _take(loader, build, f):
    f.seek(loader.taken * PAGE)
    number = 0
    for level in range(len(build.first) - 1, -1, -1):
        build.rewind()
        while True:
            page = await build.next(level)
            if page is None:
                break
            if number == loader.taken:
                loader.take(page)
                f.write(page)
                if not number % _FLUSH_PAGES:
                    f.flush()
            number += 1
        f.flush()  # children are proven by what can be read back


class _Build:
    """The pages of the new list, level by level; `first` has the number of the first page of
    each, leaves first."""

    def __init__(self, data, old, pause):
        self._data = data
        self._old = old
        self._pause = pause
        widths = [self._count()]
        while widths[-1] > 1:
            widths.append((widths[-1] + _ITEMS - 1) // _ITEMS)
        if len(data) > CHUNK_PAGES * PAGE or len(widths) > _MAX_LEVEL + 1:
            _fail()
        self.first = [sum(widths[i + 1 :]) for i in range(len(widths))]
        self._old_first = 0  # leaf of the base
        for _ in range(_MAX_LEVEL):
            page = self._read(self._old_first)
            if page[0]:
                self._old_first = page[2] << 8 | page[3]
        self.rewind()

    def rewind(self):
        self._at = 0  # in the delta
        self._copies = 0  # leaves that are still to take as they are
        self._number = self._old_first  # the base's next leaf, and the one being taken from
        self._leaf = None
        self._item = 0
        self._children = [0] * len(self.first)

    async def next(self, level):
        """The next page of a level, or None after its last."""
        if not level:
            await self._pause()
            return self._next_leaf()
        page = bytearray(PAGE)
        at = _HEAD
        while at < _HEAD + _ITEMS * _ITEM:
            child = await self.next(level - 1)
            if child is None:
                break
            page[at : at + _SEPARATOR] = child[_HEAD : _HEAD + _SEPARATOR]
            page[at + _SEPARATOR : at + _ITEM] = hashlib.sha256(child).digest()[:_HASH]
            at += _ITEM
        count = (at - _HEAD) // _ITEM
        if not count:
            return None
        first = self.first[level - 1] + self._children[level]
        self._children[level] += count
        page[0] = level
        page[1] = count
        page[2] = first >> 8
        page[3] = first & 255
        return page

    def _count(self):
        # Leaves of the new list
        self._at = count = 0
        while self._at < len(self._data):
            kind, n = self._instruction()
            if kind == _ADD:
                self._at += n * _ITEM
            elif kind == _LEAVES:
                count += n
            elif kind == _END:
                count += 1
        if not count:
            _fail()
        return count

    def _instruction(self):
        at = self._at
        self._at = at + 2
        if self._at > len(self._data):
            _fail()
        return self._data[at] >> 5, (self._data[at] & 31) << 8 | self._data[at + 1]

    def _next_leaf(self):
        if self._copies:
            self._copies -= 1
            return self._base_leaf()
        page = bytearray(PAGE)
        at = _HEAD
        while self._at < len(self._data):
            kind, n = self._instruction()
            if kind == _LEAVES and n and at == _HEAD:
                self._copies = n - 1
                return self._base_leaf()
            if kind == _END and at > _HEAD:
                page[1] = (at - _HEAD) // _ITEM
                return page
            if kind == _SKIP:
                for _ in range(n):
                    self._base_item()
                continue
            if kind not in (_TAKE, _ADD) or at + n * _ITEM > _HEAD + _ITEMS * _ITEM:
                _fail()
            for _ in range(n):
                if kind == _ADD:
                    item = self._data[self._at : self._at + _ITEM]
                    self._at += _ITEM
                else:
                    item = self._base_item()
                if len(item) < _ITEM:
                    _fail()
                page[at : at + _ITEM] = item
                at += _ITEM
        if at > _HEAD:
            _fail()
        return None

    def _base_leaf(self):
        self._number += 1
        return self._read(self._number - 1)

    def _base_item(self):
        if not self._leaf:
            self._leaf = self._base_leaf()
            self._item = 0
        at = _HEAD + self._item * _ITEM
        item = self._leaf[at : at + _ITEM]
        self._item += 1
        if self._item >= self._leaf[1]:
            self._leaf = None
        return item

    def _read(self, number):
        self._old.seek(number * PAGE)
        page = self._old.read(PAGE)
        if len(page) < PAGE:
            _fail()
        return page


def _fail():
    raise ChargekeepError(errors.LIST_PAGE, "form")
