"""A board's records reach the bill through a real broker, once each, whatever the link does."""

import pytest

from chargekeep_tools import broker as brokers
from chargekeep_tools import provision, publish
from chargekeep_tools.sim.demo import Operator
from chargekeep_tools.sim.network import Network

pytestmark = pytest.mark.timeout(7200)  # an emulated board on a busy machine
ACCOUNTS = {brokers.OPERATOR: "office", brokers.RECONCILER: "billing"}


@pytest.fixture
def broker(tmp_path):
    with brokers.Broker(tmp_path / "broker", accounts=ACCOUNTS) as broker:
        yield broker


@pytest.fixture
def link(broker):
    link = Network(broker.port)
    yield link
    link.close()


@pytest.fixture
def operator(home, broker, tmp_path):
    operator = Operator(home.root)
    url = broker.url(brokers.RECONCILER)
    process = operator.start(tmp_path / "reconciler.log", "reconcile", "run", "--broker", url)
    yield operator
    process.terminate()
    process.wait(10)


def test_offline_charging_reaches_the_bill(board, home, broker, link, operator, commission):
    if board.network_host is None:
        pytest.skip(f"{board.name} has no network")
    address = (board.network_host, link.port)
    charger = commission(board, network=provision.network_map(broker=address, wifi=board.wifi))
    broker.stations = [charger.record]
    broker.reload()
    operator.run("tariff", "7", "--per-kwh", "0.49")
    publish.publish(home, charger.record["site"], broker.url(brokers.OPERATOR))
    charger.start()
    assert board.run(60, lambda: board.status["status"] == "online"), board.status
    assert board.run(20, lambda: board.status["versions"]["tariff"]), board.status
    from_wh = board.status["register_wh"]
    link.cut()
    assert board.run(60, lambda: board.status["status"].startswith("offline")), board.status
    alice = charger.token()
    assert board.present(alice) == "ACCEPTED 1"
    assert board.run(5, lambda: board.permits)
    board.run(2)
    assert board.present(alice).startswith("STOPPED 1")
    assert board.run(5, lambda: board.status["evse"] == "idle")
    charged = board.status["register_wh"] - from_wh
    link.restore()
    assert board.run(90, lambda: board.status["backlog"] == 0), board.status
    (bill,) = operator.run("reconcile", "bill")
    assert (bill["station"], bill["energy_wh"]) == (charger.record["station"], charged)
