# What every port that has MicroPython's `machine` module shares: UARTs, pins, watchdog, reset.

import os

import machine

from chargekeep import timebase
from chargekeep.board import Board

_SET_AFTER = 1735689600  # 2025: ports start their clocks in 2000 or 2021 where nobody has set them


class ActivePin:
    """`wiring`: {"pin": number or name, "active": 0 or 1 (default 1), "pull": "up" or absent}."""

    def __init__(self, wiring, output):
        self._inverted = 0 if wiring.get("active", 1) else 1
        if output:  # inactive from the first instant
            self.pin = machine.Pin(wiring["pin"], machine.Pin.OUT, value=self._inverted)
        elif wiring.get("pull") == "up":
            self.pin = machine.Pin(wiring["pin"], machine.Pin.IN, machine.Pin.PULL_UP)
        else:
            self.pin = machine.Pin(wiring["pin"], machine.Pin.IN)

    def value(self, level=None):
        if level is None:
            return self.pin.value() ^ self._inverted
        self.pin.value((1 if level else 0) ^ self._inverted)


class MachineBoard(Board):
    def uart(self, role):
        wiring = self.wiring.get(role)
        return wiring and machine.UART(
            wiring["uart"],
            baudrate=wiring.get("baudrate", 9600),
            parity=wiring.get("parity"),
            tx=machine.Pin(wiring["tx"]),
            rx=machine.Pin(wiring["rx"]),
            rxbuf=512,
            timeout=0,
            timeout_char=0,
        )

    def pin(self, role):
        wiring = self.wiring.get(role)
        return wiring and ActivePin(wiring, output=role != "feedback")

    def counter(self, role):
        from chargekeep.metering.pulse import PulseCounter

        wiring = self.wiring[role]
        return PulseCounter(ActivePin(wiring, output=False).pin, wiring)

    def time_hint(self):
        # As whoever set the clock last had it, mpremote for one; it does not outlast a power cut
        now = timebase.unix_clock()
        return now if now >= _SET_AFTER else None

    def entropy(self, n):
        return os.urandom(n)

    def unique_id(self):
        return machine.unique_id()

    def reset_cause(self):
        return 3 if machine.reset_cause() == machine.WDT_RESET else 1

    def reset(self):
        machine.reset()

    def watchdog(self):
        return machine.WDT(timeout=self.wiring.get("watchdog_ms") or 8000)
