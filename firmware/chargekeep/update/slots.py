# The two firmware slots, folders "a" and "b" beside boot.py, and the pointer between them: the
# file "slot", replaced by one atomic rename. boot.py counts trial boots; `confirm` ends a trial.

import os

from micropython import const

TRIAL_BOOTS = const(3)
COUNTER = const(10)  # of firmware versions in the ledger, FORMATS.md section 4
MANIFEST = "manifest"  # of the bundle in a slot, as it was signed
FAILED = "failed"  # the same, where it did not pass its trial
LIST = "files"  # of that bundle
OWN = (MANIFEST, FAILED, LIST)

_POINTER = "slot"
_ROLLED_BACK = "rolled_back"


def read(name, mode="r"):
    """Content of a file, empty where there is none."""
    try:
        with open(name, mode) as f:
            return f.read()
    except OSError:
        return ""


def running():
    """`"a"` or `"b"`: what boot.py chose for this boot."""
    return "b" if read(_POINTER).startswith("b") else "a"


def other():
    return "a" if running() == "b" else "b"


def on_trial():
    """Whether the running slot has yet to prove itself."""
    return " " in read(_POINTER)


def installed():
    """The signed manifest of what runs; empty where it is frozen or was copied by hand."""
    return read(running() + "/" + MANIFEST, "rb")


def failed():
    """The signed manifest of what was staged last and failed its trial; or empty."""
    return read(other() + "/" + FAILED, "rb")


def switch(slot, trial=True):
    """Run `slot` from the next boot on. The one step of an update that takes effect."""
    with open(_POINTER + ".new", "w") as f:
        f.write("%s %d" % (slot, TRIAL_BOOTS) if trial else slot)
        f.flush()
    os.rename(_POINTER + ".new", _POINTER)


def confirm():
    """The running slot works: it stays."""
    if on_trial():
        switch(running(), False)


def rolled_back():
    """The slot that failed its trial, once; None if there was none."""
    slot = read(_ROLLED_BACK)
    if not slot:
        return None
    try:
        os.rename(slot + "/" + MANIFEST, slot + "/" + FAILED)
    except OSError:
        pass  # there was none, or a cut came right after it
    os.remove(_ROLLED_BACK)
    return slot
