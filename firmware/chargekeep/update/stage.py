# Puts a bundle into the slot that does not run. Files that are there already, in either slot, are
# not asked for. Before the switch every byte is hashed again from flash, and what does not belong
# into the slot is removed; a cut at any point leaves the running slot as it was.

import hashlib
import os

from micropython import const

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.update import slots

_BUFFER = const(512)
_FOLDER = const(0x4000)
_SPARE = const(8192)  # bytes of the file system that stay free


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


def _make_folders(path):
    at = path.find("/")
    while at >= 0:
        try:
            os.mkdir(path[:at])
        except OSError:
            pass  # there already; if not, opening the file fails and says so
        at = path.find("/", at + 1)


def _copy(source, target):
    _make_folders(target)
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    with open(source, "rb") as old, open(target, "wb") as new:
        while True:
            count = old.readinto(buffer)
            if not count:
                return
            new.write(view[:count])


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
    """A bundle on its way into `slot`. `listed` is its verified manifest, `data` as signed."""

    def __init__(self, listed, data, slot=None):
        self._listed = listed
        self._data = data
        self.slot = slot or slots.other()
        self._source = slots.running()
        self.needed = []  # indices of files that have to be sent

    def prepare(self):
        """Find what is missing; take what the running slot has. Raises UPDATE_SPACE, OSError."""
        self._clean()
        here = []
        self.needed = []
        size = 0
        for index, item in enumerate(self._listed.files):
            if not self._holds(self.slot, item):
                if self.slot != self._source and self._holds(self._source, item):
                    here.append(item)
                else:
                    self.needed.append(index)
                size += item[1]
        info = os.statvfs(os.getcwd())
        if info[0] * info[3] < size + _SPARE:
            raise ChargekeepError(errors.UPDATE_SPACE, "%d bytes" % size)
        for item in here:
            _copy(self._source + "/" + item[0], self.slot + "/" + item[0])

    def _holds(self, slot, item):
        return digest(slot + "/" + item[0]) == (item[1], item[2])

    def _clean(self):
        # What is in the slot and not in the bundle.
        wanted = [self.slot + "/" + item[0] for item in self._listed.files]
        found = []
        try:
            _walk(self.slot, found)
        except OSError:
            os.mkdir(self.slot)
        for path, folder in found:
            if folder:
                if not any(name.startswith(path + "/") for name in wanted):
                    os.rmdir(path)
            elif path not in wanted:
                os.remove(path)

    def put(self, index, offset, data):
        """Bytes of file `index` from `offset` on, in order. Raises UPDATE_FILE out of order."""
        path, size, _ = self._listed.files[index]
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
        self._clean()
        for item in self._listed.files:
            if not self._holds(self.slot, item):
                raise ChargekeepError(errors.UPDATE_FILE, item[0])
        with open(self.slot + "/" + slots.MANIFEST, "wb") as f:
            f.write(self._data)
