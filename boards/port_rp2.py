# RP2040 boards (Raspberry Pi Pico, Pico W). The ledger lies where rp2_gap.py finds room.

from port_machine import MachineBoard
from rp2_gap import ledger_device

try:
    from network import STA_IF, WLAN
except ImportError:  # no radio on a plain Pico
    WLAN = None


class PortBoard(MachineBoard):
    name = "RP2"

    def ledger_device(self):
        return ledger_device(self.wiring.get("ledger") or {})

    def network(self):
        return WLAN and WLAN(STA_IF)
