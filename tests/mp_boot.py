# boot.py: which slot runs, counted trial boots, and the way back. Each case in an empty folder.

import os
import sys

SOURCE = __file__[: __file__.rfind("/")] + "/../firmware/boot.py"
with open(SOURCE) as f:
    CODE = f.read()


def boot(**files):
    """Run boot.py where `files` lie; the slot it chose."""
    for name in ("slot", "rolled_back", "slot.new"):
        try:
            os.remove(name)
        except OSError:
            pass
    for name in files:
        put(name, files[name])
    return again()


def again():
    path = list(sys.path)
    try:
        exec(CODE, {"__name__": "__main__"})
        assert sys.path[1:] == [".frozen"] + path
        return sys.path[0]
    finally:
        sys.path[:] = path


def put(name, text):
    with open(name, "w") as f:
        f.write(text)


def get(name):
    with open(name) as f:
        return f.read()


def in_empty_folder(function):
    folder = "/tmp/mp_boot_%d" % id(function)
    os.mkdir(folder)
    here = os.getcwd()
    os.chdir(folder)
    try:
        function()
    finally:
        for name in os.listdir(folder):
            os.remove(folder + "/" + name)
        os.chdir(here)
        os.rmdir(folder)


def test_without_a_pointer_or_with_a_damaged_one_slot_a_runs():
    def check():
        assert boot() == "a"
        for text in ("a", "", "c", "\x00\x00", "ab", "a\n"):
            assert boot(slot=text) == "a", text
        assert boot(slot="b") == "b"

    in_empty_folder(check)


def test_a_trial_has_three_starts_and_then_the_other_slot_runs():
    def check():
        assert boot(slot="b 3") == "b" and get("slot") == "b 2"
        assert again() == "b" and get("slot") == "b 1"
        assert again() == "b" and get("slot") == "b 0"
        assert again() == "a" and get("slot") == "a"
        assert get("rolled_back") == "b"
        assert again() == "a"
        assert boot(slot="a 0") == "b" and get("slot") == "b"

    in_empty_folder(check)


def test_a_damaged_count_goes_back():
    def check():
        for text in ("b x", "b -1", "b 3x"):
            assert boot(slot=text) == "a", text

    in_empty_folder(check)


def test_a_cut_before_the_rename_changes_nothing():
    def check():
        put("slot.new", "a")
        assert boot(slot="b") == "b"
        put("slot.new", "garb")
        assert again() == "b" and get("slot") == "b"

    in_empty_folder(check)


def test_confirm_ends_the_trial():
    from chargekeep.update import slots

    def check():
        assert boot(slot="b 3") == "b" and slots.on_trial()
        assert slots.running() == "b" and slots.other() == "a"
        slots.confirm()
        assert get("slot") == "b" and not slots.on_trial()
        for _ in range(5):
            assert again() == "b"
        slots.switch("a")
        assert get("slot") == "a 3"
        put("rolled_back", "a")
        assert slots.rolled_back() == "a" and slots.rolled_back() is None

    in_empty_folder(check)


def test_where_a_trial_cannot_be_counted_the_proven_slot_runs():
    def check():
        put("slot", "b 3")
        os.mkdir("slot.new")  # so that it cannot be written
        try:
            assert again() == "a"
            assert get("slot") == "b 3"
        finally:
            os.rmdir("slot.new")

    in_empty_folder(check)
