"""Provisioning that is cut at any instant is repeated and goes on: no brick, no second key."""

import random

import pytest

from chargekeep_tools.bench import firmware

pytestmark = pytest.mark.timeout(1800)  # an emulated board on a busy machine
STATION = "bench", "pole-1"
COMMISSION_S = 6.0  # of the board's time
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


def test_cut_anywhere_it_is_finished_by_the_next_run(emulated, home, request):
    from chargekeep_tools.bench.emulated import PowerLost

    board, chance = emulated, random.Random(11)
    files, finished = firmware.files(board.name), 0
    for _ in range(20 if request.config.getoption("--nightly") else 2):
        board.flash = b""
        board.install(files)
        board.power_on(app=False)
        board.power_fails_after(chance.uniform(0, COMMISSION_S))
        try:
            board.commission(home, *STATION, replace=True)
            finished += 1
        except PowerLost:
            pass
        board.power_cut()
        record = board.commission(home, *STATION, replace=True)
        assert board.exec(STATE).split() == [record["log_id"], "0"]
        board.power_cut()
    print(f"{finished} were not cut")
