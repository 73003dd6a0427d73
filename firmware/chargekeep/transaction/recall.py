# What the ledger knows of the last transaction and of the register: read once at boot, so that a
# transaction that a power cut interrupted goes on where its last durable record left it. Records
# that thinning moved may come in any order, so nothing here depends on it.

from micropython import const

from chargekeep.transaction.transaction import Transaction, elapsed_s

# Record types, and a charging state (FORMATS.md section 4).
_RECORD_STARTED = const(2)
_RECORD_UPDATED = const(3)
_RECORD_ENDED = const(4)
_RECORD_METER_VALUE = const(5)
_RECORD_UNATTRIBUTED = const(10)
_RECORD_SEGMENT = const(11)
_RECORD_EVIDENCE = const(15)
_EV_CONNECTED = const(2)

_ALIVE = const(64)  # records between two signs of life
_STAMP = const(4)  # elements before a record's body: time, quality, boot id, uptime

# Where a record's register stands in its body.
_REGISTER_AT = {
    _RECORD_STARTED: 6,
    _RECORD_UPDATED: 3,
    _RECORD_ENDED: 4,
    _RECORD_METER_VALUE: 0,
    _RECORD_UNATTRIBUTED: 1,
    _RECORD_SEGMENT: 1,
}


class Memory:
    """What was recalled; None where the ledger does not tell.

    `transaction` is the running one, `stamp` and `register_wh` are of its last record. `ended`
    is the last one that ended (at `ended_seq`), and took `ended_wh`; `attested` tells that its
    evidence is recorded. Energy up to `accounted_wh` belongs to a transaction or is recorded as
    unattributed; `last_wh` is the newest register of any record.
    """

    def __init__(self, ledger, from_seq=0, alive=None):
        self.transaction = self.stamp = self.ended = None
        self.register_wh = self.accounted_wh = self.last_wh = None
        self.ended_wh = self.ended_seq = 0
        self.attested = False
        attested = 0  # the highest transaction id with evidence
        self._number = 0  # the highest transaction id so far, and what was seen of it
        self._started = self._newest = None
        self._boots = {}  # boot id -> [its first stamp, its last]
        segments = []
        accounted_seq = last_seq = 0
        count = 0
        for seq, kind, payload in ledger.records(max(1, from_seq)):
            count += 1
            if alive and count % _ALIVE == 0:
                alive()
            body = payload[_STAMP:]
            if kind == _RECORD_EVIDENCE:
                attested = max(attested, body[0])
            at = _REGISTER_AT.get(kind)
            if at is None:
                continue
            if seq >= last_seq:
                last_seq = seq
                self.last_wh = body[at]
            if kind == _RECORD_METER_VALUE:
                continue
            if seq >= accounted_seq:
                accounted_seq = seq
                self.accounted_wh = body[at]
            if kind == _RECORD_SEGMENT:
                segments.append((seq, body[0] - body[1]))
            elif kind != _RECORD_UNATTRIBUTED and body[0] >= self._number:
                self._see(seq, kind, payload[:_STAMP], body)
        if self._started and self._newest:
            self._conclude(self._started, self._newest, segments)
        self.attested = attested >= self._number
        if self.accounted_wh is None:
            self.accounted_wh = self.last_wh

    def _see(self, seq, kind, stamp, body):
        if body[0] > self._number:
            self._number = body[0]
            self._started = self._newest = None
            self._boots = {}
        if kind == _RECORD_STARTED:
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
        tx.begin = started[2]
        tx.offset_wh = sum([offset for seq, offset in segments if seq > started[0]])
        before = None
        for boot in sorted(self._boots):
            first, last = self._boots[boot]
            tx.elapsed_s += elapsed_s(first, last) + (elapsed_s(before, first) if before else 0)
            before = last
        _, kind, self.stamp, body = newest
        self.register_wh = body[_REGISTER_AT[kind]]
        if kind == _RECORD_ENDED:
            self.ended = tx
            tx.end = self.stamp
            tx.end_wh = self.register_wh
            tx.reason = body[3]
            self.ended_seq = newest[0]
            self.ended_wh = tx.energy_wh(self.register_wh)
            return
        self.transaction = tx
        if kind == _RECORD_UPDATED:
            tx.seq_no = body[1]
            tx.stopping = body[2] if body[4] == _EV_CONNECTED else 0
        if self.accounted_wh != self.register_wh:
            self.register_wh = self.accounted_wh  # a segment came after its last record
