# The UNIX board: a station on a desktop. UARTs are pseudo-terminals, pins are one-byte files,
# the ledger's flash is a file with NOR rules, and the watchdog is a file whose age the process
# that runs the station watches.

import os

from nor import NorFile
from pty_uart import PtyUart

from chargekeep import timebase
from chargekeep.board import Board

_LEDGER_BLOCKS = 64


class FilePin:
    """A pin whose level is the file's only byte, '0' or '1'."""

    def __init__(self, path):
        self.path = path

    def value(self, level=None):
        if level is None:
            try:
                with open(self.path) as f:
                    return 1 if f.read(1) == "1" else 0
            except OSError:
                return 0
        with open(self.path, "w") as f:
            f.write("1" if level else "0")


class FileCounter:
    """Each byte of the file is a pulse; those of before the boot do not count."""

    def __init__(self, path):
        self.path = path
        self._begin = self._size()

    def _size(self):
        try:
            return os.stat(self.path)[6]
        except OSError:
            return 0

    def value(self):
        return self._size() - self._begin


class FileWatchdog:
    """Touches a file at each feed; whoever runs the station kills it when the file grows old."""

    def __init__(self, path, timeout_ms):
        self.path = path
        self.timeout_ms = timeout_ms
        self.feed()

    def feed(self):
        with open(self.path, "w") as f:
            f.write("%d\n" % self.timeout_ms)


class PortBoard(Board):
    name = "UNIX"

    def uart(self, role):
        wiring = self.wiring.get(role)
        return wiring and PtyUart(wiring["path"], wiring.get("baudrate", 9600))

    def pin(self, role):
        path = self.wiring.get(role)
        return path and FilePin(path)

    def counter(self, role):
        return FileCounter(self.wiring[role]["path"])

    def ledger_device(self):
        wiring = self.wiring.get("ledger") or {}
        return NorFile(wiring.get("path", "flash.nor"), wiring.get("blocks", _LEDGER_BLOCKS))

    def time_hint(self):
        return timebase.unix_clock()

    def entropy(self, n):
        return os.urandom(n)

    def unique_id(self):
        return b"UNIX" + os.getcwd().encode()[-12:]

    def reset_cause(self):
        return 1

    def reset(self):
        raise SystemExit(0)

    def watchdog(self):
        return FileWatchdog("watchdog", self.wiring.get("watchdog_ms") or 8000)
