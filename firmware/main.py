# Starts the charger. On UNIX: micropython -X heapsize=320k main.py, in a station's folder. A crash
# restarts the board, and boot.py counts. The file "service" keeps the charger from starting once,
# so that the host finds a REPL and no watchdog runs.

import gc
import os
import sys
import time

_INTERRUPT_S = 2  # time for Ctrl-C between a crash and the restart
_TRIAL_MS = 8000  # from here to the charger's own watchdog; an RP2040 counts to 8,388


def service():
    try:
        os.remove("service")
    except OSError:
        return False
    return True


def guard():
    """Have a hang of firmware on trial end in a restart, even a hang of its imports."""
    try:
        with open("slot") as f:
            if " " not in f.read():
                return
    except OSError:
        return
    try:
        from machine import WDT
    except ImportError:  # UNIX: whoever runs the station looks at this file
        with open("watchdog", "w") as f:
            f.write("%d" % _TRIAL_MS)
    else:
        WDT(timeout=_TRIAL_MS)


def restart():
    time.sleep(_INTERRUPT_S)
    try:
        from machine import reset
    except ImportError:  # UNIX: whoever runs the station starts it again
        sys.exit(1)
    reset()


if not service():
    guard()
    gc.threshold(8192)  # or importing would scatter the heap until no table finds room
    try:
        from chargekeep import app

        app.main()
    except Exception as e:
        sys.print_exception(e)
        restart()
