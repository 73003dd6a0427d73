# The transaction machine of one EVSE, in OCPP 2.0.1 terms. It promises that power is permitted
# only under a transaction whose start is in flash, that each transaction ends exactly once, and
# that all energy the meter counts is either of a transaction or recorded as unattributed, to the
# watt-hour, whatever power, meter or contactor do.

import sys
import time

from micropython import const

from chargekeep.config import Config
from chargekeep.errors import (
    ACTUATOR_FEEDBACK,
    EVSE_OCCUPIED,
    LEDGER_FULL,
    LEDGER_PROGRAM,
    METER_STALE,
    TRANSACTION_NO_SPACE,
    TRANSACTION_STATE,
    UNSAFE,
    ChargekeepError,
)
from chargekeep.transaction.contactor import Contactor
from chargekeep.transaction.transaction import Transaction, elapsed_s

# Enumerations of the records (FORMATS.md section 4), named as in OCPP 2.0.1 part 2, section 3:
# TriggerReasonEnumType
_AUTHORIZED = const(1)
_CHARGING_STATE_CHANGED = const(3)
_DEAUTHORIZED = const(4)
_ENERGY_LIMIT_REACHED = const(5)
_EV_COMMUNICATION_LOST = const(6)
_METER_VALUE_PERIODIC = const(8)
_TIME_LIMIT_REACHED = const(9)
_STOP_AUTHORIZED = const(10)
_REMOTE_STOP = const(12)
_ABNORMAL_CONDITION = const(13)
_RESET_COMMAND = const(14)
_EV_DEPARTED = const(15)

# ReasonEnumType: why a transaction stopped
_STOPPED_DEAUTHORIZED = const(1)
_STOPPED_EMERGENCY = const(2)
_STOPPED_ENERGY_LIMIT = const(3)
_STOPPED_EV_DISCONNECTED = const(4)
_STOPPED_LOCAL = const(6)
_STOPPED_OTHER = const(8)
_STOPPED_POWER_LOSS = const(9)
_STOPPED_REMOTE = const(12)
_STOPPED_TIME_LIMIT = const(15)
_STOPPED_TIMEOUT = const(16)

# ChargingStateEnumType
_CHARGING = const(1)
_EV_CONNECTED = const(2)
_SUSPENDED_EV = const(3)
_SUSPENDED_EVSE = const(4)

# Record types, and the ledger's counter of transactions
_RECORD_STARTED = const(2)
_RECORD_UPDATED = const(3)
_RECORD_ENDED = const(4)
_RECORD_METER_VALUE = const(5)
_RECORD_FAULT = const(9)
_RECORD_UNATTRIBUTED = const(10)
_RECORD_SEGMENT = const(11)
_COUNTER_TRANSACTIONS = const(1)
_COUNTER_RECALL = const(12)  # no boot needs a record before this seq

# `state` of a machine.
_BOOTING = const("booting")  # until `resume`; nothing is permitted
_IDLE = const("idle")
_RESUMING = const("resuming")  # a transaction waits for the first sample after a boot
_ACTIVE = const("charging")  # power is permitted
_BLIND = const("suspended")  # withdrawn while the meter is blind, the transaction goes on
_ENDING = const("ending")  # withdrawn for good, waiting for the final register

_CHECKPOINT_S = const(10)  # what a power cut can cost: this much time ...
_CHECKPOINT_WH = const(50)  # ... or energy, whichever comes first
_BLIND_WH = const(500)  # what may flow at most while the meter does not answer
_GAP_WH = const(200)  # more than this between last record and boot did not flow before the cut
_RESUME_S = const(60)  # a resumed transaction waits so long for a sample
_UNATTRIBUTED_WH = const(50)  # recorded in portions of this
_NOISE_W = const(100)  # what a power limit may be exceeded by
_SETTLE_MS = const(500)  # a contactor opens within 0.1 s; cars ramp down within the rest
_FINAL_MS = const(3000)  # how long to wait for the register after withdrawing
_FINAL_WH = const(15)  # what may come in between: two seconds of 25 kW
_IDLE_CHECKPOINTS = const(6)  # so many times rarer while the register stands still
_BLIND_MS = const(2500)  # two samples are missing
_OVERLOAD_MS = const(10000)  # power above its limit may last this long
_FAULT_DETAIL = const(40)

# Why a transaction stopped, by the trigger of its last event, for a stop that a power cut
# interrupted; without one (0) the power cut itself is the reason.
_REASONS = b"\x09\x08\x08\x08\x01\x03\x04\x08\x08\x0f\x06\x08\x0c\x08\x0b\x04"


class Machine:
    """Call `resume` once, then `tick` about every 250 ms.

    `actuator`: see relay.py. `on_begin(decision, tx_id)` may refuse by raising; it runs before
    anything is recorded. `on_used(cti, tx_id, wh, s)` is told what a transaction took, at its end
    and, as a power cut may come between, once more after a boot.
    `may_resume(transaction)` says whether the token still stands after a reboot. `config()`
    gives the settings in force (config.py).
    `state` is one of the words above, `unsafe` 0 or a code, `transaction` a Transaction or None.
    """

    def __init__(
        self,
        evse_id,
        connector_id,
        ledger,
        sampler,
        actuator,
        timebase,
        health,
        on_begin=None,
        on_used=None,
        may_resume=None,
        config=None,
    ):
        self.evse_id = evse_id
        self.connector_id = connector_id
        self.state = _BOOTING
        self.transaction = None
        self.ended = None  # the last transaction, until its evidence is recorded,
        self._ended_seq = 0  # and the seq of its end, until a boot need not look before it
        self.unsafe = 0
        self.charging_state = _EV_CONNECTED
        self._ledger = ledger
        self._sampler = sampler
        self._actuator = actuator
        self._contactor = Contactor(actuator, sampler, health)
        self._timebase = timebase
        self._health = health
        self._on_begin = on_begin
        self._on_used = on_used
        self._may_resume = may_resume
        defaults = None if config else Config()
        self._config = config or (lambda: defaults)
        self._accounted_wh = None  # all energy up to this register is in the ledger
        self._seen = 0  # sampler.samples at the last tick
        self._stamp = None  # of the transaction's last record
        self._recorded_wh = 0  # and its register
        self._since_ms = 0  # when the state was entered
        self._overload_ms = None
        self._slot = None  # the current interval of clock-aligned values
        self._flowed_s = None  # elapsed seconds of the transaction when power flowed last
        self._cap_w = 0  # the operator's limit
        self._throttled = False  # the actuator itself keeps the power limit
        self._reason = 0  # of the stop under way
        self._stop_wh = None  # and the register at it, where it was fresh
        sampler.on_segment = self._segment

    # What others ask for

    def matches(self, decision):
        """May the token of `decision` stop the running transaction? Its own or its group's may."""
        tx = self.transaction
        if tx is None:
            return False
        if decision.stop or (decision.cti is not None and decision.cti == tx.cti):
            return True
        return decision.id_hash is not None and decision.id_hash == tx.id_hash

    def present(self, decision):
        """A token was presented: True where a transaction starts, False where its own one stops.

        Raises EVSE_OCCUPIED for another's token, else as `start`.
        """
        if self.transaction is None:
            self.start(decision)
            return True
        if not self.matches(decision):
            raise ChargekeepError(EVSE_OCCUPIED)
        self.stop(_STOPPED_LOCAL, _STOP_AUTHORIZED)
        return False

    def start(self, decision, trigger=_AUTHORIZED):
        """Begin a transaction and permit power; returns its id.

        `decision` has accepted, stop, code, id_hash, cti, kid, max_wh, max_s, max_w, tariff_id and
        tariff_version. Raises its code if not accepted, TRANSACTION_STATE, UNSAFE, METER_STALE
        (no register to start from) or TRANSACTION_NO_SPACE.
        """
        if not decision.accepted:
            raise ChargekeepError(decision.code)
        if self.state != _IDLE:
            raise ChargekeepError(TRANSACTION_STATE, self.state)
        if self.unsafe:
            raise ChargekeepError(UNSAFE, str(self.unsafe))
        if self._accounted_wh is None or self._sampler.sample is None or self._sampler.fault:
            raise ChargekeepError(METER_STALE)
        register = self._sampler.register_wh
        number = self._ledger.counter(_COUNTER_TRANSACTIONS) + 1
        self._durably(self._ledger.advance, _COUNTER_TRANSACTIONS, number)
        if self._on_begin:
            self._on_begin(decision, number)
        body = [
            number,
            self.evse_id,
            self.connector_id,
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
        records = [(_RECORD_STARTED, body)]
        if register > self._accounted_wh:
            leak = (_RECORD_UNATTRIBUTED, [self._accounted_wh, register])
            records.insert(0, leak)
        self._stamp = self._timebase.stamp()
        seq = self._durably(self._ledger.append_many, records)
        self._recall_from(seq)
        self.transaction = Transaction(body)
        self.transaction.begin = self._stamp
        self._accounted_wh = self._recorded_wh = register
        self._flowed_s = None
        self._permit()
        return number

    def stop(self, reason=_STOPPED_REMOTE, trigger=_REMOTE_STOP):
        """Withdraw power now and end the transaction at the register read after that.

        Raises TRANSACTION_STATE without a transaction; a second stop changes nothing.
        """
        if self.transaction is None:
            raise ChargekeepError(TRANSACTION_STATE, self.state)
        if self.state == _ENDING:
            return
        self._withdraw()
        self._enter(_ENDING)
        self._reason = reason
        self._stop_wh = self._sampler.register_wh if self._sampler.age_ms() < _BLIND_MS else None
        self.transaction.stopping = trigger
        # Durable at once, so that a power cut from here on does not resume what was stopped.
        self._update(trigger, _EV_CONNECTED)

    def deauthorize(self, more_wh=0):
        """The running transaction's token was revoked: end it, now or after `more_wh`.

        OCPP's StopTxOnInvalidId and MaxEnergyOnInvalidId. Raises TRANSACTION_STATE without one.
        """
        tx = self.transaction
        if not tx or not more_wh:
            self.stop(_STOPPED_DEAUTHORIZED, _DEAUTHORIZED)
        elif not tx.deauthorized:
            tx.deauthorized = True
            more_wh += tx.energy_wh(self._last_wh())
            tx.max_wh = min(tx.max_wh or more_wh, more_wh)

    def limit(self, max_w):
        """Keep this and all coming transactions below `max_w` as well (0: no more than their own).

        Not durable: the operator's settings are the place for a cap that lasts.
        """
        self._cap_w = max_w
        if self.transaction:
            self._throttled = self._actuator.limit(self._max_w())

    def _max_w(self):
        own = self.transaction.max_w
        return min(own, self._cap_w) if own and self._cap_w else own or self._cap_w

    def emergency(self, code, detail=""):
        """Withdraw power now, whatever the state, and refuse to start until `clear`."""
        self._withdraw()
        if self.unsafe != code:
            self.unsafe = code
            self._fault(code, detail)
        if self.transaction and self.state != _ENDING:
            self.stop(_STOPPED_EMERGENCY, _ABNORMAL_CONDITION)

    def clear(self):
        """The operator has looked at what was unsafe."""
        self.unsafe = 0
        self._contactor.forget()

    def info(self):
        """The transaction for a status message, or None."""
        tx = self.transaction
        if tx is None:
            return None
        register = self._sampler.register_wh
        return {
            "id": tx.id,
            "seq_no": tx.seq_no,
            "state": self.state,
            "charging_state": self.charging_state,
            "energy_wh": tx.energy_wh(self._recorded_wh if register is None else register),
            "time_s": self._elapsed_s(),
            "tariff": [tx.tariff_id, tx.tariff_version],
        }

    # Boot

    def resume(self, alive=None):
        """Take up what the ledger tells; call once, before the sampler runs.

        It reads all records since the last transaction began, 4.4 ms each on an RP2040, which
        may be many seconds: `alive()` is called in between, to feed a watchdog.
        """
        self._withdraw()
        from chargekeep.transaction import recall

        memory = recall.Memory(self._ledger, self._ledger.counter(_COUNTER_RECALL), alive)
        # Needed once: a kilobyte of RAM to have back.
        sys.modules.pop(recall.__name__, None)
        delattr(sys.modules["chargekeep.transaction"], "recall")
        if memory.ended:
            self._used(memory.ended, memory.ended_wh)
            self.ended = None if memory.attested else memory.ended
            self._ended_seq = memory.ended_seq
        self._accounted_wh = memory.accounted_wh
        if memory.last_wh is not None:
            self._sampler.anchor(memory.last_wh)
        self.transaction = memory.transaction
        self._enter(_RESUMING if self.transaction else _IDLE)
        self._stamp = memory.stamp
        self._recorded_wh = memory.register_wh

    def _resume(self):
        # In _RESUMING with a sample, or with the wait for one over.
        tx = self.transaction
        register = self._sampler.register_wh
        if register is None:
            register = self._recorded_wh
            self._end(_REASONS[tx.stopping], register)
            return
        self._reason = _STOPPED_POWER_LOSS
        if not 0 <= register - self._recorded_wh <= _GAP_WH:
            # More than flowed before the cut: what came after belongs to nobody.
            self._end(_REASONS[tx.stopping], self._recorded_wh)
        elif tx.stopping:
            self._end(_REASONS[tx.stopping], register)
        elif self._actuator.vehicle() is False or self._outage_s() > self._config().resume_s:
            self._end(self._reason, register)
        elif self._may_resume and not self._may_resume(tx):
            self._end(_STOPPED_DEAUTHORIZED, register, _DEAUTHORIZED)
        elif not self._limits():
            self._flowed_s = self._elapsed_s()
            self._update(_ABNORMAL_CONDITION, _SUSPENDED_EV)
            self._permit()

    def _outage_s(self):
        # Seconds of known time since the last record, 0 where the clock does not tell.
        before, now = self._stamp[0], self._timebase.now()
        return 0 if before is None or now is None else now - before

    # Time passes

    def tick(self):
        """Look at the meter, the contactor and the clock."""
        if self.state == _BOOTING:
            return
        self._actuator.poll()
        if self._contactor.sticks(self._now()):
            self.emergency(ACTUATOR_FEEDBACK, "closed")
        fresh = self._sampler.samples != self._seen
        self._seen = self._sampler.samples
        if self._accounted_wh is None and self._sampler.samples:
            self._found()
        if fresh:
            self._aligned()
        if self.state == _IDLE:
            self._idle(fresh)
        elif self.state == _ENDING:
            self._ending()
        elif self.state == _RESUMING:
            if self._sampler.samples or self._for_ms() > 1000 * _RESUME_S:
                self._resume()
        else:
            self._charging(fresh)

    def _found(self):
        # The register as this station found it: what came before is not ours.
        if self._value():
            self._accounted_wh = self._sampler.register_wh

    def _aligned(self):
        # Clock-aligned meter values; by uptime as long as the time is not known.
        every = self._config().aligned_data_interval_s
        if every:
            now = self._timebase.now()
            slot = (self._timebase.uptime_s() if now is None else now) // every
            if slot != self._slot:
                first = self._slot is None
                self._slot = slot
                if not first and (self.transaction or self._settle()):
                    self._value()

    def _value(self):
        sampler = self._sampler
        return self._append(_RECORD_METER_VALUE, [sampler.register_wh, sampler.power_w or 0])

    def _idle(self, fresh):
        if self._ended_seq and not self.ended:
            self._recall_from(self._ended_seq)
            self._ended_seq = 0
        if not fresh or self._accounted_wh is None:
            return
        register = self._sampler.register_wh
        leak = self._contactor.leak_wh()
        if leak and not self.unsafe:
            self.emergency(UNSAFE, "%d Wh while open" % leak)
        if register - self._accounted_wh >= _UNATTRIBUTED_WH:
            self._unattributed(register)

    def _ending(self):
        sampler = self._sampler
        after = time.ticks_diff(sampler.read_ms, self._contactor.opened_ms)
        if sampler.samples and after >= _SETTLE_MS:
            register = sampler.register_wh
            most = max(_FINAL_WH, 2 * sampler.resolution_wh)
            if self._stop_wh is not None and register - self._stop_wh > most:
                register = self._stop_wh  # a contactor that sticks is not the driver's
            self._end(self._reason, register)
        elif self._for_ms() > _FINAL_MS:
            self._end(self._reason, self._last_wh())

    def _charging(self, fresh):
        if self._actuator.vehicle() is False:
            self.stop(_STOPPED_EV_DISCONNECTED, _EV_COMMUNICATION_LOST)
            return
        if self._limits() or self._waited():
            return
        if self._sampler.fault or self._sampler.age_ms() > _BLIND_MS:
            self._blind()
        elif self.state == _BLIND and fresh:
            self._update(_CHARGING_STATE_CHANGED, _SUSPENDED_EV)
            self._permit()
        if self.state == _ACTIVE and fresh and not self._flow():
            return
        moved = self._last_wh() - self._recorded_wh
        rest = _CHECKPOINT_S if moved else _IDLE_CHECKPOINTS * _CHECKPOINT_S
        if moved >= _CHECKPOINT_WH or self._since_record_s() >= rest:
            self._update(_METER_VALUE_PERIODIC, self.charging_state)

    def _limits(self):
        tx = self.transaction
        if tx.max_wh and tx.energy_wh(self._last_wh()) >= tx.max_wh:
            if tx.deauthorized:
                self.stop(_STOPPED_DEAUTHORIZED, _DEAUTHORIZED)
            else:
                self.stop(_STOPPED_ENERGY_LIMIT, _ENERGY_LIMIT_REACHED)
        elif tx.max_s and self._elapsed_s() >= tx.max_s:
            self.stop(_STOPPED_TIME_LIMIT, _TIME_LIMIT_REACHED)
        else:
            return False
        return True

    def _waited(self):
        # A car that never takes power, or takes none any more, does not hold the EVSE for ever.
        config = self._config()
        elapsed = self._elapsed_s()
        if self.charging_state == _CHARGING or self.state != _ACTIVE:
            self._flowed_s = elapsed
            return False
        if self._flowed_s is not None:
            most = config.idle_timeout_s
        else:
            most = 0 if self._actuator.vehicle() else config.ev_connection_timeout_s
        if not most or elapsed - (self._flowed_s or 0) < most:
            return False
        self.stop(_STOPPED_TIMEOUT, _EV_COMMUNICATION_LOST)
        return True

    def _flow(self):
        # The car's state from its power; False where its power ended the transaction.
        power = self._sampler.power_w
        if power is None:
            return True
        state = _CHARGING if power >= self._config().charging_threshold_w else _SUSPENDED_EV
        if state != self.charging_state:
            self._update(_CHARGING_STATE_CHANGED, state)
        limit = self._max_w()
        if not limit or self._throttled or power <= limit + limit // 20 + _NOISE_W:
            self._overload_ms = None
        elif self._overload_ms is None:
            self._overload_ms = self._now()
        elif time.ticks_diff(self._now(), self._overload_ms) > _OVERLOAD_MS:
            self.stop(_STOPPED_OTHER, _ABNORMAL_CONDITION)
            return False
        return True

    def _blind(self):
        # The meter does not answer: what flows unseen is bounded, by the energy limit as well.
        if self.state == _BLIND:
            return
        tx = self.transaction
        bound = _BLIND_WH
        if tx.max_wh:
            bound = min(bound, tx.max_wh - tx.energy_wh(self._last_wh()))
        age_s = self._sampler.age_ms() // 1000
        flowed = age_s * self._sampler.max_power_w // 3600
        if flowed >= bound or age_s >= self._config().meter_stale_s:
            self._withdraw()
            self._enter(_BLIND)
            self._fault(self._sampler.fault or METER_STALE, "blind")
            self._update(_ABNORMAL_CONDITION, _SUSPENDED_EVSE)

    # Small steps

    def _now(self):
        return self._timebase.ticks_ms()

    def _enter(self, state):
        self.state = state
        self._since_ms = self._now()

    def _for_ms(self):
        return time.ticks_diff(self._now(), self._since_ms)

    def _permit(self):
        self._throttled = self._actuator.limit(self._max_w())
        self._overload_ms = None
        self.charging_state = _SUSPENDED_EV
        self._enter(_ACTIVE)
        self._actuator.permit()

    def _withdraw(self):
        self._contactor.withdraw(self._now())

    def _last_wh(self):
        register = self._sampler.register_wh
        return self._recorded_wh if register is None else register

    def _since_record_s(self):
        return elapsed_s(self._stamp, self._timebase.stamp())

    def _elapsed_s(self):
        return self.transaction.elapsed_s + self._since_record_s()

    def _durably(self, write, *what):
        try:
            return write(*what)
        except ChargekeepError as e:
            if e.code == LEDGER_FULL:
                raise ChargekeepError(TRANSACTION_NO_SPACE, e.detail)
            raise

    def _try(self, write, *what):
        # Nothing here may stop the machine: what flash refuses is counted, and tried again.
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

    def _update(self, trigger, charging_state):
        tx = self.transaction
        self.charging_state = charging_state
        stamp = self._timebase.stamp()
        register = self._last_wh()
        body = [tx.id, tx.seq_no + 1, trigger, register, charging_state]
        if self._append(_RECORD_UPDATED, body):
            self._recorded(stamp, register)

    def _recorded(self, stamp, register):
        tx = self.transaction
        tx.seq_no += 1
        tx.elapsed_s += elapsed_s(self._stamp, stamp)
        self._stamp = stamp
        self._recorded_wh = self._accounted_wh = register

    def _end(self, reason, register, trigger=0):
        tx = self.transaction
        if not trigger:
            trigger = tx.stopping or _ABNORMAL_CONDITION
        stamp = self._timebase.stamp()
        body = [tx.id, tx.seq_no + 1, trigger, reason, register]
        self._ended_seq = self._append(_RECORD_ENDED, body)
        if not self._ended_seq:
            if self.state != _ENDING:
                self._reason = reason
                self._enter(_ENDING)
            return
        self._recorded(stamp, register)
        self._used(tx, tx.energy_wh(register))
        tx.end = stamp
        tx.end_wh = register
        tx.reason = reason
        self.ended = tx
        self.transaction = None
        self._enter(_IDLE)

    def _used(self, tx, energy_wh):
        if self._on_used and tx.cti is not None:
            self._on_used(tx.cti, tx.id, energy_wh, tx.elapsed_s)

    def _settle(self):
        # Outside a transaction: account for all energy so far. A meter value then stands for it
        # when the ring has forgotten everything before.
        return self._accounted_wh is not None and self._unattributed(self._sampler.register_wh)

    def _unattributed(self, register):
        if register > self._accounted_wh:
            if not self._append(_RECORD_UNATTRIBUTED, [self._accounted_wh, register]):
                return False
            self._accounted_wh = register
        return True

    def _segment(self, old, new, reason):
        # False, and the sampler goes on doubting, where the segment could not be recorded.
        if self._accounted_wh is None:
            return True
        tx = self.transaction
        if not tx and not self._unattributed(old):
            return False
        if not self._append(_RECORD_SEGMENT, [old, new, reason]):
            return False
        if tx:
            tx.offset_wh += old - new
            self._recorded_wh = new
        self._accounted_wh = new
        self._stop_wh = None
        self._contactor.forget()
        return True

    def _fault(self, code, detail):
        self._health.count(code, detail)
        self._append(_RECORD_FAULT, [code, self._health.errors[code], detail[:_FAULT_DETAIL]])
