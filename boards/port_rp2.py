# RP2040 boards (Raspberry Pi Pico, Pico W) on stock MicroPython images.

import os

import machine
from active_pin import ActivePin
from rp2_gap import ledger_device

from chargekeep.board import Board

try:
    import network
except ImportError:
    network = None


class PortBoard(Board):
    name = "RP2"

    def uart(self, role):
        wiring = self.wiring.get(role)
        return wiring and machine.UART(
            wiring["uart"],
            baudrate=wiring.get("baudrate", 9600),
            tx=machine.Pin(wiring["tx"]),
            rx=machine.Pin(wiring["rx"]),
            rxbuf=512,
            timeout=0,
            timeout_char=0,
        )

    def pin(self, role):
        wiring = self.wiring.get(role)
        return wiring and ActivePin(wiring, output=role == "relay")

    def ledger_device(self):
        return ledger_device(self.wiring.get("ledger") or {})

    def network(self):
        return network and network.WLAN(network.STA_IF)

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
