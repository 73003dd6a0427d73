# A littlefs file system on a block device in RAM whose power can be cut at any program or erase.

import os

from mptest import SkipTest

from chargekeep.store import Store

_BLOCK = 512
_BLOCKS = 24


class Disk:
    """Block device in RAM whose power goes out before the n-th program or erase, for good."""

    def __init__(self, data=None, cut_at=-1):
        self.data = data or bytearray(b"\xff" * _BLOCK * _BLOCKS)
        self.cut_at = cut_at
        self.steps = 0
        self.dead = False

    def step(self):
        self.dead = self.dead or self.steps == self.cut_at
        self.steps += 1
        return self.dead

    # A dead disk allocates nothing: finalisers of files left open call it with the heap locked.
    def readblocks(self, n, buf, off=0):
        if self.dead:
            return -5
        start = n * _BLOCK + off
        buf[:] = self.data[start : start + len(buf)]

    def writeblocks(self, n, buf, off=0):
        if self.dead or self.step():
            return -5
        start = n * _BLOCK + off
        self.data[start : start + len(buf)] = buf

    def ioctl(self, op, arg):
        if op == 4:
            return _BLOCKS
        if op == 5:
            return _BLOCK
        if op == 6:
            if self.dead or self.step():
                return -5
            start = arg * _BLOCK
            self.data[start : start + _BLOCK] = b"\xff" * _BLOCK
        return 0


def mounted(disk):
    """The store on `disk`, below /s."""
    os.mount(os.VfsLfs2(disk), "/s")
    return Store("/s/store")


def fresh():
    """A formatted disk."""
    if not hasattr(os, "VfsLfs2"):
        raise SkipTest("no littlefs in this VM")
    disk = Disk()
    os.VfsLfs2.mkfs(disk)
    return disk
