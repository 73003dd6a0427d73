# heap: 448k
# Staging a bundle on a littlefs that fills up, as a board's does: at whatever step it is full, it
# says so, the running slot stays as it is, and with room again the same bundle is staged.

import hashlib
import os

import vfs
from mptest import raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.update import slots, stage

BLOCK = 4096
FILES = {
    "a.py": bytes(300),
    "pkg/b.mpy": b"b" * 5000,
    "pkg/c.mpy": b"c" * 9000,
    "z.mpy": b"z" * 600,
}


class Ram:
    def __init__(self, blocks):
        self.data = bytearray(blocks * BLOCK)

    def readblocks(self, block, buffer, offset=0):
        at = block * BLOCK + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=0):
        at = block * BLOCK + offset
        self.data[at : at + len(buffer)] = buffer

    def ioctl(self, request, argument):
        if request == 4:
            return len(self.data) // BLOCK
        if request == 5:
            return BLOCK
        return 0


def in_flash(function):
    """Call `function` in an empty littlefs of 48 blocks, with slot a running."""
    device = Ram(48)
    vfs.VfsLfs2.mkfs(device)
    vfs.mount(vfs.VfsLfs2(device), "/flash")
    here = os.getcwd()
    os.chdir("/flash")
    try:
        write("slot", b"a")
        os.mkdir("a")
        write("a/a.py", FILES["a.py"])
        write("a/old.py", b"old")
        function()
        assert slots.running() == "a" and not slots.on_trial()
        assert stage.digest("a/a.py")[0] == 300 and stage.digest("a/old.py")[0] == 3
    finally:
        os.chdir(here)
        vfs.umount("/flash")


def write(name, data):
    with open(name, "wb") as f:
        f.write(data)


def fill(blocks):
    with open("ballast", "wb") as f:
        for _ in range(blocks):
            f.write(bytes(BLOCK))


def text_of(files):
    lines = []
    for path in sorted(files):
        lines.append(
            "%s %d %s\n" % (hashlib.sha256(files[path]).digest().hex(), len(files[path]), path)
        )
    return "".join(lines).encode()


class Listed:
    def __init__(self, text):
        self.size = len(text)
        self.digest = hashlib.sha256(text).digest()


def staged(text):
    """Everything of an update but the switch."""
    s = stage.Stage(Listed(text), b"the manifest")
    if not s.has_list():
        write("files.new", text)
        s.take_list("files.new")
    for _ in s.prepare():
        pass
    for index, item in enumerate(s.files()):
        if index in s.needed:
            for at in range(0, item[1], 2048):
                s.put(item[0], item[1], at, FILES[item[0]][at : at + 2048])
    for _ in s.finish():
        pass
    return s


def test_it_is_staged_where_there_is_room():
    def check():
        s = staged(text_of(FILES))
        assert s.slot == "b" and slots.read("b/manifest", "rb") == b"the manifest"
        assert sorted(os.listdir("b")) == ["a.py", "files", "manifest", "pkg", "z.mpy"]
        again = stage.Stage(s._listed, b"x")
        assert again.has_list()
        for _ in again.prepare():
            pass
        assert again.needed == []

    in_flash(check)


def test_a_full_file_system_is_refused_before_anything_is_copied():
    def check():
        text = text_of(FILES)
        fill(25)
        e = raises(ChargekeepError, staged, text)
        assert e.code == errors.UPDATE_SPACE
        assert sorted(os.listdir("b")) == ["files"]
        os.remove("ballast")
        staged(text)

    in_flash(check)


def test_folders_take_their_room_once():
    def check():
        for n in range(9):
            os.mkdir("a/f%d" % n)
        assert os.statvfs("/flash")[3] < 48 - 4 * 10
        staged(text_of(FILES))

    in_flash(check)


def test_it_may_fill_up_at_any_step():
    # Somebody else takes the room after it was found: every write in turn finds none
    done = []

    def check(room):
        text = text_of(FILES)
        real, stage.os = stage.os, Plenty()
        try:
            fill(os.statvfs("/flash")[3] - room)
            try:
                staged(text)
                done.append(room)
            except OSError as e:
                assert e.errno == 28
            except ChargekeepError as e:
                assert e.code == errors.UPDATE_FILE, e
        finally:
            stage.os = real
        os.remove("ballast")
        staged(text)

    for room in range(1, 20):
        in_flash(lambda room=room: check(room))
    assert done and min(done) > 8


class Plenty:
    """Stands in for the module os: it says that there is room."""

    def __getattr__(self, name):
        return getattr(os, name)

    def statvfs(self, path):
        return (BLOCK, 0, 0, 1000)


def test_a_list_that_is_not_as_it_should_be_is_refused():
    good = text_of(FILES)
    digest = good[:64]
    bad = [
        b"x",
        good + b"\n",
        good[:-1],
        good.replace(b" 300 ", b" 0300 "),
        good.replace(b" 300 ", b" -1 "),
        good.replace(b" 300 ", b" 65537 "),
        good.replace(b"a.py", b"manifest"),
        good.replace(b"a.py", b"../a"),
        good.replace(b"a.py", b"a b"),
        digest.upper() + good[64:],
        digest[:62] + good[64:],
        good[good.find(b"\n") + 1 :] + good[: good.find(b"\n") + 1],
        good[: good.find(b"\n") + 1] + good,
    ]

    def check():
        for text in bad:
            write("files.new", text)
            s = stage.Stage(Listed(text), b"")
            s.take_list("files.new")
            e = raises(ChargekeepError, list, s.files())
            assert e.code == errors.OBJECT_FORM, text
        write("files.new", good[:-1] + b" ")
        e = raises(ChargekeepError, stage.Stage(Listed(good), b"").take_list, "files.new")
        assert e.code == errors.UPDATE_FILE

    in_flash(check)
