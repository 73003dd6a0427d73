"""Stations at a mosquitto that `broker config` set up: each credential is accepted, a wrong or
revoked one is not, and no station reaches another's topics."""

import json
import time

import pytest
from charger import Charger, wait_for
from reconcile_host import Host
from sync_site import Site
from update_site import ROOT, make_home

from chargekeep_tools import broker, credentials, provision, publish, wire
from chargekeep_tools import bundle as bundles
from chargekeep_tools.broker import OPERATOR, RECONCILER
from chargekeep_tools.codes import ToolError
from chargekeep_tools.credentials import Auth, Authority
from chargekeep_tools.sim.board import SimBoard
from chargekeep_tools.sim.station import Line

NAMES = {"cp-1": Auth.PASSWORD, "cp-2": Auth.CERTIFICATE, "cp-3": Auth.PSK}


class Depot(Site):
    """A site whose broker is configured from its home, and has one station of each kind."""

    def __init__(self, folder):
        super().__init__(folder)
        self.out = folder / "etc"
        self.ports = [broker.free_port() for _ in broker.PORTS]
        self.broker.port = self.ports[0]
        for name, auth in NAMES.items():
            record = self.add(name)
            record["mqtt"] = credentials.make(self.home, name, auth, None)
            self.home.save_station(record)
        authority = folder / "ca.der"
        authority.write_bytes(Authority(self.home).der)
        self.authority = str(authority)

    def restart(self):
        self.broker.stop()
        broker.configure(self.home, self.out, ["127.0.0.1"], ports=tuple(self.ports))
        self.broker.run(self.out / "mosquitto.conf")

    def connect(self, name, **changes):
        mqtt = self.home.station(name)["mqtt"]
        port = self.ports[1 + list(Auth).index(Auth(mqtt["auth"]))]
        how = {"port": port, "timeout_ms": 4000, "format": True}
        if mqtt["auth"] == Auth.PSK:
            how["psk"] = [name, mqtt["psk"]]
        else:
            how["ca"] = self.authority
        if mqtt["auth"] == Auth.CERTIFICATE:
            for part in ("certificate", "key"):
                path = self.folder / f"{name}-{part}.der"
                path.write_bytes(bytes.fromhex(mqtt[part]))
                how[part] = str(path)
        how |= changes
        return self.vm(name, **{part: value for part, value in how.items() if value})

    def url(self, user, password=None):
        password = password or broker.host_accounts(self.home)[user]
        return f"mqtt://{user}:{password}@127.0.0.1:{self.ports[0]}"


@pytest.fixture(scope="module")
def depot(tmp_path_factory):
    depot = Depot(tmp_path_factory.mktemp("depot"))
    depot.restart()
    yield depot
    depot.close()


def accepted(vm):
    wait_for(lambda: vm.last("connected"), 20)
    assert not vm.errors()
    vm.stop()


def refused(vm):
    wait_for(vm.errors, 20)
    assert not vm.last("connected") and vm.errors() <= {600, 601, 602}, vm.events
    vm.stop()


@pytest.mark.parametrize("prompt", [False, True], ids=["any suite", "prompt suites"])
@pytest.mark.parametrize("name", NAMES)
def test_a_station_is_let_in_with_what_it_was_given(depot, name, prompt):
    accepted(depot.connect(name, prompt=prompt))


def test_a_wrong_credential_is_refused(depot):
    refused(depot.connect("cp-3", psk=["cp-3", "00" * 32]))
    refused(depot.connect("cp-3", psk=["cp-1", depot.home.station("cp-3")["mqtt"]["psk"]]))
    # One that was given a certificate or a key has no password to fall back to
    refused(depot.connect("cp-2", port=depot.ports[1], certificate=None, key=None))
    stranger = Authority(type(depot.home)(depot.folder / "stranger")).station("cp-2")
    paths = {}
    for part, data in zip(("certificate", "key"), stranger, strict=True):
        (depot.folder / f"stranger-{part}").write_bytes(data)
        paths[part] = str(depot.folder / f"stranger-{part}")
    refused(depot.connect("cp-2", **paths))


def test_a_reconciler_comes_by_tls(depot):
    vm = depot.connect("cp-2", records=50)
    password = broker.host_accounts(depot.home)[RECONCILER]
    url = f"mqtts://{RECONCILER}:{password}@127.0.0.1:{depot.ports[1]}?ca={depot.out / 'ca.crt'}"
    depot.reconcile(lambda: vm.last("acknowledged") >= 50, url=url)
    vm.stop()
    with pytest.raises(ToolError, match="not valid for 'localhost'"):
        depot.reconcile(lambda: False, url=url.replace("127.0.0.1", "localhost"))


def test_topics_of_another_station_are_out_of_reach(depot):
    me, site = depot.home.station("cp-1"), depot.home.station("cp-1")["site"]
    other = wire.topic(site, "cp-2", "up", "x")
    mine = wire.topic(site, "cp-1", "up", "x")
    heard = {"operator": [], "station": []}

    def listen(client, who, topic):
        client.on_message = lambda _c, _u, message: heard[who].append(message.topic)
        client.subscribe(topic, 1)

    station_url = depot.url("cp-1", me["mqtt"]["password"])
    with publish.connected(depot.url(OPERATOR)) as office, publish.connected(station_url) as cp:
        listen(office, "operator", "chargekeep/1/+/+/up/#")
        listen(cp, "station", "#")
        time.sleep(0.3)
        publish.send(station_url, [(other, b"forged", False), (mine, b"{}", False)])
        down = [wire.topic(site, name, "down", "time") for name in ("cp-2", "cp-1")]
        publish.send(depot.url(OPERATOR), [(topic, b"x", False) for topic in down])
        wait_for(lambda: mine in heard["operator"] and down[1] in heard["station"])
    assert other not in heard["operator"] and down[0] not in heard["station"]


def test_a_revoked_station_is_let_in_no_more(depot):
    for name in NAMES:
        assert credentials.revoke(depot.home, name)["revoked"]
    depot.restart()
    for name in NAMES:
        refused(depot.connect(name))
    for name in ("passwords", "psk", "acl"):
        text = (depot.out / name).read_text()
        assert not any(station in text for station in NAMES)
    # A new board in its place gets credentials of its own
    for name, auth in NAMES.items():
        record = depot.home.station(name)
        old = record["mqtt"]
        record["mqtt"] = credentials.make(depot.home, name, auth, None)
        assert not {old[k] for k in old if k not in ("user", "auth")} & set(
            record["mqtt"].values()
        )
        del record["revoked"]
        depot.home.save_station(record)
    depot.restart()
    for name in NAMES:
        accepted(depot.connect(name))
    assert len(json.loads((depot.home.root / "ca" / "revoked.json").read_text())) == 1


def test_a_revoked_station_is_not_believed(tmp_path):
    host = Host(tmp_path)
    host.reconciler.stations._LOOK_AGAIN_S = 0.0
    charger = host.add(Charger("cp-1"))
    charger.charge(1000)
    charger.charge(500)
    charger.update()
    first, *rest = charger.batches(max_bytes=300)
    host.give(charger, first)
    believed, acknowledged = host.bills(), charger.ledger.acknowledged
    credentials.revoke(host.home, "cp-1")
    assert host.give(charger, *rest) == len(rest)  # the broker need not keep them
    assert charger.ledger.acknowledged == acknowledged
    assert sum(host.reconciler.figures.refused.values()) == len(rest)
    # What was believed before stays, and stays provable
    host.restart()
    assert host.bills() == believed


@pytest.mark.nightly
@pytest.mark.parametrize("auth", Auth)
def test_a_provisioned_charger_comes_online(auth, tmp_path):
    home = make_home(tmp_path / "home")
    ports = [broker.free_port() for _ in broker.PORTS]
    out, runner = tmp_path / "etc", broker.Broker(tmp_path / "broker", port=ports[0])
    bundle = bundles.build(home, "hall", "UNIX")
    wiring = json.loads((ROOT / "boards" / "UNIX" / "config.json").read_text())
    lines = [Line(), Line()]
    wiring["meter"]["path"], wiring["reader"]["path"] = (line.path for line in lines)
    online = []
    with SimBoard(tmp_path / "board") as board:
        network = provision.network_map(
            broker=("127.0.0.1", ports[1 + list(Auth).index(auth)]),
            tls=True,
            ca=None if auth == Auth.PSK else Authority(home).der,
        )
        how = {
            "bundle": bundle,
            "wiring": json.dumps(wiring).encode(),
            "network": network,
            "auth": auth,
        }
        provision.provision(home, board.port, "hall", "bay-1", **how)
        broker.configure(home, out, ["127.0.0.1"], ports=tuple(ports))
        runner.run(out / "mosquitto.conf")
        try:
            password = broker.host_accounts(home)[OPERATOR]
            ca = out / "ca.crt"
            url = f"mqtts://{OPERATOR}:{password}@127.0.0.1:{ports[1]}?ca={ca}"
            with publish.connected(url) as client:
                client.on_message = lambda _c, _u, message: online.append(message.payload)
                client.subscribe(wire.topic("hall", "bay-1", "up", "connection"), 1)
                # The same credentials again, and the charger starts
                provision.provision(home, board.port, "hall", "bay-1", restart=True, **how)
                wait_for(lambda: b"online" in online, 40)
        finally:
            runner.stop()
            for line in lines:
                line.close()
