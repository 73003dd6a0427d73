import os

from mptest import SkipTest, raises

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
    if not hasattr(os, "VfsLfs2"):
        raise SkipTest("no littlefs in this VM")
    os.mount(os.VfsLfs2(disk), "/s")
    return Store("/s/store")


def fresh():
    disk = Disk()
    os.VfsLfs2.mkfs(disk)
    return disk


def test_read_write_remove():
    store = mounted(fresh())
    assert store.read("a") is None
    store.write("a", b"one")
    store.write("a", memoryview(b"three"))
    assert store.read("a") == b"three"
    assert store.path("a") == "/s/store/a"
    assert store.remove("a") and not store.remove("a")
    assert store.read("a") is None


def test_root_that_is_a_file_is_refused():
    mounted(fresh())
    raises(OSError, Store, "/s/no/such")


def test_every_power_cut_leaves_old_or_new():
    disk = fresh()
    old, new = b"o" * 300, b"n" * 700
    mounted(disk).write("x", old)
    os.umount("/s")
    before = disk.data
    cut, seen, done = 0, set(), False
    while not done:
        disk = Disk(bytearray(before))
        store = mounted(disk)
        disk.cut_at = disk.steps + cut
        try:
            store.write("x", new)
            done = True
        except OSError:
            done = False
        os.umount("/s")
        store = mounted(Disk(disk.data))
        content = store.read("x")
        assert content == new if done else content in (old, new), (cut, content)
        assert os.listdir("/s/store") == ["x"], "a temporary file stays behind"
        seen.add(content)
        store.write("x", b"later")
        assert store.read("x") == b"later"
        os.umount("/s")
        cut += 1
    assert cut > 3 and seen == {old, new}, (cut, seen)
    print("%d power cuts" % cut)
