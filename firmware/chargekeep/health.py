# Counts every error by its code and condenses the state of all parts into exactly one of four
# states with reasons. The same dict goes out over MQTT (retained) and over USB.

from micropython import const

ONLINE = "online"
OPERATIONAL = "offline_operational"
DEGRADED = "offline_degraded"
UNSAFE = "offline_unsafe"

_DETAIL_CHARS = const(60)
_CODES = const(32)  # so that a status fits in a message; what is beyond counts as 0


class Health:
    """Error counts of this boot: `errors` maps a code to how often it was seen."""

    def __init__(self):
        self.errors = {}
        self.last = None  # (code, detail)

    def count(self, code, detail=""):
        self.last = (code, str(detail)[:_DETAIL_CHARS])
        if code not in self.errors and len(self.errors) >= _CODES:
            code = 0
        self.errors[code] = self.errors.get(code, 0) + 1


def assess(connected, unsafe, degraded):
    """One of the four states.

    An unsafe station says so even while connected; a degraded one that is connected is `online`,
    and its reasons travel along.
    """
    if unsafe:
        return UNSAFE
    if connected:
        return ONLINE
    return DEGRADED if degraded else OPERATIONAL


def reasons(meter_stale, clock_quality, list_stale, free_slots, reserve_slots):
    """Why a station is degraded, worst first, as short strings."""
    found = []
    if meter_stale:
        found.append("meter_stale")
    if free_slots <= reserve_slots:
        found.append("ledger_full")
    if list_stale:
        found.append("list_stale")
    if not clock_quality:
        found.append("time_unknown")
    return found
