# Picks the firmware that runs: folder "a" or "b", as the file "slot" says. "b 2" means that b is
# on trial and may start twice more; the firmware takes the number away once it has proven itself
# (chargekeep/update/slots.py). Without that the other folder runs again. Never updated in the
# field.

import os
import sys


def read(name):
    try:
        with open(name) as f:
            return f.read()
    except OSError:
        return ""


def write(name, text):
    # The rename is the one moment in which it changes; a power cut leaves the old text or the new.
    with open(name + ".new", "w") as f:
        f.write(text)
        f.flush()
    os.rename(name + ".new", name)


def choose():
    slot, _, starts_left = read("slot").partition(" ")
    if slot != "b":
        slot = "a"
    if starts_left == "":
        return slot
    other = "a" if slot == "b" else "b"
    try:
        if starts_left.isdigit() and int(starts_left) > 0:
            write("slot", "%s %d" % (slot, int(starts_left) - 1))
            return slot
        write("rolled_back", slot)
        write("slot", other)
    except OSError:
        pass  # a trial that cannot be counted is none
    return other


# Frozen modules come before the root, whose folder "chargekeep" (storage) is none of them.
sys.path[:0] = [choose(), ".frozen"]
