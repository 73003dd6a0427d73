# What the ledger knows of the last transaction and of the register: read once at boot, so that a
# transaction that a power cut interrupted goes on where its last durable record left it.

from chargekeep.transaction.terms import (
    EV_CONNECTED,
    RECORD_ENDED,
    RECORD_METER_VALUE,
    RECORD_SEGMENT,
    RECORD_STARTED,
    RECORD_UNATTRIBUTED,
    RECORD_UPDATED,
)

_WEEK_S = 604800


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
        self.end_wh = 0
        self.seq_no = 0
        self.offset_wh = 0
        self.elapsed_s = 0  # up to its last record
        self.stopping = 0  # trigger of a stop that was asked for before the power went

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


def recall(ledger, evse_id):
    """`(running transaction, its last stamp, accounted Wh, last Wh, last ended transaction)`.

    Energy is accounted for up to `accounted`: it belongs to a transaction or is recorded as
    unattributed. `last` is the newest register of any record. Each may be None.
    """
    tx = stamp = accounted = last = ended = None
    for _, kind, payload in ledger.records(0):
        body = payload[1:]
        if kind == RECORD_STARTED and body[1] == evse_id:
            tx = Transaction(body)
            stamp = payload[0]
            accounted = last = body[6]
        elif kind == RECORD_UPDATED and tx and body[0] == tx.id:
            tx.seq_no = body[1]
            tx.elapsed_s += elapsed_s(stamp, payload[0])
            tx.stopping = body[2] if body[4] == EV_CONNECTED else 0
            stamp = payload[0]
            accounted = last = body[3]
        elif kind == RECORD_ENDED and tx and body[0] == tx.id:
            tx.elapsed_s += elapsed_s(stamp, payload[0])
            tx.end_wh = accounted = last = body[4]
            ended = tx
            tx = None
        elif kind == RECORD_UNATTRIBUTED:
            accounted = last = body[1]
        elif kind == RECORD_SEGMENT:
            if tx:
                tx.offset_wh += body[0] - body[1]
            accounted = last = body[1]
        elif kind == RECORD_METER_VALUE:
            last = body[0]
            if accounted is None:
                accounted = last
    return tx, stamp, accounted, last, ended
