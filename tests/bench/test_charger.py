"""The charger as a whole: commissioned, charging, cut off from power at any instant."""

import random

import pytest

pytestmark = pytest.mark.timeout(7200)  # an emulated board on a busy machine
START_WH = 180_200


def test_a_transaction_from_token_to_bill(charger):
    board = charger.board
    charger.start()
    assert not board.permits
    assert board.present("CK1:AAAA").startswith("REFUSED")
    assert not board.permits
    alice = charger.token()
    assert board.present(alice) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    board.run(2)
    assert board.present(alice).startswith("STOPPED 1 ")
    assert board.run(5, lambda: not board.permits)
    assert board.run(5, lambda: board.status["evse"] == "idle")
    assert board.status["register_wh"] == pytest.approx(board.meter.wh, abs=1)
    assert board.meter.wh > START_WH


def test_the_energy_limit_of_a_token_ends_its_transaction(charger):
    board = charger.board
    board.demand_w = 22_000
    charger.start()
    assert board.present(charger.token(max_wh=20)) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    assert board.run(15, lambda: not board.permits)
    assert START_WH + 20 <= board.meter.wh < START_WH + 35


def test_a_transaction_outlives_a_power_cut(charger):
    board = charger.board
    charger.start()
    assert board.present(charger.token()) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    board.run(1.5)
    board.power_cut()
    before = board.meter.wh
    charger.start()
    assert board.run(10, lambda: board.permits), board.status
    assert board.status["transaction"]["id"] == 1
    board.run(1.5)
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


def into_an_operation(board):
    """Go on until the flash erases or programs, which is rare."""
    for _ in range(2_000_000):
        if board.chip.flash.busy_ns:
            return
        board.chip.run_instructions(100)


def test_power_cuts_at_random_instructions_lose_nothing(emulated, commission, points):
    """What the station said it did is in its ledger after the next boot; counters never fall."""
    board = emulated
    charger = commission(board)
    chance = random.Random(7)
    alice, counters, torn = charger.token(uses=1000), [0] * 12, 0
    for n in range(points(50)):
        charger.start()
        transaction = board.status["transaction"]
        if transaction is None:
            answer = board.present(alice)
            assert answer.startswith("ACCEPTED"), answer
            told = int(answer.split()[1])
        else:
            told = transaction["id"]
        board.run(chance.random() * 3)
        if n % 2:
            into_an_operation(board)
        board.chip.run_instructions(chance.randrange(100 if n % 2 else 20_000_000))
        board.power_cut()
        torn += board.torn is not None
        now, records = board.exec(COUNTERS).splitlines()
        found = [int(n) for n in now[1 : now.index("]")].split(",")]
        assert all(a >= b for a, b in zip(found, counters)), (found, counters)
        assert found[1] >= told and int(records)
        counters = found
        board.power_cut()
    print(f"{torn} flash operations torn")
