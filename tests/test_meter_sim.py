"""The firmware's sampler in the MicroPython VM against a meter played by pymodbus on a pty."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chargekeep_tools.sim.evse import SimEvse
from chargekeep_tools.sim.meter import Faults, SimMeter

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
master = Master(PtyUart(sys.argv[1]))
sampler = Sampler(ModbusMeter(master, family, int(sys.argv[4])), health)
begin = time.ticks_ms()
samples = []
seen = 0
while time.ticks_diff(time.ticks_ms(), begin) < 1000 * int(sys.argv[3]):
    time.sleep_ms(sampler.step())
    if sampler.samples != seen:
        seen = sampler.samples
        samples.append((sampler.register_wh, sampler.power_w))
print(json.dumps({"samples": samples, "errors": list(health.errors.items()),
    "cycles": sampler.cycles, "good": sampler.good_cycles, "echo": master.echo,
    "values": sampler.meter.values}))
"""


def sample(meter: SimMeter, seconds: int, family: str = "sdm630", address: int = 1) -> dict:
    paths = [".frozen", ROOT / "firmware", ROOT / "boards" / "UNIX"]
    done = subprocess.run(
        [MICROPYTHON, "-X", "heapsize=192k", "-c", SAMPLE, meter.path, family]
        + [str(seconds), str(address)],
        env=dict(os.environ, MICROPYPATH=":".join(map(str, paths))),
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_samples_of_an_sdm630():
    with SimMeter(wh=180_200, power_w=36_000) as meter:
        seen = sample(meter, 5)
        end = meter.wh
    wh = [s[0] for s in seen["samples"]]
    assert not seen["errors"] and seen["good"] >= 4
    assert 180_200 <= wh[0] <= wh[-1] <= end and wh[-1] - wh[0] == pytest.approx(30, abs=12)
    assert all(s[1] == 36_000 for s in seen["samples"])


def test_a_bad_line_gives_no_wrong_value():
    faults = Faults(corrupt=0.2, split=0.2, noise=0.2, late=0.1, silent=0.05, echo=True)
    with SimMeter(power_w=36_000, faults=faults) as meter:
        seen = sample(meter, 8)
        end = meter.wh
    assert seen["errors"] and seen["echo"] and seen["good"] >= 5
    assert all(180_200 <= wh <= end and w == 36_000 for wh, w in seen["samples"])


def test_the_car_takes_power_only_while_permitted(tmp_path):
    relay, feedback = tmp_path / "relay.pin", tmp_path / "feedback.pin"
    with SimMeter(link=tmp_path / "meter.pty") as meter, SimEvse(relay, feedback, meter) as evse:
        assert (tmp_path / "meter.pty").resolve() == Path(meter.path)
        time.sleep(0.1)
        assert meter.power_w == 0 and feedback.read_text() == "0"
        relay.write_text("1")
        time.sleep(0.2)
        assert meter.power_w == 11_000 and feedback.read_text() == "1"
        evse.power_lost()
        assert meter.power_w == 0 and meter.wh > 180_200
        evse.stuck_closed = True
        time.sleep(0.1)
        assert meter.power_w == 11_000
    assert not (tmp_path / "meter.pty").exists()
