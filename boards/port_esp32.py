# ESP32, ESP32-S3 and ESP32-C3 boards. The ledger is a row of the board's partitions.csv. What
# secrets are sealed under is in the chip's fuses and never in flash. NVS is no place for it: stock
# MicroPython erases NVS at a start where it does not like its format, and would lock us out.

import sys

import machine
from esp32 import Partition
from network import STA_IF, WLAN
from port_machine import ActivePin, MachineBoard

from chargekeep import errors
from chargekeep.errors import ChargekeepError

# Where 32 bytes of fuses can be read (ESP-IDF, soc/efuse_reg.h): of the ESP32 BLK3, which is the
# user's, of the others the block whose first 16 bytes are the chip's own OPTIONAL_UNIQUE_ID.
_FUSES = {"ESP32": 0x3FF5A078, "ESP32S3": 0x6000705C, "ESP32C3": 0x6000885C}

_GLITCH_NS = 10000  # the counting unit cannot filter longer ones


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

    def secret(self):
        chip = getattr(sys.implementation, "_machine", "").split(" ")[-1]
        at = _FUSES.get(chip)
        fuses = [machine.mem32[at + 4 * i] & 0xFFFFFFFF for i in range(8)] if at else []
        return self.unique_id() + b"".join(word.to_bytes(4, "little") for word in fuses)
