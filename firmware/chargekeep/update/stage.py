# Puts a bundle into the slot that does not run. Files that are there already, in either slot, are
# not asked for. Before the switch every byte is hashed again from flash, and what does not belong
# into the slot is removed; a cut at any point leaves the running slot as it was. Long work comes
# as generators, so that a charger that charges goes on between two steps.

import hashlib
import os

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.update import manifest, slots

_BUFFER = const(512)
_COPIED = const(4096)  # bytes written between two steps
_FOLDER = const(0x4000)
_EEXIST = const(17)
_SPARE = const(32768)  # bytes of the file system that stay free


def digest(path):
    """`(size, SHA-256)` of a file, or None."""
    sha = hashlib.sha256()
    size = 0
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    try:
        with open(path, "rb") as f:
            while True:
                count = f.readinto(buffer)
                if not count:
                    return size, sha.digest()
                sha.update(view[:count])
                size += count
    except OSError:
        return None


def space(size, block):
    """Bytes that a file of `size` takes: whole blocks, or a share of its folder's where small."""
    return block // 4 if size <= block // 8 else -(-size // block) * block


def _folders(path):
    count = 1
    for entry in os.ilistdir(path):
        if entry[1] & _FOLDER:
            count += _folders(path + "/" + entry[0])
    return count


def _room():
    # Blocks and their size. MicroPython 1.28's statvfs counts a littlefs folder's two blocks twice
    # (lfs2_fs_traverse goes to them once more, for orphans); were it to stop, a copy would fail.
    info = os.statvfs(os.getcwd())
    return info[0], info[3] + 2 * sum([_folders(slot) for slot in "ab" if slot in os.listdir()])


def _make_folders(path):
    at = path.find("/")
    while at >= 0:
        try:
            os.mkdir(path[:at])
        except OSError as e:
            if e.errno != _EEXIST:
                raise
        at = path.find("/", at + 1)


def _copy(source, target):
    _make_folders(target)
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    size = 0
    with open(source, "rb") as old, open(target, "wb") as new:
        while True:
            count = old.readinto(buffer)
            if not count:
                break
            new.write(view[:count])
            size += count
            if size % _COPIED == 0:
                yield True
    yield True


def _walk(folder, found):
    # (path, is a folder) of everything below, innermost first.
    for entry in os.ilistdir(folder):
        path = folder + "/" + entry[0]
        if entry[1] & _FOLDER:
            _walk(path, found)
            found.append((path, True))
        else:
            found.append((path, False))


class Stage:
    """A bundle on its way into `slot`. `listed` is its verified manifest, `data` as signed.

    Generators yield True after a write to flash, False after reading.
    """

    def __init__(self, listed, data, slot=None):
        self._listed = listed
        self._data = data
        self.slot = slot or slots.other()
        self._source = slots.running()
        self._list = self.slot + "/" + slots.LIST
        self.needed = []  # indices of files that have to be sent

    def has_list(self):
        return digest(self._list) == (self._listed.size, self._listed.digest)

    def take_list(self, name):
        """The list of files is in the file `name`. Raises UPDATE_FILE where it is not."""
        if digest(name) != (self._listed.size, self._listed.digest):
            raise ChargekeepError(errors.UPDATE_FILE, "list")
        _make_folders(self._list)
        os.rename(name, self._list)

    def files(self):
        """Each `(path, size, SHA-256)`. Raises OBJECT_FORM."""
        return manifest.files(self._list)

    def prepare(self):
        """Find what is missing; take what the running slot has. Raises UPDATE_SPACE, OSError."""
        yield from self._clean(slots.OWN[:2])
        here = []
        self.needed = []
        block, free = _room()
        size = 0
        for index, item in enumerate(self.files()):
            if not self._holds(self.slot, item):
                if self.slot != self._source and self._holds(self._source, item):
                    here.append(index)
                else:
                    self.needed.append(index)
                size += space(item[1], block)
            yield False
        if block * free < size + _SPARE:
            raise ChargekeepError(errors.UPDATE_SPACE, "%d bytes" % size)
        for index, item in enumerate(self.files()):
            if index in here:
                yield from _copy(self._source + "/" + item[0], self.slot + "/" + item[0])

    def _holds(self, slot, item):
        return digest(slot + "/" + item[0]) == (item[1], item[2])

    def _clean(self, unwanted=()):
        # What is in the slot and not in the bundle.
        wanted = [self.slot + "/" + item[0] for item in self.files()]
        wanted += [self.slot + "/" + name for name in slots.OWN if name not in unwanted]
        found = []
        _walk(self.slot, found)
        for path, folder in found:
            if folder:
                if any(name.startswith(path + "/") for name in wanted):
                    continue
                os.rmdir(path)
            elif path in wanted:
                continue
            else:
                os.remove(path)
            yield True

    def put(self, path, size, offset, data):
        """Bytes of the file `path` of `size` from `offset` on, in order. Raises UPDATE_FILE."""
        path = self.slot + "/" + path
        if offset + len(data) > size:
            raise ChargekeepError(errors.UPDATE_FILE, "too long: " + path)
        if offset:
            try:
                there = os.stat(path)[6]
            except OSError:
                there = 0
            if there != offset:
                raise ChargekeepError(errors.UPDATE_FILE, "%s has %d bytes" % (path, there))
        else:
            _make_folders(path)
        with open(path, "ab" if offset else "wb") as f:
            f.write(data)

    def finish(self):
        """Prove the slot from what flash holds. Raises UPDATE_FILE with the first bad file."""
        yield from self._clean()
        for item in self.files():
            if not self._holds(self.slot, item):
                raise ChargekeepError(errors.UPDATE_FILE, item[0])
            yield False
        with open(self.slot + "/" + slots.MANIFEST, "wb") as f:
            f.write(self._data)
