# ESP32, ESP32-S3 and ESP32-C3 boards. The ledger is a row of the board's partitions.csv.

from esp32 import Partition
from network import STA_IF, WLAN
from port_machine import MachineBoard

from chargekeep import errors
from chargekeep.errors import ChargekeepError


class PortBoard(MachineBoard):
    name = "ESP32"

    def ledger_device(self):
        label = (self.wiring.get("ledger") or {}).get("partition", "ledger")
        found = Partition.find(Partition.TYPE_DATA, label=label)
        if not found:
            raise ChargekeepError(errors.BOARD, "no partition named %s" % label)
        return found[0]

    def network(self):
        return WLAN(STA_IF)
