# ESP32, ESP32-S3 and ESP32-C3 boards. The ledger is a row of the partition table (partitions.csv
# of the board).

import os

import esp32
import machine
import network
from active_pin import ActivePin

from chargekeep import errors
from chargekeep.board import Board
from chargekeep.errors import ChargekeepError

_DATA = esp32.Partition.TYPE_DATA


class PortBoard(Board):
    name = "ESP32"

    def uart(self, role):
        wiring = self.wiring.get(role)
        return wiring and machine.UART(
            wiring["uart"],
            baudrate=wiring.get("baudrate", 9600),
            tx=wiring["tx"],
            rx=wiring["rx"],
            rxbuf=512,
            timeout=0,
            timeout_char=0,
        )

    def pin(self, role):
        wiring = self.wiring.get(role)
        return wiring and ActivePin(wiring, output=role == "relay")

    def ledger_device(self):
        label = (self.wiring.get("ledger") or {}).get("partition", "ledger")
        found = esp32.Partition.find(_DATA, label=label)
        if not found:
            raise ChargekeepError(errors.BOARD, "no partition named %s" % label)
        return found[0]

    def network(self):
        return network.WLAN(network.STA_IF)

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
