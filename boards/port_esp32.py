# ESP32, ESP32-S3 and ESP32-C3 boards. The ledger is a row of the board's partitions.csv.

import machine
from esp32 import Partition
from network import STA_IF, WLAN
from port_machine import ActivePin, MachineBoard

from chargekeep import errors
from chargekeep.errors import ChargekeepError

_GLITCH_NS = 10000  # the unit cannot filter longer ones


class PortBoard(MachineBoard):
    name = "ESP32"

    def counter(self, role):
        if not hasattr(machine, "Counter"):  # the ESP32-C3 has no counting unit
            return super().counter(role)
        wiring = self.wiring[role]
        edge = machine.Counter.RISING if wiring.get("active", 1) else machine.Counter.FALLING
        pin = ActivePin(wiring, output=False).pin
        return machine.Counter(0, pin, edge=edge, filter_ns=_GLITCH_NS)

    def ledger_device(self):
        label = (self.wiring.get("ledger") or {}).get("partition", "ledger")
        found = Partition.find(Partition.TYPE_DATA, label=label)
        if not found:
            raise ChargekeepError(errors.BOARD, "no partition named %s" % label)
        return found[0]

    def network(self):
        return WLAN(STA_IF)
