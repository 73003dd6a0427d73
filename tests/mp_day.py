# heap: 320k
# Three meters on one bus and a stream of transactions, in simulated time: the heap does not grow
# and no sample is missed. 24 h and 200 transactions in the nightly run.
import os

from day_sim import day

NIGHTLY = os.getenv("CHARGEKEEP_NIGHTLY") == "1"


def test_a_day():
    figures = day(24, 200) if NIGHTLY else day(2, 20)
    print(figures)
    heap = figures["heap"]
    # The first hour fills tables of fixed size; after that only noise may remain.
    assert max(heap[1:]) - heap[1] <= 512, heap
    assert figures["late"] == 0
    assert figures["started"] == (200 if NIGHTLY else 20)
    assert figures["ended"] >= figures["started"] - 3
    assert figures["good"] >= 0.999 * figures["cycles"] - 3, figures
