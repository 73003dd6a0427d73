"""Billed transactions reach an OCPP 2.0.1 CSMS whole, in order, and once."""

import asyncio

import pytest
from charger import SITE
from reconcile_host import Host

from chargekeep_tools.sim.replica import START, Replica

pytest.importorskip("ocpp")

from ocpp.routing import on
from ocpp.v201 import ChargePoint, call_result
from websockets.asyncio.server import serve

from chargekeep_tools.reconcile import ocpp


class Csms:
    """A CSMS written with the library `ocpp`; it hangs up before event number `fail_at`."""

    def __init__(self, fail_at=None):
        self.events = []  # (station, event)
        self.fail_at = fail_at

    async def accept(self, socket):
        csms = self
        station = socket.request.path.rsplit("/", 1)[-1]

        class Station(ChargePoint):
            @on("TransactionEvent")
            async def on_transaction_event(self, **event):
                if len(csms.events) == csms.fail_at:
                    csms.fail_at = None
                    await socket.close()
                csms.events.append((station, event))
                return call_result.TransactionEvent()

        await Station(station, socket).start()


def deliver(host, csms):
    async def run():
        async with serve(csms.accept, "127.0.0.1", 0, subprotocols=["ocpp2.0.1"]) as server:
            port = server.sockets[0].getsockname()[1]
            return await ocpp.deliver(host.engine, f"ws://127.0.0.1:{port}/", START)

    return asyncio.run(run())


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    for name in ("cp-1", "cp-2"):
        replica = host.add(Replica(SITE, name, register=500))
        replica.charge(1000, updates=2, tariff=(7, 1))
        replica.charge(50, tariff=(7, 1))
        replica.start(tariff=(7, 1))  # is not over: not delivered
        host.give(replica, *replica.batches())
    return host


def test_delivers_whole_transactions_in_order_and_once(host):
    csms = Csms()
    assert deliver(host, csms) == 4
    first = [event for station, event in csms.events if station == "cp-1"]
    assert [e["event_type"] for e in first[:4]] == ["Started", "Updated", "Updated", "Ended"]
    assert [e["seq_no"] for e in first] == [0, 1, 2, 3, 0, 1, 2]
    assert all(e["offline"] for e in first)
    assert len({e["transaction_info"]["transaction_id"] for _, e in csms.events}) == 4
    assert first[3]["transaction_info"]["stopped_reason"] == "Local"
    assert first[0]["evse"] == {"id": 1, "connector_id": 1}
    registers = [e["meter_value"][0]["sampled_value"][0]["value"] for e in first]
    assert registers == [500, 1000, 1500, 1500, 1500, 1550, 1550]
    assert first[0]["timestamp"] == "2027-01-15T08:00:00Z"
    assert deliver(host, csms) == 0 and len(csms.events) == 14


def test_broken_connection_repeats_with_the_same_ids(host):
    csms = Csms(fail_at=5)
    with pytest.raises(ConnectionError):
        deliver(host, csms)
    assert deliver(host, csms) == 3
    ids = [(s, e["transaction_info"]["transaction_id"], e["seq_no"]) for s, e in csms.events]
    assert len(set(ids)) == 14 and len(ids) > 14
    host.reconciler.projector.rebuild()
    assert deliver(host, csms) == 0
