"""A board whose file system is full, at every step of provisioning and update: exit code 14, the
board goes on with what it has, and with room again the same command does it."""

import json
import subprocess
from contextlib import contextmanager, suppress

import pytest
from test_rollout import Bay, counters
from update_site import ROOT, make, make_home

from chargekeep_tools import provision, rollout, update
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.device import opened
from chargekeep_tools.sim.board import SimBoard

IDLE = b"def main():\n    pass\n"


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@pytest.fixture
def folder(tmp_path):
    """The flash of a board of its own size."""
    folder = tmp_path / "board"
    folder.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", folder]
    if subprocess.run(size, capture_output=True).returncode:
        pytest.skip("a file system of limited size takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def room(folder, free):
    """Only `free` bytes are left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - free))
    yield
    ballast.unlink()


def no_space(function, *args, **named):
    with pytest.raises(ToolError) as caught:
        function(*args, **named)
    assert caught.value.exit_code == Exit.NO_SPACE, caught.value
    assert caught.value.hint


@pytest.mark.nightly
def test_provisioning_without_room(home, folder, tmp_path):
    wiring = json.loads((ROOT / "boards" / "UNIX" / "config.json").read_text())
    wiring["ledger"] = {"path": str(tmp_path / "flash.nor")}  # a board's log has its own flash
    how = {"bundle": make(home, 1, IDLE), "wiring": json.dumps(wiring).encode()}
    with SimBoard(folder) as board:

        def again():
            return provision.provision(home, board.port, "hall", "bay-1", **how)

        with room(folder, 100_000):
            no_space(again)
        assert not (folder / "slot").exists()
        with opened(board.port) as device:
            provision.bring_firmware(device, how["bundle"], how["wiring"])
        for free in (0, 4096, 8192):
            with room(folder, free):
                no_space(again)
        record = again()
        with room(folder, 0):  # done is done
            with opened(board.port) as device:
                no_space(update.stage, device, make(home, 2, IDLE))
        assert again()["public_key"] == record["public_key"]
        assert (folder / "slot").read_text() == "a"


@pytest.mark.nightly
def test_an_update_over_mqtt_without_room(folder, tmp_path):
    with Bay(tmp_path / "site", folder) as bay:
        bundle = bay.next_bundle()
        counters(bay)  # it has started: its watchdog and pins are files as well
        for free in (12_288, 200_000):
            with room(folder, free):
                state = bay.roll_out(bundle, 60)
            assert rollout.exit_code(state, update.EXITS) == Exit.NO_SPACE, state
            assert bay.slot() == "a"
        assert bay.roll_out(bundle, 120)["state"] == "running"


def test_an_update_without_room(home, folder, tmp_path):
    wiring = json.loads((ROOT / "boards" / "UNIX" / "config.json").read_text())
    wiring["ledger"] = {"path": str(tmp_path / "flash.nor")}
    how = {"bundle": make(home, 1, IDLE), "wiring": json.dumps(wiring).encode()}
    bundle = make(home, 2, IDLE, more={"large.py": b"#" * 60_000})
    with SimBoard(folder) as board:
        provision.provision(home, board.port, "hall", "bay-1", **how)
        with opened(board.port) as device:
            for free in (0, 4096, 60_000, 400_000):  # for manifest, list, copies, the large file
                with room(folder, free):
                    no_space(update.stage, device, bundle)
                assert (folder / "slot").read_text() == "a"
            result = update.stage(device, bundle)
        assert "large.py" in result["needed"] and (folder / "slot").read_text() == "b 3"
