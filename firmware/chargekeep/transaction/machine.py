# The transaction machine of one EVSE, in OCPP 2.0.1 terms. It promises that power is permitted
# only under a transaction whose start is in flash, that each transaction ends exactly once, and
# that all energy the meter counts is either of a transaction or recorded as unattributed, to the
# watt-hour, whatever power, meter or contactor do.

import time

from micropython import const

from chargekeep import borrow
from chargekeep.errors import (
    ACTUATOR_FEEDBACK,
    EVSE_OCCUPIED,
    METER_STALE,
    TRANSACTION_STATE,
    UNSAFE,
    ChargekeepError,
)
from chargekeep.transaction.accounts import Accounts
from chargekeep.transaction.contactor import Contactor

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

# ReasonEnumType: why a transaction stopped
_STOPPED_DEAUTHORIZED = const(1)
_STOPPED_EMERGENCY = const(2)
_STOPPED_ENERGY_LIMIT = const(3)
_STOPPED_EV_DISCONNECTED = const(4)
_STOPPED_LOCAL = const(6)
_STOPPED_OTHER = const(8)
_STOPPED_REMOTE = const(12)
_STOPPED_TIME_LIMIT = const(15)
_STOPPED_TIMEOUT = const(16)

# ChargingStateEnumType
_CHARGING = const(1)
_EV_CONNECTED = const(2)
_SUSPENDED_EV = const(3)
_SUSPENDED_EVSE = const(4)

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
_RESUME_S = const(60)  # a resumed transaction waits so long for a sample
_UNATTRIBUTED_WH = const(50)  # recorded in portions of this
_NOISE_W = const(100)  # what a power limit may be exceeded by
_SETTLE_MS = const(1000)  # a contactor opens within 0.1 s; cars ramp down within half a cycle
_FINAL_CYCLES = const(3)  # how long to wait for the register after withdrawing
_IDLE_CHECKPOINTS = const(6)  # so many times rarer while the register stands still
_OVERLOAD_MS = const(10000)  # power above its limit may last this long


class Machine(Accounts):
    """Call `resume` once, then `tick` about every 250 ms.

    `actuator`: see relay.py. `on_begin(decision)` may refuse by raising; it runs before anything
    is recorded. `on_started(transaction)` is told what is in flash before power is permitted, and
    `on_used(cti, tx_id, wh, s)` what a transaction took, at its end; both once more after a boot,
    as a power cut may come between.
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
        on_started=None,
        on_used=None,
        may_resume=None,
        config=None,
    ):
        Accounts.__init__(self, ledger, sampler, timebase, health, on_used, config)
        self.evse_id = evse_id
        self.connector_id = connector_id
        self.state = _BOOTING
        self.unsafe = 0
        self.charging_state = _EV_CONNECTED
        self._actuator = actuator
        self._contactor = Contactor(actuator, sampler, health)
        self._on_begin = on_begin
        self._on_started = on_started
        self._may_resume = may_resume
        self._seen = 0  # sampler.samples at the last tick
        self._since_ms = 0  # when the state was entered
        self._overload_ms = None
        self._flowed_s = None  # elapsed seconds of the transaction when power flowed last
        self._cap_w = 0  # the operator's limit
        self._throttled = False  # the actuator itself keeps the power limit
        self._reason = 0  # of the stop under way
        self._most_wh = None  # and the highest register that can be the driver's, where known
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

        `decision` has accepted, stop, code, id_hash, cti, kid, max_wh, max_s, max_w, tariff_id,
        tariff_version and evidence. Raises its code if not accepted, TRANSACTION_STATE, UNSAFE,
        METER_STALE (no register to start from, or a doubtful one) or TRANSACTION_NO_SPACE.
        """
        if not decision.accepted:
            raise ChargekeepError(decision.code)
        if self.state != _IDLE:
            raise ChargekeepError(TRANSACTION_STATE, self.state)
        if self.unsafe:
            raise ChargekeepError(UNSAFE, str(self.unsafe))
        sampler = self._sampler
        if self.accounted_wh is None or not sampler.samples or sampler.fault or sampler.doubt:
            raise ChargekeepError(METER_STALE)
        if self._on_begin:
            self._on_begin(decision)
        number = self._begin(self.evse_id, self.connector_id, decision, trigger)
        self._flowed_s = None
        if self._on_started:
            try:
                self._on_started(self.transaction)
            except ChargekeepError:
                self.stop(_STOPPED_OTHER, _ABNORMAL_CONDITION)
                raise
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
        self._most_wh = None
        sampler = self._sampler
        if sampler.samples and not self._overdue():
            more = (sampler.age_ms() + _SETTLE_MS) * sampler.max_power_w // 3600000
            self._most_wh = sampler.register_wh + max(more, 2 * sampler.resolution_wh)
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
            "energy_wh": tx.energy_wh(self.recorded_wh if register is None else register),
            "time_s": self._elapsed_s(),
            "tariff": [tx.tariff_id, tx.tariff_version],
        }

    # Boot

    def resume(self, alive=None):
        """Take up what the ledger tells; call once, before the sampler runs.

        It reads all records since the last transaction began, 2.3 ms each on an RP2040, which
        may be many seconds: `alive()` is called in between, to feed a watchdog.
        """
        self._withdraw()
        self._recall("take_up", alive)

    def _recall(self, step, *what):
        # What is needed once after a boot is in a module of its own: kilobytes to have back.
        getattr(borrow("chargekeep.transaction.recall"), step)(self, *what)

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
        if self.accounted_wh is None and self._sampler.samples:
            self._found()
        if fresh:
            self._aligned()
        if self._sampler.evidence:
            self._doubted()
        if self.state == _IDLE:
            self._idle(fresh)
        elif self.state == _ENDING:
            self._ending()
        elif self.state == _RESUMING:
            if self._sampler.samples or self._for_ms() > 1000 * _RESUME_S:
                self._recall("decide")
        else:
            self._charging(fresh)

    def _idle(self, fresh):
        if self._ended_seq and not self.ended:
            self._recall_from(self._ended_seq)
            self._ended_seq = 0
        if not fresh or self.accounted_wh is None:
            return
        register = self._sampler.register_wh
        leak = self._contactor.leak_wh()
        if leak and not self.unsafe:
            self.emergency(UNSAFE, "%d Wh while open" % leak)
        if register - self.accounted_wh >= _UNATTRIBUTED_WH:
            self._unattributed(register)

    def _ending(self):
        sampler = self._sampler
        after = time.ticks_diff(sampler.read_ms, self._contactor.opened_ms)
        if sampler.samples and after >= min(_SETTLE_MS, sampler.cycle_ms // 2):
            register = sampler.register_wh
            if self._most_wh is not None:  # a contactor that sticks is not the driver's
                register = min(register, self._most_wh)
            self._end(self._reason, register)
        elif self._for_ms() > _FINAL_CYCLES * sampler.cycle_ms:
            self._end(self._reason, self._last_wh())

    def _charging(self, fresh):
        if self._actuator.vehicle() is False:
            self.stop(_STOPPED_EV_DISCONNECTED, _EV_COMMUNICATION_LOST)
            return
        if self._limits() or self._waited():
            return
        if self._overdue():
            self._blind()
        elif self.state == _BLIND and fresh:
            self._update(_CHARGING_STATE_CHANGED, _SUSPENDED_EV)
            self._permit()
        if self.state == _ACTIVE and fresh and not self._flow():
            return
        moved = self._last_wh() - self.recorded_wh
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

    def _overdue(self):
        # Two samples are missing.
        return 2 * self._sampler.age_ms() > 5 * self._sampler.cycle_ms

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

    def _update(self, trigger, charging_state):
        self.charging_state = charging_state
        self._checkpoint(trigger, charging_state)

    def _end(self, reason, register, trigger=0):
        if not trigger:
            trigger = self.transaction.stopping or _ABNORMAL_CONDITION
        if self._finish(trigger, reason, register):
            self._enter(_IDLE)
        elif self.state != _ENDING:
            self._reason = reason
            self._enter(_ENDING)

    def _segment(self, old, new, reason):
        recorded = Accounts._segment(self, old, new, reason)
        if recorded:
            self._most_wh = None
            self._contactor.forget()
        return recorded
