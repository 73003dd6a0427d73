# What a boot needs and nothing after it: what the ledger knows of the last transaction and of the
# register, so that a transaction that a power cut interrupted goes on from its last durable record
# or ends there. Records that thinning moved may come in any order: nothing here depends on it.

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
_COUNTER_RECALL = const(12)

# Triggers, a charging state and stopped reasons of OCPP 2.0.1 (FORMATS.md section 4)
_DEAUTHORIZED = const(4)
_ABNORMAL_CONDITION = const(13)
_SUSPENDED_EV = const(3)
_STOPPED_DEAUTHORIZED = const(1)
_STOPPED_POWER_LOSS = const(9)

# Why a transaction stopped, by the trigger of its last event, for a stop that a power cut
# interrupted; without one (0) the power cut itself is the reason.
_REASONS = b"\x09\x08\x08\x08\x01\x03\x04\x08\x08\x0f\x06\x08\x0c\x08\x0b\x04"

_IDLE = const("idle")  # states of the machine
_RESUMING = const("resuming")

_GAP_WH = const(200)  # more than this between last record and boot did not flow before the cut

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


def take_up(machine, alive):
    """`Machine.resume`: the state of before the boot, as far as the ledger tells."""
    memory = Memory(machine._ledger, machine._ledger.counter(_COUNTER_RECALL), alive)
    if memory.ended:
        machine._used(memory.ended, memory.ended_wh)
        machine.ended = None if memory.attested else memory.ended
        machine._ended_seq = memory.ended_seq
    machine.accounted_wh = memory.accounted_wh
    if memory.last_wh is not None:
        machine._sampler.anchor(memory.last_wh)
    machine.stamp = memory.stamp
    machine.recorded_wh = memory.register_wh
    machine.transaction = tx = memory.transaction
    if tx and machine._on_started:
        machine._try(machine._on_started, tx)
    machine._enter(_RESUMING if tx else _IDLE)


def decide(machine):
    """Whether the interrupted transaction goes on, with a sample or with the wait for one over."""
    tx = machine.transaction
    recorded = machine.recorded_wh
    register = machine._sampler.register_wh
    before, now = machine.stamp[0], machine._timebase.now()
    dark_s = 0 if before is None or now is None else now - before
    if register is None:
        machine._end(_REASONS[tx.stopping], recorded)
    elif not 0 <= register - recorded <= _GAP_WH:
        # More than flowed before the cut: what came after belongs to nobody.
        machine._most_wh = recorded
        machine._end(_REASONS[tx.stopping], recorded)
    elif tx.stopping:
        machine._end(_REASONS[tx.stopping], register)
    elif machine._actuator.vehicle() is False or dark_s > machine._config().resume_s:
        machine._end(_STOPPED_POWER_LOSS, register)
    elif machine._may_resume and not machine._may_resume(tx):
        machine._end(_STOPPED_DEAUTHORIZED, register, _DEAUTHORIZED)
    elif not machine._limits():
        machine._flowed_s = machine._elapsed_s()
        machine._update(_ABNORMAL_CONDITION, _SUSPENDED_EV)
        machine._permit()


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
        for seq, offset in segments:
            if seq > started[0] and (newest[1] != _RECORD_ENDED or seq < newest[0]):
                tx.offset_wh += offset
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
