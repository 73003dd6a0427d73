# also: cpython
# heap: 320k
# What config.json names is what is opened, and nothing else is loaded.
import sys

from meter_sim import Bus, Clock
from mptest import raises

from chargekeep import errors
from chargekeep.errors import ChargekeepError
from chargekeep.health import Health
from chargekeep.metering.wired import open_meter
from chargekeep.transaction.wired import open_actuator


class Pin:
    def __init__(self):
        self.level = None

    def value(self, level=None):
        if level is not None:
            self.level = level
        return self.level


class Counter:
    def value(self):
        return 7


class Board:
    def __init__(self, **wiring):
        self.wiring = wiring
        self.pins = {role: Pin() for role in ("relay", "feedback", "direction") if role in wiring}

    def uart(self, role):
        return role in self.wiring and Bus(Clock(0), {})

    def counter(self, role):
        assert role == "meter"
        return Counter()

    def pin(self, role):
        return self.pins.get(role)


def test_meters():
    meter = open_meter(Board(meter={}))
    assert meter.family.NAME == "SDM630" and meter.address == 1
    assert "chargekeep.metering.sml" not in sys.modules
    for name in ("sdm72", "sdm120", "sdm230", "abb_b2x", "em340", "em24", "pzem004t"):
        meter = open_meter(Board(meter={"family": name, "address": 7}))
        assert meter.address == 7 and meter.resolution_wh
    board = Board(meter={}, direction={})
    meter = open_meter(board)
    assert meter.begin() and board.pins["direction"].level == 1
    for name in ("sml", "iec62056"):
        assert open_meter(Board(meter={"family": name})).begin()
    meter = open_meter(Board(meter={"family": "pulse", "per_kwh": 10000}))
    assert meter.resolution_wh == 1 and meter.poll() and meter.register_wh == 0
    for wrong in ("sampler", "nothing", ""):
        raises(ChargekeepError, open_meter, Board(meter={"family": wrong}), code=errors.CONFIG)
    raises(ChargekeepError, open_meter, Board(), code=errors.CONFIG)


def test_actuators():
    meter = open_meter(Board(meter={}))
    health = Health()
    board = Board(relay={})
    relay = open_actuator(board, meter, health)
    assert board.pins["relay"].level == 0 and relay.feedback() is None
    for kind in ("rapi", "evse_din", "ev_cc"):
        board = Board(evse={"type": kind, "max_a": 32})
        actuator = open_actuator(board, meter, health)
        assert actuator.permitted is False and actuator.limit(0) and actuator._max_a == 32
    for wrong in ({"type": "x"}, {}):
        board = Board(evse=wrong) if wrong else Board(evse={"max_a": 1})
        raises(ChargekeepError, open_actuator, board, meter, health, code=errors.CONFIG)
