"""The firmware's sampler in the MicroPython VM against a meter played by pymodbus on a pty."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chargekeep import errors
from chargekeep_tools.meter import app as meter_app
from chargekeep_tools.sim.evse import SimEvse
from chargekeep_tools.sim.meter import FAMILIES, Faults, SimMeter
from chargekeep_tools.sim.station import Station

ROOT = Path(__file__).resolve().parent.parent
MICROPYTHON = Path(sys.executable).parent / "micropython"

SAMPLE = """
import json, sys, time
from pty_uart import PtyUart
from chargekeep.health import Health
from chargekeep.metering.meter import ModbusMeter
from chargekeep.metering.modbus import Master
from chargekeep.metering.sampler import Sampler

family = __import__("chargekeep.metering." + sys.argv[2], None, None, ["x"])
health = Health()
master = Master(PtyUart(sys.argv[1]), reply_ms=400)
sampler = Sampler(ModbusMeter(master, family, int(sys.argv[4])), health)
begin = time.ticks_ms()
samples = []
seen = 0
limit_ms = 1000 * int(sys.argv[3])
while time.ticks_diff(time.ticks_ms(), begin) < limit_ms and seen < int(sys.argv[5]):
    time.sleep_ms(sampler.step())
    if sampler.samples != seen:
        seen = sampler.samples
        samples.append((sampler.register_wh, sampler.power_w))
print(json.dumps({"samples": samples, "errors": list(health.errors.items()),
    "cycles": sampler.cycles, "good": sampler.good_cycles, "echo": master.echo,
    "values": sampler.meter.values}))
"""


def vm(program: str, *arguments: object) -> Any:
    """What `program` prints as JSON in the MicroPython VM."""
    paths = [".frozen", ROOT / "firmware", ROOT / "boards" / "UNIX"]
    done = subprocess.run(
        [MICROPYTHON, "-X", "heapsize=192k", "-c", program, *map(str, arguments)],
        env=dict(os.environ, MICROPYPATH=":".join(map(str, paths))),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def sample(meter, seconds, family="sdm630", address=1, most=1000):
    """What the sampler saw in `seconds`, or until it had `most` samples."""
    return vm(SAMPLE, meter.path, family, seconds, address, most)


def timely(seen):
    """No other error than what a busy machine costs: a reply that comes too late."""
    return {code for code, _ in seen["errors"]} <= {errors.METER_TIMEOUT}


def test_samples_of_an_sdm630():
    with SimMeter(wh=180_200, power_w=36_000) as meter:
        seen = sample(meter, 5)
        end = meter.wh
    wh = [s[0] for s in seen["samples"]]
    assert timely(seen) and seen["good"] >= 3
    assert 180_200 <= wh[0] <= wh[-1] <= end and 10 <= wh[-1] - wh[0] <= 50
    assert all(s[1] == 36_000 for s in seen["samples"])


SCAN = """
import asyncio, json, sys
from pty_uart import PtyUart
from chargekeep.metering.modbus import Master
from chargekeep.metering.scan import scan

found = []
master = Master(PtyUart(sys.argv[1]), reply_ms=120)
asyncio.run(scan(master, lambda *what: found.append(what), range(1, 4)))
print(json.dumps(found))
"""


@pytest.mark.parametrize("family", ["sdm630", "abb_b2x", "em24", "pzem004t"])
def test_scan_finds_the_meter(family):
    with SimMeter(family=family, wh=50_000, address=2) as meter:
        assert vm(SCAN, meter.path) == [[2, family, 50_000, 0]]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "sdm630"])
def test_every_family(family):
    with SimMeter(family=family, wh=9_876_543, power_w=7_200) as meter:
        seen = sample(meter, 5, family, most=1)
    step = {"sdm72": 10, "abb_b2x": 10, "em340": 100, "em24": 100}.get(family, 1)
    wh, power = seen["samples"][0]
    assert timely(seen) and seen["good"] and power == 7_200
    assert wh % step == 0 and 9_876_543 - step < wh <= 9_876_550, wh
    values = seen["values"]
    assert values.get("Frequency") in (None, 50_000) and values.get("Voltage") in (None, 230_000)
    assert values.get("Energy.Active.Export.Register") in (None, 0)


def test_a_bad_line_gives_no_wrong_value():
    faults = Faults(corrupt=0.2, split=0.2, noise=0.2, late=0.1, silent=0.05, echo=True)
    with SimMeter(power_w=36_000, faults=faults) as meter:
        seen = sample(meter, 8)
        end = meter.wh
    assert seen["errors"] and seen["echo"] and seen["good"] >= 5
    assert all(180_200 <= wh <= end and w == 36_000 for wh, w in seen["samples"])


def until(condition, seconds=10):
    """Wait for what the simulated EVSE does in its own thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_car_takes_power_only_while_permitted(tmp_path):
    relay, feedback = tmp_path / "relay.pin", tmp_path / "feedback.pin"
    with SimMeter(link=tmp_path / "meter.pty") as meter, SimEvse(relay, feedback, meter) as evse:
        assert (tmp_path / "meter.pty").resolve() == Path(meter.path)
        until(lambda: feedback.exists() and feedback.read_text() == "0")
        assert meter.power_w == 0
        relay.write_text("1")
        until(lambda: meter.power_w == 11_000 and feedback.read_text() == "1")
        until(lambda: meter.wh > 180_200)
        evse.power_lost()
        until(lambda: meter.power_w == 0)
        evse.stuck_closed = True
        until(lambda: meter.power_w == 11_000)
    assert not (tmp_path / "meter.pty").exists()


def test_an_installer_scans_a_board(tmp_path):
    with SimMeter(family="sdm120", wh=50_000, address=3) as meter:
        station = Station(tmp_path, meter.path)
        try:
            with station.repl() as port:
                result = CliRunner().invoke(
                    meter_app, ["scan", "--port", port, "--last", "4", "--json"]
                )
        finally:
            station.close()
    assert result.exit_code == 0, result.output
    expected = {"address": 3, "family": "sdm120", "register_wh": 50_000, "power_w": 0}
    assert json.loads(result.stdout) == [expected]
