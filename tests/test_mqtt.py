"""The firmware's sync in a MicroPython VM, against mosquitto and the reconciler."""

import os
import socket
import threading
import time

import pytest
from charger import SITE, wait_for
from sync_site import Site

from chargekeep_tools import publish, wire
from chargekeep_tools.broker import OPERATOR
from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.schema import records


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


def test_backlog_drains_and_frees_flash(site):
    site.add("cp-1")
    site.broker.start()
    vm = site.vm("cp-1", format=True, records=500)
    reconciler = site.reconcile(lambda: vm.last("acknowledged") >= 501)
    assert reconciler.figures.batches["fork"] == 0 and not vm.errors()
    status = cli.status(site.engine)
    assert status["logs"][0]["head"] == vm.last("acknowledged") and status["gaps"] == []
    retained = {}
    with publish.connected(site.broker.url(OPERATOR)) as client:
        client.on_message = lambda c, u, m: retained.update({m.topic: m.payload})
        client.subscribe("chargekeep/1/+/+/up/#", 1)
        wait_for(lambda: len(retained) == 2)
        assert retained[wire.topic(SITE, "cp-1", "up", "status")] == b'{"state":"online"}'
        connection = wire.topic(SITE, "cp-1", "up", "connection")
        assert retained[connection] == b"online"
        vm.process.kill()
        wait_for(lambda: retained[connection] == b"lost")


def test_puback_alone_frees_nothing(site):
    site.add("cp-1")
    site.broker.start()
    vm = site.vm("cp-1", format=True, records=100, ack_timeout_ms=600)
    wait_for(lambda: vm.last("error") == 602)  # it sent all and still waits
    assert vm.last("acknowledged") == 0
    site.reconcile(lambda: vm.last("acknowledged") >= 100)


def test_inbox_takes_objects_of_the_station_and_of_all(site):
    site.add("cp-1")
    site.broker.start()
    url = site.broker.url(OPERATOR)
    publish.send(url, [(wire.topic(SITE, "all", "down", "tariff"), b"x" * 10, True)])
    vm = site.vm("cp-1", format=True)
    wait_for(lambda: vm.last("tariff") == 10)
    to = [wire.topic(SITE, "cp-1", "down", name) for name in ("tariff", "nonsense", "ack")]
    publish.send(url, [(to[0], b"y" * 5000, False)])  # more than its buffer
    publish.send(url, [(to[1], b"z", False), (to[2], b"garbage", False)])
    publish.send(url, [(to[0], b"y" * 20, False)])
    wait_for(lambda: vm.last("tariff") == 20)
    assert {605, 604, 110} <= vm.errors(), vm.events


def test_denied_and_foreign_publishes_reach_nobody(site):
    # The broker acknowledges what its ACL denies: only our own acknowledgement counts.
    site.add("cp-1")
    site.add("cp-2")
    site.broker.start()
    cp1, cp2 = (site.home.station(name)["mqtt"] for name in ("cp-1", "cp-2"))
    heard = []
    with publish.connected(site.broker.url(OPERATOR)) as client:
        client.on_message = lambda c, u, m: heard.append(m.topic)
        client.subscribe("chargekeep/1/#", 1)
        time.sleep(0.1)
        own = wire.topic(SITE, "cp-1", "up", "status")
        foreign = wire.topic(SITE, "cp-2", "up", "status")
        url = site.broker.url(cp1["user"], cp1["password"])
        publish.send(url, [(foreign, b"forged", False), (own, b"true", False)])
        forged = wire.topic(SITE, "cp-1", "down", "ack")
        publish.send(site.broker.url(cp2["user"], cp2["password"]), [(forged, b"x", False)])
        wait_for(lambda: heard)
    assert heard == [own]
    with pytest.raises(Exception, match="refused"):
        publish.send(site.broker.url("cp-1", "wrong"), [])


def test_broker_killed_again_and_again_loses_nothing(site):
    site.add("cp-1")
    site.broker.start()
    vm = site.vm("cp-1", format=True, records=1000, ack_timeout_ms=500)
    ending = threading.Event()

    def killer():
        for i in range(3):
            wait_for(lambda i=i: vm.last("acknowledged") > 250 * i, 60)
            site.broker.stop(kill=True)
            time.sleep(0.1)
            site.broker.start()
        ending.set()

    thread = threading.Thread(target=killer)
    thread.start()
    site.reconcile(lambda: ending.is_set() and vm.last("acknowledged") >= 1001, seconds=60)
    thread.join()
    assert vm.last("session") > 1 and vm.errors() <= {600, 602, 606}
    with site.engine.connect() as connection:
        seqs = [row.seq for row in connection.execute(records.select().order_by(records.c.seq))]
    assert len(set(seqs)) == len(seqs) and len(seqs) >= 1001


def test_vm_killed_in_the_middle_resumes(site):
    site.add("cp-1")
    site.broker.start()
    for i in range(3):
        vm = site.vm("cp-1", format=i == 0, records=300)
        target = vm.last
        site.reconcile(lambda vm=vm: vm.last("acknowledged") > 0)
        vm.process.kill()
        vm.process.wait()
    vm = site.vm("cp-1")
    site.reconcile(lambda: vm.last("ready") and vm.last("acknowledged") >= vm.last("ready"))
    assert target("backlog") and cli.status(site.engine)["gaps"] == []
    assert cli.status(site.engine)["logs"][0]["quarantined"] == 0


def test_server_that_speaks_no_mqtt(site):
    site.add("cp-1")
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        noise = [b"HTTP/1.1 400\r\n\r\n", b"\x20\x02\x00\x05", b"\x20\x02", os.urandom(300), b""]
        for data in noise:
            connection, _ = server.accept()
            connection.sendall(data)
            if data:
                connection.settimeout(3)
                try:
                    while connection.recv(1000):
                        pass
                except OSError:
                    pass
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    vm = site.vm("cp-1", format=True, port=server.getsockname()[1], timeout_ms=500)
    thread.join(20)
    server.close()
    wait_for(lambda: 600 in vm.errors() or len(vm.errors()) >= 3)
    assert vm.errors() <= {600, 601, 602, 603, 606}, vm.events
    assert vm.process.poll() is None
