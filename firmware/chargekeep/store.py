# Small files on the board's filesystem, each written whole: a power cut leaves the old content or
# the new one, never a mix, and what `write` returned from is durable (on littlefs and on POSIX;
# FAT has no atomic rename). Costs one temporary file and two metadata commits a write.

import os

_NEW = ".new"  # suffix of a file that is not complete yet


class Store:
    """The directory `root` (made if missing). Names are plain file names."""

    def __init__(self, root):
        self.root = root
        try:
            os.mkdir(root)
        except OSError:
            os.stat(root)  # raises if it neither exists nor can be made
        for name in os.listdir(root):
            if name.endswith(_NEW):
                self.remove(name)

    def path(self, name):
        return self.root + "/" + name

    def read(self, name):
        """Content of `name`, or None."""
        try:
            with open(self.path(name), "rb") as f:
                return f.read()
        except OSError:
            return None

    def write(self, name, data):
        """Replace `name` by `data` (bytes-like). Raises OSError and leaves the old content."""
        temporary = self.path(name) + _NEW
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()  # littlefs: commits; unix: fsync
        os.rename(temporary, self.path(name))

    def remove(self, name):
        """Remove `name` if it is there."""
        try:
            os.remove(self.path(name))
        except OSError:
            return False
        return True
