"""An update over USB on real images: staged, proven, on trial, kept; and power may fail at any
instant of it."""

import random

import pytest

from chargekeep_tools import bundle as bundles
from chargekeep_tools import update
from chargekeep_tools.compiler import compile_module
from chargekeep_tools.device import Device
from chargekeep_tools.programs import firmware_root

pytestmark = pytest.mark.timeout(7200)  # an emulated board on a busy machine
STATE = """
from chargekeep.board import open_board
from chargekeep.core import Core
ledger = Core(open_board()).ledger
print([ledger.counter(i) for i in range(12)])
print(ledger.log_id.hex(), ledger.head[0], len([1 for _ in ledger.records(1)]))
with open("slot") as f: print(f.read())
"""


def bundle(home, board, version):
    """The firmware with one module changed."""
    files, abi = bundles.compile_files(board.name, firmware_root())
    files |= bundles.root_files(board.name, firmware_root())
    changed = "chargekeep/selftest.mpy"
    files[changed] = compile_module(f"VERSION = {version}\n", changed, board.architecture)
    text = f"0.0.{version}"
    return bundles.sign(home, "bench", board.name, files, version=version, text=text, abi=abi)


def stage(board, new):
    """Update as `chargekeep update` does, to the restart. Returns what update.stage does."""
    device = Device(board.transport(), board.name)
    device.run("import gc; gc.threshold(8192)")
    return update.stage(device, new)


def state(board):
    """`(counters, log id, head, records, slot pointer)` as the board has them; it is off then."""
    counters, log, slot = board.exec(STATE).splitlines()
    board.power_cut()
    log_id, head, records = log.split()
    return [int(n) for n in counters[1:-1].split(",")], log_id, int(head), int(records), slot


def test_an_update_is_staged_tried_and_kept(emulated, home, commission):
    board, new = emulated, None
    charger = commission(board)
    charger.start()
    board.power_cut()
    before = state(board)
    for version, slot in ((2, "b"), (3, "a")):
        new = bundle(home, board, version)
        board.power_on(app=False)
        began = board.now_s
        result = stage(board, new)
        print(f"{result['bytes']} bytes in {result['files']} files: {board.now_s - began:.1f} s")
        board.power_cut()
        charger.start()
        board.run(3)
        told = board.status["update"]
        assert (told["version"], told["state"]) == (version, "running"), board.status
        board.power_cut()
        after = state(board)
        assert after[-1] == slot and after[1] == before[1] and after[3] >= before[3]
        assert all(a >= b for a, b in zip(after[0], before[0]))
    assert result["files"] == 1 and result["bytes"] < 10_000  # most of it manifest and list


def test_power_cut_anywhere_leaves_a_charger(emulated, home, commission, points):
    """From the first byte that is sent to the end of the trial."""
    board, found = emulated, []
    charger = commission(board)
    charger.start()
    board.power_cut()
    before, new = state(board), bundle(home, board, 2)

    def accepted():
        assert board.run(60, lambda: (board.status.get("update") or {}).get("state") == "running")
        assert board.status["update"]["version"] == 2, board.status
        board.power_cut()

    board.power_on(app=False)
    board.foresee_cuts(0.3, found.append)
    stage(board, new)
    update.restart(Device(board.transport(), board.name))
    accepted()
    slots, torn = [], 0
    for left in random.Random(13).sample(found, points(20)):
        board.flash, torn = left[0], torn + bool(left[1])
        charger.start()  # not bricked
        board.run(1)
        board.power_cut()
        after = state(board)
        assert all(a >= b for a, b in zip(after[0], before[0]))
        assert after[1] == before[1] and after[3] >= before[3]
        slots.append(after[-1])
        if after[-1] == "a":  # and updated by the next run
            stage(board, new)
            board.power_cut()
        charger.start()
        accepted()
    print(f"{torn} torn; slots after the cut: {slots}")
