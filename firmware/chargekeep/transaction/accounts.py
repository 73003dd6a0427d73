# What the ledger is told of one EVSE, and up to which register: each watt-hour is of a
# transaction or recorded as unattributed, whatever power or meter do. Nothing here stops the
# machine that builds on it: what flash refuses is counted, and tried again.

from micropython import const

from chargekeep.config import Config
from chargekeep.errors import LEDGER_FULL, LEDGER_PROGRAM, TRANSACTION_NO_SPACE, ChargekeepError
from chargekeep.transaction.transaction import Transaction, elapsed_s

# Record types, and the ledger's counter of transactions (FORMATS.md section 4)
_RECORD_STARTED = const(2)
_RECORD_UPDATED = const(3)
_RECORD_ENDED = const(4)
_RECORD_METER_VALUE = const(5)
_RECORD_FAULT = const(9)
_RECORD_UNATTRIBUTED = const(10)
_RECORD_SEGMENT = const(11)
_COUNTER_TRANSACTIONS = const(1)
_COUNTER_RECALL = const(12)  # no boot needs a record before this seq

_FAULT_DETAIL = const(40)


class Accounts:
    """`transaction` is the running one or None, `ended` the last one until its evidence is
    recorded. All energy up to `accounted_wh` is in the ledger (None: no register is known yet);
    `recorded_wh` and `stamp` are of the transaction's last record."""

    def __init__(self, ledger, sampler, timebase, health, on_used, config):
        self.transaction = None
        self.ended = None
        self.accounted_wh = None
        self.recorded_wh = 0
        self.stamp = None
        self._ended_seq = 0  # of the last end, until a boot need not look before it
        self._ledger = ledger
        self._sampler = sampler
        self._timebase = timebase
        self._health = health
        self._on_used = on_used
        defaults = None if config else Config()
        self._config = config or (lambda: defaults)
        self._slot = None  # the current interval of clock-aligned values

    # Boundaries of a transaction

    def _begin(self, evse_id, connector_id, decision, trigger):
        register = self._sampler.register_wh
        number = self._ledger.counter(_COUNTER_TRANSACTIONS) + 1
        self._durably(self._ledger.advance, _COUNTER_TRANSACTIONS, number)
        body = [
            number,
            evse_id,
            connector_id,
            decision.id_hash,
            decision.cti,
            decision.kid,
            register,
            decision.tariff_id,
            decision.tariff_version,
            decision.max_wh or 0,
            decision.max_s or 0,
            decision.max_w or 0,
            trigger,
        ]
        body.extend(decision.evidence)
        records = [(_RECORD_STARTED, body)]
        if register > self.accounted_wh:
            leak = (_RECORD_UNATTRIBUTED, [self.accounted_wh, register])
            records.insert(0, leak)
        stamp = self._timebase.stamp()
        seq = self._durably(self._ledger.append_many, records)
        self._recall_from(seq)
        self.stamp = stamp
        self.transaction = Transaction(body)
        self.transaction.begin = stamp
        self.accounted_wh = self.recorded_wh = register
        return number

    def _checkpoint(self, trigger, charging_state):
        tx = self.transaction
        stamp = self._timebase.stamp()
        register = self._last_wh()
        body = [tx.id, tx.seq_no + 1, trigger, register, charging_state]
        if self._append(_RECORD_UPDATED, body):
            self._recorded(stamp, register)

    def _finish(self, trigger, reason, register):
        # False where flash refused the end.
        tx = self.transaction
        stamp = self._timebase.stamp()
        body = [tx.id, tx.seq_no + 1, trigger, reason, register]
        self._ended_seq = self._append(_RECORD_ENDED, body)
        if not self._ended_seq:
            return False
        self._recorded(stamp, register)
        self._used(tx, tx.energy_wh(register))
        tx.end = stamp
        tx.end_wh = register
        tx.reason = reason
        self.ended = tx
        self.transaction = None
        return True

    def _recorded(self, stamp, register):
        tx = self.transaction
        tx.seq_no += 1
        tx.elapsed_s += elapsed_s(self.stamp, stamp)
        self.stamp = stamp
        self.recorded_wh = self.accounted_wh = register

    def _used(self, tx, energy_wh):
        if self._on_used and tx.cti is not None:
            self._try(self._on_used, tx.cti, tx.id, energy_wh, tx.elapsed_s)

    # The register

    def _last_wh(self):
        register = self._sampler.register_wh
        return self.recorded_wh if register is None else register

    def _found(self):
        # The register as this station found it: what came before is not ours.
        if self._value():
            self.accounted_wh = self._sampler.register_wh

    def _aligned(self):
        # Clock-aligned meter values; by uptime as long as the time is not known.
        every = self._config().aligned_data_interval_s
        if every:
            now = self._timebase.now()
            slot = (self._timebase.uptime_s() if now is None else now) // every
            if slot != self._slot:
                first = self._slot is None
                self._slot = slot
                if not first and self._settled():
                    self._value()

    def _settled(self):
        # Outside a transaction: account for all energy so far. A meter value then stands for it
        # when the ring has forgotten everything before.
        if self.transaction:
            return True
        return self.accounted_wh is not None and self._unattributed(self._sampler.register_wh)

    def _value(self):
        sampler = self._sampler
        return self._append(_RECORD_METER_VALUE, [sampler.register_wh, sampler.power_w or 0])

    def _unattributed(self, register):
        if register > self.accounted_wh:
            if not self._append(_RECORD_UNATTRIBUTED, [self.accounted_wh, register]):
                return False
            self.accounted_wh = register
        return True

    def _segment(self, old, new, reason):
        # False, and the sampler goes on doubting, where the segment could not be recorded.
        if self.accounted_wh is None:
            return True
        tx = self.transaction
        if not tx and not self._unattributed(old):
            return False
        if not self._append(_RECORD_SEGMENT, [old, new, reason]):
            return False
        if tx:
            tx.offset_wh += old - new
            self.recorded_wh = new
        self.accounted_wh = new
        return True

    # Time

    def _now(self):
        return self._timebase.ticks_ms()

    def _since_record_s(self):
        return elapsed_s(self.stamp, self._timebase.stamp())

    def _elapsed_s(self):
        return self.transaction.elapsed_s + self._since_record_s()

    # The ledger

    def _durably(self, write, *what):
        try:
            return write(*what)
        except ChargekeepError as e:
            if e.code == LEDGER_FULL:
                raise ChargekeepError(TRANSACTION_NO_SPACE, e.detail)
            raise

    def _try(self, write, *what):
        try:
            return write(*what) or True
        except ChargekeepError as e:
            self._health.count(e.code, e.detail)
        except OSError as e:
            self._health.count(LEDGER_PROGRAM, e)
        return False

    def _append(self, kind, body):
        return self._try(self._ledger.append, kind, body)

    def _recall_from(self, seq):
        self._try(self._ledger.advance, _COUNTER_RECALL, seq)

    def _fault(self, code, detail):
        self._health.count(code, detail)
        self._tell([code, detail[:_FAULT_DETAIL]])

    def _doubted(self):
        # What the meter said that was not believed; the sampler rations it.
        code, wh, raw = self._sampler.evidence
        if self._tell([code, "%s Wh" % wh, raw]):
            self._sampler.evidence = None

    def _tell(self, body):
        body.insert(1, self._health.errors.get(body[0], 1))
        return self._append(_RECORD_FAULT, body)
