import os

from disk_sim import Disk, fresh, mounted
from mptest import raises

from chargekeep.store import Store


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
