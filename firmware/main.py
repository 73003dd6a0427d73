# Starts the charger. On UNIX: micropython -X heapsize=320k main.py, in a station's folder. A crash
# restarts the board, and boot.py counts. The file "service" keeps the charger from starting once,
# so that the host finds a REPL and no watchdog runs.

import gc
import os
import sys
import time

_INTERRUPT_S = 2  # time for Ctrl-C between a crash and the restart


def service():
    try:
        os.remove("service")
    except OSError:
        return False
    return True


def restart():
    time.sleep(_INTERRUPT_S)
    try:
        from machine import reset
    except ImportError:  # UNIX: whoever runs the station starts it again
        sys.exit(1)
    reset()


if not service():
    gc.threshold(8192)  # or importing would scatter the heap until no table finds room
    try:
        from chargekeep import app

        app.main()
    except Exception as e:
        sys.print_exception(e)
        restart()
