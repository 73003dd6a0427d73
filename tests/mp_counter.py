# also: cpython
# A meter's S0 pulses on each family of boards: hard interrupts, counting hardware, a file.
import os
import sys

from mptest import folder, raises

from chargekeep import errors
from chargekeep.board import Board
from chargekeep.errors import ChargekeepError
from chargekeep.metering.wired import open_meter

WIRING = {
    "meter": {
        "family": "pulse",
        "pin": 2,
        "active": 0,
        "pull": "up",
        "per_kwh": 500,
        "register_wh": 700,
    }
}


class Pin:
    IN = 0
    OUT = 1
    PULL_UP = 2
    IRQ_RISING = 4
    IRQ_FALLING = 8
    made = []

    def __init__(self, *what, **more):
        self.what = what
        self.made.append(self)

    def irq(self, handler, trigger, hard=False):
        self.handler, self.trigger, self.hard = handler, trigger, hard


class Counter:
    RISING = 0
    FALLING = 1

    def __init__(self, unit, pin, edge, filter_ns):
        self.unit, self.pin, self.edge = unit, pin, edge

    def value(self):
        return 40


class Module:
    def __init__(self, **names):
        for name in names:
            setattr(self, name, names[name])


def stub(**names):
    sys.modules["machine"] = Module(Pin=Pin, **names)
    sys.modules["esp32"] = Module(Partition=None)
    sys.modules["network"] = Module(STA_IF=0, WLAN=None)


def test_a_pico_counts_by_hard_interrupts():
    stub()
    from port_machine import MachineBoard

    meter = open_meter(MachineBoard(WIRING))
    (pin,) = Pin.made
    assert pin.what == (2, Pin.IN, Pin.PULL_UP)
    assert pin.hard and pin.trigger == Pin.IRQ_FALLING
    pin.handler(pin)
    assert meter.poll() and meter.register_wh == 702


def test_an_esp32_counts_in_hardware():
    stub(Counter=Counter)
    from port_esp32 import PortBoard

    board = PortBoard(WIRING)
    counter = board.counter("meter")
    assert counter.edge == Counter.FALLING and counter.pin.what[0] == 2
    meter = open_meter(board)
    assert meter.poll() and meter.register_wh == 700 + 40 * 2


def test_an_esp32_c3_has_no_counter():
    stub()
    from port_esp32 import PortBoard

    meter = open_meter(PortBoard(WIRING))
    Pin.made[0].handler(Pin.made[0])
    assert meter.poll() and meter.register_wh == 702


def test_the_unix_board_counts_the_bytes_of_a_file():
    if sys.implementation.name != "micropython":
        return  # its UART is
    from port_linux import PortBoard

    path = folder() + "/pulses"
    with open(path, "w") as f:
        f.write("before")
    counter = PortBoard({"meter": {"path": path}}).counter("meter")
    assert counter.value() == 0
    with open(path, "a") as f:
        f.write("...")
    assert counter.value() == 3
    os.unlink(path)
    assert PortBoard({"meter": {"path": path}}).counter("meter").value() == 0


def test_two_of_a_role_are_refused():
    for role in ("meter", "relay", "evse"):
        raises(ChargekeepError, Board, {role: [{}, {}]}, code=errors.CONFIG)
    raises(ChargekeepError, Board, {"relais": {}}, code=errors.CONFIG)
