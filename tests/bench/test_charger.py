"""The charger as a whole: commissioned, charging, cut off from power at any instant."""

import random
import time

import pytest

from chargekeep_tools import issue, keys, trust
from chargekeep_tools.bench import firmware
from chargekeep_tools.home import Home

SITE, STATION = "bench", "pole-1"
EXPIRES = int(time.time()) + 30 * 86400
START_WH = 180_200


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    trust.build(home, SITE)
    return home


def commission(board, home, **how):
    if board.architecture:
        board.install(firmware.files(board.name))
    record = board.commission(home, SITE, STATION, **how)
    board.power_cut()
    return record


def start(board):
    """Power on; until the meter was read."""
    board.power_on()
    assert board.run(30, lambda: board.status.get("register_wh") is not None), board.console


def token(home, **terms):
    return issue.issue(home, SITE, "ALICE", exp=EXPIRES, **terms)["text"]


def test_a_transaction_from_token_to_bill(board, home):
    commission(board, home)
    start(board)
    assert not board.permits
    assert board.present("CK1:AAAA").startswith("REFUSED")
    assert not board.permits
    alice = token(home)
    assert board.present(alice) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    board.run(4)
    assert board.present(alice).startswith("STOPPED 1 ")
    assert board.run(5, lambda: not board.permits)
    assert board.run(5, lambda: board.status["evse"] == "idle")
    assert board.status["register_wh"] == pytest.approx(board.meter.wh, abs=1)
    assert board.meter.wh > START_WH


def test_the_energy_limit_of_a_token_ends_its_transaction(board, home):
    board.demand_w = 22_000
    commission(board, home)
    start(board)
    assert board.present(token(home, max_wh=20)) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    assert board.run(15, lambda: not board.permits)
    assert START_WH + 20 <= board.meter.wh < START_WH + 35


def test_a_transaction_outlives_a_power_cut(board, home):
    commission(board, home)
    start(board)
    assert board.present(token(home)) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    board.run(3)
    board.power_cut()
    before = board.meter.wh
    start(board)
    assert board.run(10, lambda: board.permits), board.status
    assert board.status["transaction"]["id"] == 1
    board.run(3)
    assert board.meter.wh > before
    assert board.present("UID:04AABBCC").startswith("REFUSED")


COUNTERS = """
from chargekeep.board import open_board
from chargekeep.core import Core
ledger = Core(open_board()).ledger
print([ledger.counter(i) for i in range(12)], ledger.head[0], ledger.head[1].hex())
records = 0
for seq, kind, payload in ledger.records(1):
    records += 1
print(records)
"""


def test_power_cuts_at_random_instructions_lose_nothing(emulated, home, request):
    """What the station said it did is in its ledger after the next boot; counters never fall."""
    board = emulated
    commission(board, home)
    chance = random.Random(7)
    alice, counters, torn = token(home, use_count=1000), [0] * 12, 0
    for _ in range(50 if request.config.getoption("--nightly") else 3):
        start(board)
        transaction = board.status["transaction"]
        if transaction is None:
            answer = board.present(alice)
            assert answer.startswith("ACCEPTED"), answer
            told = int(answer.split()[1])
        else:
            told = transaction["id"]
        board.run(chance.random() * 3)
        board.chip.run_instructions(chance.randrange(20_000_000))
        board.power_cut()
        torn += board.torn is not None
        now, records = board.exec(COUNTERS).splitlines()
        found = [int(n) for n in now[1 : now.index("]")].split(",")]
        assert all(a >= b for a, b in zip(found, counters)), (found, counters)
        assert found[1] >= told and int(records)
        counters = found
        board.power_cut()
    print(f"{torn} flash operations torn")
