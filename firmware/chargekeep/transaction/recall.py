# What the ledger knows of the last transaction and of the register: read once at boot, so that a
# transaction that a power cut interrupted goes on where its last durable record left it. Records
# that thinning moved may come in any order, so nothing here depends on it.

from micropython import const

from chargekeep.transaction.terms import (
    EV_CONNECTED,
    RECORD_ENDED,
    RECORD_METER_VALUE,
    RECORD_SEGMENT,
    RECORD_STARTED,
    RECORD_UNATTRIBUTED,
    RECORD_UPDATED,
)

_STAMP = const(4)  # elements before a record's body: time, quality, boot id, uptime
_WEEK_S = const(604800)

# Where a record's register stands in its body.
_REGISTER_AT = {
    RECORD_STARTED: 6,
    RECORD_UPDATED: 3,
    RECORD_ENDED: 4,
    RECORD_METER_VALUE: 0,
    RECORD_UNATTRIBUTED: 1,
    RECORD_SEGMENT: 1,
}


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


class Memory:
    """What was recalled; None where the ledger does not tell.

    `transaction` is the running one, `stamp` and `register_wh` are of its last record. `ended`
    is the last one that ended, and took `ended_wh`. Energy up to `accounted_wh` belongs to a
    transaction or is recorded as unattributed; `last_wh` is the newest register of any record.
    """

    def __init__(self, ledger):
        self.transaction = self.stamp = self.ended = None
        self.register_wh = self.accounted_wh = self.last_wh = None
        self.ended_wh = 0
        self._number = 0  # the highest transaction id so far, and what was seen of it
        self._started = self._newest = None
        self._boots = {}  # boot id -> [its first stamp, its last]
        segments = []
        accounted_seq = last_seq = 0
        for seq, kind, payload in ledger.records():
            at = _REGISTER_AT.get(kind)
            if at is None:
                continue
            body = payload[_STAMP:]
            if seq >= last_seq:
                last_seq = seq
                self.last_wh = body[at]
            if kind == RECORD_METER_VALUE:
                continue
            if seq >= accounted_seq:
                accounted_seq = seq
                self.accounted_wh = body[at]
            if kind == RECORD_SEGMENT:
                segments.append((seq, body[0] - body[1]))
            elif kind != RECORD_UNATTRIBUTED and body[0] >= self._number:
                self._see(seq, kind, payload[:_STAMP], body)
        if self._started and self._newest:
            self._conclude(self._started, self._newest, segments)
        if self.accounted_wh is None:
            self.accounted_wh = self.last_wh

    def _see(self, seq, kind, stamp, body):
        if body[0] > self._number:
            self._number = body[0]
            self._started = self._newest = None
            self._boots = {}
        if kind == RECORD_STARTED:
            self._started = (seq, kind, stamp, body)
        if not self._newest or seq > self._newest[0]:
            self._newest = (seq, kind, stamp, body)
        span = self._boots.setdefault(stamp[2], [stamp, stamp])
        if stamp[3] < span[0][3]:
            span[0] = stamp
        if stamp[3] > span[1][3]:
            span[1] = stamp

    def _conclude(self, started, newest, segments):
        tx = Transaction(started[3])
        tx.offset_wh = sum([offset for seq, offset in segments if seq > started[0]])
        before = None
        for boot in sorted(self._boots):
            first, last = self._boots[boot]
            tx.elapsed_s += elapsed_s(first, last) + (elapsed_s(before, first) if before else 0)
            before = last
        _, kind, self.stamp, body = newest
        self.register_wh = body[_REGISTER_AT[kind]]
        if kind == RECORD_ENDED:
            self.ended = tx
            self.ended_wh = tx.energy_wh(self.register_wh)
            return
        self.transaction = tx
        if kind == RECORD_UPDATED:
            tx.seq_no = body[1]
            tx.stopping = body[2] if body[4] == EV_CONNECTED else 0
        if self.accounted_wh != self.register_wh:
            self.register_wh = self.accounted_wh  # a segment came after its last record
