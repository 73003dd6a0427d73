"""The whole firmware with each meter and each charger that config.json can name.

Each one charges a car from a token to the driver's stop, and what the log says was taken is what
the meter counted.
"""

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ocpp_terms as terms
import pytest

from chargekeep_tools import issue, keys, provision, trust
from chargekeep_tools.home import Home
from chargekeep_tools.log.image import verify_image
from chargekeep_tools.sim.chargers import Car, SimController, SimOpenEvse
from chargekeep_tools.sim.evse import SimEvse
from chargekeep_tools.sim.meter import SimMeter
from chargekeep_tools.sim.readers import SimIec62056, SimPulses, SimSml
from chargekeep_tools.sim.station import Station
from chargekeep_tools.sim.story import wait_until

DEMAND_W = 22_000  # 6 Wh a second


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "op", "issuer", encrypted=False)
    trust.build(home, "hall")
    return home


class Bay:
    """A commissioned station with its meter and its car."""

    def __init__(self, folder: Path, home: Home, meter: Any, stack: contextlib.ExitStack):
        self.home = home
        self.meter = meter
        self.station = Station(folder / "bay-1", meter.path)
        stack.callback(self.station.close)
        self._stack = stack

    def wire(self, **roles: dict[str, Any] | None) -> None:
        """Change config.json: each role's keys; None takes a role away."""
        path = self.station.folder / "config.json"
        wiring = json.loads(path.read_text())
        for role, keys_of_role in roles.items():
            if keys_of_role is None:
                del wiring[role]
            else:
                wiring[role] = {**wiring.get(role, {}), **keys_of_role}
        path.write_text(json.dumps(wiring))

    def boot(self) -> None:
        self.station.log.write_text("")
        self.station.boot()
        self.await_status(lambda status: status.get("register_wh") is not None)

    def provision(self) -> None:
        with self.station.repl() as port:
            provision.provision(self.home, port, "hall", "bay-1")

    @property
    def status(self) -> dict[str, Any]:
        for line in reversed(self.station.log.read_text().splitlines()):
            with contextlib.suppress(ValueError):
                return json.loads(line)
        return {}

    def await_status(self, condition: Any, timeout: float = 40) -> None:
        def probe() -> bool:
            assert self.station.alive, self.station.log.read_text()
            return condition(self.status)

        wait_until(probe, timeout, "status")

    def bodies(self, kind: int) -> list[list[Any]]:
        image = (self.station.folder / "flash.nor").read_bytes()
        return [r.body for r in verify_image(image).records if r.type == kind]

    def charge(self, car: Any, seconds: float, cut_after: float = 0) -> int:
        """A transaction; returns its energy in Wh."""
        token = issue.issue(self.home, "hall", "ALICE", exp=int(time.time()) + 9999)["text"]
        assert self.station.present(token).startswith("ACCEPTED")
        wait_until(lambda: self.meter.power_w == DEMAND_W, 15, "power")
        if cut_after:
            time.sleep(cut_after)
            self.station.power_cut()
            self.boot()
            wait_until(lambda: self.meter.power_w == DEMAND_W, 20, "resumed power")
        time.sleep(seconds)
        assert self.station.present(token).startswith("STOPPED")
        wait_until(lambda: not self.meter.power_w, 10, "withdrawal")
        self.await_status(lambda status: status["evse"] == "idle")
        (started,) = self.bodies(terms.RECORD_STARTED)
        (ended,) = self.bodies(terms.RECORD_ENDED)
        assert ended[3] == terms.STOPPED_LOCAL
        busy = {"300", "404"}  # replies that come too late on a busy machine
        assert self.status["errors"].keys() <= busy, self.status["errors"]
        return ended[4] - started[6]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def bay_with(folder: Path, home: Home, meter: Any, stack: contextlib.ExitStack) -> Bay:
    stack.enter_context(meter)
    return Bay(folder, home, meter, stack)


def relay_of(bay: Bay, stack: contextlib.ExitStack) -> SimEvse:
    station = bay.station
    feedback = station.folder / "feedback.pin"
    return stack.enter_context(SimEvse(station.relay, feedback, bay.meter, DEMAND_W))


def test_an_sml_meter_and_an_openevse(tmp_path, home, stack):
    meter = SimSml()
    bay = bay_with(tmp_path, home, meter, stack)
    car = Car(meter, DEMAND_W)
    evse = stack.enter_context(SimOpenEvse(car))
    bay.wire(meter={"family": "sml"}, relay=None, feedback=None)
    bay.wire(evse={"type": "rapi", "path": evse.path, "baudrate": 115_200, "max_a": 32})
    bay.provision()
    bay.boot()
    assert bay.charge(car, 6) == pytest.approx(meter.wh - 180_200, abs=1)
    assert car.amps == 32 and "FS" in evse.commands


@pytest.mark.parametrize("kind", ["evse_din", pytest.param("ev_cc", marks=pytest.mark.nightly)])
def test_a_modbus_controller_on_the_meters_bus(tmp_path, home, stack, kind):
    car = Car(None, DEMAND_W)
    meter = car.meter = SimMeter(family="sdm120", others=[SimController(car, kind)])
    bay = bay_with(tmp_path, home, meter, stack)
    bay.wire(meter={"family": "sdm120"}, relay=None, feedback=None)
    bay.wire(evse={"type": kind, "address": 2, "max_a": 20})
    bay.provision()
    bay.boot()
    assert bay.charge(car, 4) == pytest.approx(meter.wh - 180_200, abs=1)
    assert car.amps == 20
    meter.told_wh = 5_000_000
    wait_until(lambda: bay.bodies(terms.RECORD_FAULT), 8, "evidence")
    error, _, detail, reply = bay.bodies(terms.RECORD_FAULT)[0]
    assert (error, detail) == (304, "5000000 Wh") and struct.pack(">f", 5000) in reply


@pytest.mark.nightly
def test_an_iec_62056_21_meter(tmp_path, home, stack):
    meter = SimIec62056()
    bay = bay_with(tmp_path, home, meter, stack)
    evse = relay_of(bay, stack)
    bay.wire(meter={"family": "iec62056", "baudrate": 300})
    bay.provision()
    bay.boot()
    assert bay.status["reasons"] == ["list_stale"] or not bay.status["reasons"]
    assert bay.charge(evse, 45) == pytest.approx(meter.wh - 180_200, abs=1)
    assert meter.readouts > 5


@pytest.mark.nightly
def test_an_sml_meter_that_tells_no_power(tmp_path, home, stack):
    meter = SimSml()
    meter.tells_power = False
    meter.period_s = 4.0
    bay = bay_with(tmp_path, home, meter, stack)
    evse = relay_of(bay, stack)
    bay.wire(meter={"family": "sml"})
    bay.provision()
    bay.boot()
    energy = bay.charge(evse, 150)  # longer than a car may take to connect
    assert energy == pytest.approx(meter.wh - 180_200, abs=1)


def test_pulses_and_a_power_cut(tmp_path, home, stack):
    meter = SimPulses(tmp_path / "pulses")
    bay = bay_with(tmp_path, home, meter, stack)
    evse = relay_of(bay, stack)
    bay.wire(meter={"family": "pulse", "per_kwh": 1000, "register_wh": 180_200})
    bay.provision()
    bay.boot()
    begun = meter.wh
    energy = bay.charge(evse, 3, cut_after=4)
    # What was not in a record when the power went is lost: 50 Wh or 10 s.
    assert 15 <= energy <= meter.wh - begun
    assert meter.wh - begun - energy <= 60


def test_a_second_evse_is_refused(tmp_path, home, stack):
    bay = bay_with(tmp_path, home, SimMeter(), stack)
    bay.provision()
    path = bay.station.folder / "config.json"
    wiring = json.loads(path.read_text())
    wiring["relay"] = [wiring["relay"], "second.pin"]
    path.write_text(json.dumps(wiring))
    bay.station.boot()
    bay.station.process.wait(10)
    assert "E700 config.json: one EVSE, so one relay" in bay.station.log.read_text()
