"""The transaction machine against a small model of what a driver may expect of it."""

import ocpp_terms as terms
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from station_sim import Decision, World

from chargekeep import errors
from chargekeep.errors import ChargekeepError

TOKENS = st.sampled_from([b"token--a", b"token--b"])
SAMPLE_WH = 14  # two samples at 22 kW


class Driver(RuleBasedStateMachine):
    """`running` is the token whose transaction runs, `reasons` why each one before it ended."""

    def __init__(self):
        super().__init__()
        self.world = World(demand_w=22_000)
        self.world.boot()
        self.world.run(3)
        self.running = None
        self.begin_wh = self.max_wh = 0
        self.reasons = []
        self.silent_s = 0

    @property
    def machine(self):
        return self.world.station.machine

    def end(self, reason):
        self.running = None
        self.reasons.append(reason)

    def pass_time(self, seconds):
        """Let time pass; the model ends what has reached its limit."""
        self.world.run(seconds)
        self.silent_s = self.silent_s + seconds if self.world.meter.silent else 0
        while self.machine.state == "ending":
            self.world.run(1)
        if self.running and self.max_wh and self.machine.transaction is None:
            assert self.world.meter.wh - self.begin_wh >= self.max_wh
            self.end(terms.STOPPED_ENERGY_LIMIT)

    @rule(token=TOKENS, max_wh=st.sampled_from([0, 100, 400]))
    def present(self, token, max_wh):
        decision = Decision(token, max_wh=max_wh, id_hash=token * 2)
        try:
            started = self.machine.present(decision)
        except ChargekeepError as e:
            if self.running:
                assert token != self.running and e.code == errors.EVSE_OCCUPIED
            else:
                assert e.code == errors.METER_STALE and self.silent_s > 3
            return
        if started:
            assert self.running is None
            self.running, self.max_wh = token, max_wh
            self.begin_wh = self.world.bodies(terms.RECORD_STARTED)[-1][6]
        else:
            assert self.running == token
            self.end(terms.STOPPED_LOCAL)
        self.pass_time(5)

    @rule()
    def stop(self):
        try:
            self.machine.stop()
            assert self.running
            self.end(terms.STOPPED_REMOTE)
        except ChargekeepError as e:
            assert e.code == errors.TRANSACTION_STATE and not self.running
        self.pass_time(5)

    @precondition(lambda self: self.running)
    @rule()
    def revoke(self):
        self.machine.deauthorize()
        self.end(terms.STOPPED_DEAUTHORIZED)
        self.pass_time(5)

    @rule(seconds=st.sampled_from([1, 4, 15, 60]))
    def wait(self, seconds):
        self.pass_time(seconds)

    @precondition(lambda self: not self.world.meter.silent)
    @rule(dark=st.sampled_from([1, 30, 600]))
    def power_cut(self, dark):
        self.world.cut()
        self.world.run(dark)
        self.world.boot()
        self.pass_time(5)

    @rule()
    def meter_dies_or_returns(self):
        self.world.meter.silent = not self.world.meter.silent
        self.pass_time(5)

    @invariant()
    def machine_and_model_agree(self):
        w, m = self.world, self.machine
        assert len(w.bodies(terms.RECORD_STARTED)) == len(self.reasons) + bool(self.running)
        assert [b[3] for b in w.bodies(terms.RECORD_ENDED)] == self.reasons
        assert bool(m.transaction) == bool(self.running)
        if not self.running:
            assert w.meter.flows_w == 0 and m.state == "idle"
            return
        assert m.transaction.cti == self.running
        if self.max_wh and not w.meter.silent:
            assert w.meter.wh - self.begin_wh <= self.max_wh + 500 + SAMPLE_WH
        if not w.meter.silent:
            assert m.state == "charging" and w.meter.flows_w == 22_000
        elif self.silent_s > 80:
            assert w.meter.flows_w == 0, "500 Wh at 25 kW take 72 s"


Driver.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)


class TestModel(Driver.TestCase):
    pass


@pytest.mark.nightly
@pytest.mark.timeout(3600)
class TestModelForLong(Driver.TestCase):
    settings = settings(max_examples=2000, stateful_step_count=50, deadline=None, database=None)
