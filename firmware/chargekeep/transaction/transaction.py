# A transaction while it runs: what its records say, its energy and its time.

from micropython import const

_WEEK_S = const(604800)


class Transaction:
    """A running transaction. Energy is the register's way from `start_wh` plus `offset_wh`,
    which is what segments added (the old meter's end minus the new one's begin)."""

    def __init__(self, started):
        # `started` is the body of its record: tx id, EVSE, connector, id hash, cti, kid, ...
        self.id = started[0]
        self.id_hash = started[3]
        self.cti = started[4]
        self.kid = started[5]
        self.start_wh = started[6]
        self.tariff_id = started[7]
        self.tariff_version = started[8]
        self.max_wh = started[9]
        self.max_s = started[10]
        self.max_w = started[11]
        self.exp = started[13] if len(started) > 13 else 0  # of the token
        self.seq_no = 0
        self.offset_wh = 0
        self.elapsed_s = 0  # up to its last record
        self.stopping = 0  # trigger of a stop that was asked for
        self.deauthorized = False  # `max_wh` is what a revoked token may still take
        self.begin = self.end = None  # stamps of its first and last record
        self.end_wh = 0
        self.reason = 0

    def energy_wh(self, register_wh):
        return register_wh - self.start_wh + self.offset_wh


def elapsed_s(earlier, later):
    """Seconds between two stamps; across a boot with no usable clock, at least the uptime."""
    if earlier[2] == later[2]:
        return later[3] - earlier[3]
    if earlier[0] is not None and later[0] is not None:
        passed = later[0] - earlier[0]
        if later[3] <= passed <= _WEEK_S:
            return passed
    return later[3]
