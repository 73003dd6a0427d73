"""Billed transactions reach an OCPP 2.0.1 CSMS whole, in order, and once."""

import asyncio

import pytest
from charger import SITE
from reconcile_host import Host

from chargekeep_tools.cli import main
from chargekeep_tools.codes import Exit
from chargekeep_tools.sim.replica import START, Replica

pytest.importorskip("ocpp")

from ocpp.exceptions import InternalError
from ocpp.routing import on
from ocpp.v201 import ChargePoint, call_result
from websockets.asyncio.server import serve

from chargekeep_tools.reconcile import ocpp


class Csms:
    """A CSMS written with the library `ocpp`; it hangs up before event number `fail_at`.

    unknown: stations that it lets not in; refused: a transaction id that it answers with an error.
    """

    def __init__(self, fail_at=None, unknown=(), refused=None):
        self.events = []  # (station, event)
        self.fail_at = fail_at
        self.unknown = unknown
        self.refused = refused

    def look(self, connection, request):
        if station_in(request) in self.unknown:
            return connection.respond(404, "no such station")

    async def accept(self, socket):
        csms = self
        station = station_in(socket.request)

        class Station(ChargePoint):
            @on("TransactionEvent")
            async def on_transaction_event(self, **event):
                if len(csms.events) == csms.fail_at:
                    csms.fail_at = None
                    await socket.close()
                if event["transaction_info"]["transaction_id"].endswith(csms.refused or "none"):
                    raise InternalError("no")
                csms.events.append((station, event))
                return call_result.TransactionEvent()

        await Station(station, socket).start()


def station_in(request):
    return request.path.rsplit("/", 1)[-1]


def serving(csms):
    protocols = ["ocpp2.0.1"]
    return serve(csms.accept, "127.0.0.1", 0, subprotocols=protocols, process_request=csms.look)


def deliver(host, csms, refused=()):
    """How many transactions were delivered, all others being those (station, tx) of `refused`."""

    async def run():
        async with serving(csms) as server:
            port = server.sockets[0].getsockname()[1]
            done = await ocpp.deliver(host.engine, f"ws://127.0.0.1:{port}/", START)
            assert [(one.station, one.tx) for one in done.refused] == [*refused]
            return done.count

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


def test_what_is_refused_holds_up_nothing_else(host):
    assert deliver(host, Csms(refused="-1"), [("cp-1", 1), ("cp-2", 1)]) == 2
    csms = Csms()
    assert deliver(host, csms) == 2
    assert {e["transaction_info"]["transaction_id"][-2:] for _, e in csms.events} == {"-1"}


def test_a_station_that_the_csms_does_not_know_holds_up_nobody(host):
    csms = Csms(unknown=["cp-1"])
    assert deliver(host, csms, [("cp-1", None)]) == 2
    assert {station for station, _ in csms.events} == {"cp-2"}
    assert deliver(host, Csms()) == 2


def test_what_has_no_place_in_ocpp_is_refused_here(host):
    odd = host.add(Replica(SITE, "cp-3"))
    odd.time = 1 << 39  # after the year 9999
    odd.charge(7, tariff=(7, 1))
    odd.time = START
    odd.start(tariff=(7, 1), id_token=b"h" * 40)  # more than OCPP's 36 characters
    odd.stop()
    odd.charge(8, tariff=(7, 1))
    host.give(odd, *odd.batches())
    csms = Csms()
    assert deliver(host, csms, [(odd.name, 2)]) == 6
    times = [event["timestamp"] for station, event in csms.events if station == odd.name]
    assert len(times) == 6 and times[0] < "9999"


def test_the_command_says_what_was_refused(host, monkeypatch, capsys):
    words = ["reconcile", "deliver", "--database", host.url, "--home", str(host.home.root)]

    async def refuse(engine, url, now):
        return ocpp.Delivery(3, [ocpp.Refusal("cp-1", 7, "no"), ocpp.Refusal("cp-2", None, "404")])

    monkeypatch.setattr(ocpp, "deliver", refuse)
    monkeypatch.setattr("sys.argv", ["chargekeep", *words, "--csms", "ws://x"])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == Exit.REFUSED
    assert "3 delivered" in captured.out and "cp-2" in captured.out
    assert "ws://x refused 2" in captured.err
