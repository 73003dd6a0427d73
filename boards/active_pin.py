# A machine.Pin on which 1 means active, whatever level that is on the wire.

import machine


class ActivePin:
    """`wiring`: {"pin": number or name, "active": 0 or 1 (default 1), "pull": "up" or absent}."""

    def __init__(self, wiring, output):
        self._inverted = 0 if wiring.get("active", 1) else 1
        if output:  # inactive from the first instant
            self._pin = machine.Pin(wiring["pin"], machine.Pin.OUT, value=self._inverted)
        elif wiring.get("pull") == "up":
            self._pin = machine.Pin(wiring["pin"], machine.Pin.IN, machine.Pin.PULL_UP)
        else:
            self._pin = machine.Pin(wiring["pin"], machine.Pin.IN)

    def value(self, level=None):
        if level is None:
            return self._pin.value() ^ self._inverted
        self._pin.value((1 if level else 0) ^ self._inverted)
