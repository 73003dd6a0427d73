"""Provisioning that is cut at any instant is repeated and goes on: no brick, no second key."""

import json
import random
import shutil
from itertools import chain, zip_longest

import pytest

from chargekeep_tools import bundle as bundles
from chargekeep_tools import provision
from chargekeep_tools.bench import firmware
from chargekeep_tools.bench.rp2040 import filesystem
from chargekeep_tools.device import Device
from chargekeep_tools.home import Home

pytestmark = pytest.mark.timeout(7200)  # an emulated board on a busy machine
STATION = "bench", "pole-1"
# A file that is not there yet, and what is under way until then
PHASES = {"slot": "firmware", "chargekeep/commissioned": "key and ledger", "a/manifest": "proof"}
IDENTITY = ("public_key", "log_id", "seal_key", "mqtt")
STATE = """
from chargekeep.board import open_board
from chargekeep.core import Core
core = Core(open_board())
print(core.ledger.log_id.hex(), core.ledger.counter(0))
"""


def test_a_second_run_changes_nothing(board, home):
    if board.needs_firmware:
        board.install(firmware.files(board.name))
    once = board.commission(home, *STATION)
    board.power_cut()
    again = board.commission(home, *STATION)
    assert again["public_key"] == once["public_key"]
    assert again["log_id"] == once["log_id"]


def phase(board, flash):
    """How far provisioning had come, by what a power cut left."""
    files = filesystem.read(board.name, flash)
    return next((name for file, name in PHASES.items() if file not in files), "self-test")


def test_cut_anywhere_it_is_finished_by_the_next_run(emulated, home, points, tmp_path):
    """From an image without a file to a station that has proven its firmware and tried its parts:
    cuts in each phase, for the first takes longest by far."""
    board, chance = emulated, random.Random(11)
    bundle = bundles.build(home, STATION[0], board.name, version="0.0.1")
    board.wiring = json.loads(bundle.files["root/config.json"])

    def provisioned(home):
        device = Device(board.transport(), board.name)
        return provision.provision_on(home, device, *STATION, bundle=bundle, test=True)

    phases = {}

    def keep(left):
        """With what the host had by then."""
        copy = tmp_path / f"home-{sum(map(len, phases.values()))}"
        shutil.copytree(home.root, copy)
        phases.setdefault(phase(board, left[0]), []).append((*left, Home(copy)))

    board.power_on(app=False)
    board.foresee_cuts(0.2, keep)
    provisioned(home)
    board.power_cut()
    for found in phases.values():
        chance.shuffle(found)
    cuts = [cut for cut in chain(*zip_longest(*phases.values())) if cut][: points(20)]
    for flash, _, home in cuts:
        board.flash = flash
        before = home.station(STATION[1]) if home.has_station(STATION[1]) else {}
        record = provisioned(home)
        assert record == record | {name: before[name] for name in before if name in IDENTITY}
        assert record["version"] == 1 and record["self_test"]["meter"]["ok"]
        assert board.exec(STATE).split() == [record["log_id"], "0"]
        board.power_on()
        assert board.run(30, lambda: board.status.get("register_wh") is not None), board.console
        board.power_cut()
    torn = sum(torn is not None for _, torn, _ in cuts)
    counts = {name: len(found) for name, found in phases.items()}
    print(f"{torn} of {len(cuts)} torn, evenly of {counts}")
