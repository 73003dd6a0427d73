"""The firmware's sync in a MicroPython VM, against mosquitto and the reconciler."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from charger import SITE, make_home, wait_for
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chargekeep_tools import publish, wire
from chargekeep_tools.broker import OPERATOR, RECONCILER, Broker
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.worker import MqttSource

ROOT = Path(__file__).parent.parent


class Vm:
    """sync_vm.py in its VM; `events` fills while it runs."""

    def __init__(self, record, seed, issuer, port, folder, **settings):
        settings |= {
            "site": SITE,
            "station": record["station"],
            "password": record["mqtt"]["password"],
            "log_id": record["log_id"],
            "seal_key": record["seal_key"],
            "kid": record["kid"],
            "seed": seed.hex(),
            "issuer": issuer,
            "port": port,
            "flash": str(folder / (record["station"] + ".nor")),
        }
        paths = [".frozen", ROOT / "firmware", ROOT / "boards/UNIX", ROOT / "tests"]
        file = folder / (record["station"] + ".json")
        file.write_text(json.dumps(settings))
        program = Path(sys.executable).parent / "micropython"
        self.events = []
        self.process = subprocess.Popen(
            [program, "-X", "heapsize=320k", ROOT / "tests/sync_vm.py", file],
            env=dict(os.environ, MICROPYPATH=":".join(map(str, paths))),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"crash": line})

    def last(self, name):
        return next((e[name] for e in reversed(self.events) if name in e), 0)

    def errors(self):
        return {e["error"] for e in self.events if "error" in e}

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert not [e for e in self.events if "crash" in e], self.events


class Site:
    """A home, a broker and stations; `reconcile` runs the reconciler for a while."""

    def __init__(self, folder):
        self.folder = folder
        self.home = make_home(folder / "home")
        self.accounts = {RECONCILER: "r", OPERATOR: "o"}
        self.broker = Broker(folder / "broker", accounts=self.accounts)
        self.engine = store.connect(f"sqlite:///{folder / 'reconcile.db'}")
        self.vms = []
        self.seeds = {}

    def add(self, name, **settings):
        key = Ed25519PrivateKey.generate()
        public = wire.public_bytes(key)
        record = {
            "site": SITE,
            "station": name,
            "public_key": public.hex(),
            "kid": wire.kid(public).hex(),
            "log_id": (wire.kid(public) * 4).hex(),
            "seal_key": "11" * 32,
            "mqtt": {"user": name, "password": "p" * 20},
        }
        self.home.save_station(record)
        self.seeds[name] = key.private_bytes_raw()
        self.broker.stations.append(record)
        return record

    def vm(self, name, **settings):
        issuer = self.home.key("issuer")["public_key"]
        record = self.home.station(name)
        port = settings.pop("port", self.broker.port)
        vm = Vm(record, self.seeds[name], issuer, port, self.folder, **settings)
        self.vms.append(vm)
        return vm

    def reconcile(self, until, seconds=20):
        source = MqttSource(self.broker.url(RECONCILER))
        reconciler = cli.reconciler_for(self.home, self.engine, None, source.publish)
        give_up = time.monotonic() + seconds

        def stop():
            assert time.monotonic() < give_up, [vm.events[-5:] for vm in self.vms]
            return until()

        source.run(reconciler, stop)
        reconciler.project()
        return reconciler

    def close(self):
        self.broker.stop()
        for vm in self.vms:
            vm.stop()


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
        from chargekeep_tools.reconcile.schema import records

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
    import socket

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
