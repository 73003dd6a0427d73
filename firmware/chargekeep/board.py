# The one contract between the firmware and hardware: UARTs, pins, the ledger's flash, file
# storage, network, clock hint, entropy and watchdog. A port implements `Board` in the module
# `port_<sys.platform>` (boards/); nothing else in the firmware imports machine, network, rp2 or
# esp32.

import json
import sys

from chargekeep import errors
from chargekeep.errors import ChargekeepError

# What is wired where, by role. A role that is absent from config.json is None.
ROLES = "meter reader relay feedback evse direction ledger storage network watchdog_ms".split()


class Board:
    """What a port provides. `wiring` is config.json as a dict; its keys are `ROLES`."""

    name = "?"

    def __init__(self, wiring):
        for role in wiring:
            if role not in ROLES:
                raise ChargekeepError(errors.CONFIG, "config.json: unknown role %s" % role)
            if type(wiring[role]) is list:
                raise ChargekeepError(errors.CONFIG, "config.json: one EVSE, so one %s" % role)
        self.wiring = wiring

    def uart(self, role):
        """An object with any(), read(n), readinto(buf), write(buf) that never blocks; or None."""
        raise NotImplementedError

    def pin(self, role):
        """An object with value() and value(0 or 1) as machine.Pin, 1 meaning active; or None."""
        raise NotImplementedError

    def counter(self, role):
        """An object with value(): the pulses that the role's input has seen since boot."""
        raise NotImplementedError

    def ledger_device(self):
        """The ledger's flash: MicroPython's extended block protocol (offset writes program)."""
        raise NotImplementedError

    def storage(self):
        """Root folder (str) of the file system that holds signed objects and settings."""
        return self.wiring.get("storage") or "/chargekeep"

    def network(self):
        """An object like network.WLAN, or None where the system keeps the link up."""
        return None

    def time_hint(self):
        """Unix seconds from an unauthenticated clock (RTC), or None where it was never set."""
        return None

    def entropy(self, n):
        """n unpredictable bytes."""
        raise NotImplementedError

    def unique_id(self):
        """The chip's own id, bytes."""
        raise NotImplementedError

    def secret(self):
        """Bytes that only this board has, as well as it can: what its secrets are sealed under."""
        return self.unique_id()

    def reset_cause(self):
        """Why this boot happened: 1 power on, 2 reset, 3 watchdog, 0 unknown."""
        return 0

    def reset(self):
        """Restart the board. Does not return."""
        raise NotImplementedError

    def watchdog(self):
        """An object with feed(); starts counting now."""
        raise NotImplementedError


def open_board(path="config.json"):
    """The board this firmware runs on, wired as the file says. Raises CONFIG or BOARD."""
    try:
        with open(path) as f:
            wiring = json.load(f)
    except (OSError, ValueError) as e:
        raise ChargekeepError(errors.CONFIG, "%s: %s" % (path, e))
    try:
        port = __import__("port_" + sys.platform)
    except ImportError:
        raise ChargekeepError(errors.BOARD, "no port for " + sys.platform)
    return port.PortBoard(wiring)
