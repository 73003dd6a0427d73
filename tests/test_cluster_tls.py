"""TLS at RabbitMQ nodes that run on what `chargekeep rabbitmq` writes: the reconciler's (AMQP and
MQTT) and stations'; what connects, and what must not and says why."""

import subprocess
import sys
from pathlib import Path

import pytest
from charger import wait_for
from rabbitmq import Cluster
from sync_site import Site
from test_tls import DAY, NOW
from test_tls import Authority as Other

from chargekeep_tools import credentials, publish
from chargekeep_tools.broker import OPERATOR, RECONCILER
from chargekeep_tools.codes import Exit, ToolError
from chargekeep_tools.credentials import Auth
from chargekeep_tools.rabbitmq import rabbitmq_command
from chargekeep_tools.reconcile.source import source_for

PLAIN, STRICT, EXPIRED = range(3)  # nodes: certificates if any, certificates only, an old one
STATIONS = {"cp-1": Auth.PASSWORD, "cp-2": Auth.CERTIFICATE, "cp-3": Auth.CERTIFICATE}


class Depot(Site):
    """A site whose stations and reconciler reach a cluster by TLS; cp-3 is revoked."""

    def __init__(self, folder):
        super().__init__(folder)
        for name, auth in STATIONS.items():
            record = self.add(name)
            record["mqtt"] = credentials.make(self.home, name, auth, None)
            self.home.save_station(record)
        credentials.revoke(self.home, "cp-3")
        self.other = Other(folder, "other")
        _, old, old_key = self.other.issue("old", begins=NOW - 2 * DAY, ends=NOW - DAY)
        access = folder / "access"
        rabbitmq_command(access, ["127.0.0.1"], home=self.home.root)
        self.ca = access / "ca.crt"
        self.ca.with_suffix(".der").write_bytes(credentials.Authority(self.home).der)
        self.cluster = Cluster()
        more = (
            "",
            "ssl_options.fail_if_no_peer_cert = true",
            f"ssl_options.certfile = {old}\nssl_options.keyfile = {old_key}",
        )
        for node, lines in zip(self.cluster.nodes, more, strict=True):
            node.write([n.name for n in self.cluster.nodes], access, lines)
        self.cluster.start()
        self.cluster.admit(self.home.stations())

    def url(self, scheme, node, ca=None, host="127.0.0.1", user=RECONCILER, more=""):
        node = self.cluster.nodes[node]
        port = node.amqps if scheme == "amqps" else node.mqtts
        password = self.cluster.accounts[user]
        return f"{scheme}://{user}:{password}@{host}:{port}?ca={ca or self.ca}{more}"

    def shown(self, user=RECONCILER):
        path = self.home.root / "ca" / "clients" / user
        return f"&cert={path}.crt&key={path}.pem"

    def connect(self, name, node, ca=None, shows=None, **settings):
        """The VM of a station; shows: whose certificate [its own, if it has one]."""
        shows = shows or name
        if STATIONS.get(shows) == Auth.CERTIFICATE:
            for part in ("certificate", "key"):
                settings[part] = str(self.folder / f"{shows}-{part}.der")
                mqtt = self.home.station(shows)["mqtt"]
                Path(settings[part]).write_bytes(bytes.fromhex(mqtt[part]))
        settings["ca"] = str(ca or self.ca.with_suffix(".der"))
        port = self.cluster.nodes[node].mqtts
        return self.vm(name, port=port, timeout_ms=4000, format=True, **settings)

    def close(self):
        try:
            super().close()
        finally:
            self.cluster.stop()


@pytest.fixture(scope="module")
def depot(tmp_path_factory):
    depot = Depot(tmp_path_factory.mktemp("depot"))
    yield depot
    depot.close()


@pytest.mark.nightly
def test_reconciler_and_operator_connect(depot):
    for node, show in ((PLAIN, False), (PLAIN, True), (STRICT, True)):
        source = source_for(depot.url("amqps", node, more=depot.shown() * show), ["p00"])
        source.open()
        source.poll(0.1)
        source.close()
        more = depot.shown(OPERATOR) * show
        with publish.connected(depot.url("mqtts", node, user=OPERATOR, more=more)):
            pass


REFUSED = {
    "unknown authority": (PLAIN, "self-signed certificate in certificate chain"),
    "wrong host": (PLAIN, "certificate is not valid for 'localhost'"),
    "expired": (EXPIRED, "certificate has expired"),
    "no client certificate": (STRICT, "certificate required"),
    "unknown client certificate": (STRICT, "unknown ca"),
    "no such file": (PLAIN, "No such file"),
}


def wrong(depot, scheme, how):
    """(URL, what it must be refused with, exit code)"""
    node, text = REFUSED[how]
    other = {"unknown authority", "expired"} & {how} and depot.other.path
    ca = depot.folder / "none" if how == "no such file" else other
    more = ""
    if how == "unknown client certificate":
        _, certificate, key = depot.other.issue("stranger", host=RECONCILER)
        more = f"&cert={certificate}&key={key}"
    url = depot.url(
        scheme, node, ca, "localhost" if how == "wrong host" else "127.0.0.1", more=more
    )
    return url, text, Exit.USAGE if how == "no such file" else Exit.BROKER


@pytest.mark.nightly
@pytest.mark.parametrize("how", REFUSED)
@pytest.mark.parametrize("scheme", ["amqps", "mqtts"])
def test_the_reconciler_is_refused_and_says_why(depot, scheme, how):
    url, text, code = wrong(depot, scheme, how)
    words = ["reconcile", "run", "--broker", url, "--home", depot.home.root, "--seconds", "20"]
    words += ["--database", f"sqlite:///{depot.folder / 'refused.db'}"]
    program = Path(sys.executable).with_name("chargekeep")
    run = subprocess.run([program, *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == code and text in run.stderr, run.stderr
    assert "Traceback" not in run.stderr and "password" not in run.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("how", REFUSED)
def test_the_operator_is_refused_and_told_why(depot, how):
    url, text, code = wrong(depot, "mqtts", how)
    with pytest.raises(ToolError, match=text) as caught, publish.connected(url):
        pass
    assert caught.value.exit_code == code


@pytest.mark.nightly
def test_a_station_is_refused(depot):
    other = depot.other.path.with_suffix(".der")
    tries = {
        "unknown authority": ("cp-1", PLAIN, {"ca": other}),
        "wrong host": ("cp-1", PLAIN, {"host": "localhost"}),
        "expired": ("cp-1", EXPIRED, {"ca": other}),
        "no certificate": ("cp-1", STRICT, {}),
        "revoked": ("cp-3", STRICT, {}),
    }
    for how, (name, node, settings) in tries.items():
        vm = depot.connect(name, node, **settings)  # one at a time: a station has one flash
        wait_for(vm.errors, 20)
        assert vm.errors() <= {600, 601, 602} and not vm.last("connected"), (how, vm.events)
        vm.stop()


@pytest.mark.nightly
def test_records_reach_the_books_by_tls_alone(depot):
    """Past a node that is not to be trusted; one station offers prompt suites only, the other
    shows a certificate of its own."""
    one = depot.connect("cp-1", PLAIN, records=200, prompt=True)
    two = depot.connect("cp-2", STRICT, records=200)
    first, second = depot.cluster.nodes[EXPIRED], depot.cluster.nodes[STRICT]
    url = depot.url("amqps", EXPIRED, more=depot.shown())
    url = url.replace(f":{first.amqps}", f":{first.amqps},127.0.0.1:{second.amqps}")
    depot.reconcile(lambda: all(vm.last("acknowledged") >= 200 for vm in (one, two)), 60, url)
