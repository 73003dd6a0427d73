"""Three RabbitMQ nodes, PostgreSQL and three reconcilers; each part dies in turn under load."""

import json
import os
import time

import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa
from charger import SITE, make_home
from paho.mqtt.enums import CallbackAPIVersion
from postgres import Postgres
from rabbitmq import Cluster
from test_fleet import World

from chargekeep_tools import publish
from chargekeep_tools.broker import OPERATOR, RECONCILER, Broker
from chargekeep_tools.codes import ToolError
from chargekeep_tools.credentials import Auth
from chargekeep_tools.rabbitmq import definitions, rabbitmq_command
from chargekeep_tools.reconcile.schema import logs
from chargekeep_tools.sim.replica import Replica

# Two share the stations, the third stands by for both.
PARTS = (("--partition", "0/2"), ("--partition", "1/2"), ())
ROUNDS = int(os.environ.get("CHARGEKEEP_ROUNDS", "3"))


class ClusterWorld(World):
    """A `World` whose broker is a cluster that runs, and whose chargers are online for seconds."""

    def __init__(self, folder, chargers, cluster, database):
        self.broker = cluster
        super().__init__(folder, chargers, 0.5, database, PARTS, period_s=10)

    def make_broker(self, records):
        self.broker.admit(records)
        return self.broker.url(RECONCILER), self.broker.addresses

    def start_broker(self):
        pass

    def stop_broker(self):
        pass

    def live(self, seconds, give_up_s=120):
        """Chargers at work for so long, and longer where a busy machine takes longer to bring
        anything; returns how many slots came into the database."""
        before, began = self.head(), time.monotonic()
        while True:
            self.fleet.round(steps=1)
            lived, slots = time.monotonic() - began, self.head() - before
            if lived > seconds and (slots or lived > give_up_s):
                return slots

    def head(self):
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(logs.c.head_seq), 0)))

    def busiest(self):
        """The node that leads most queues."""
        leaders = [queue["leader"] for queue in self.broker.queues()]
        return max(self.broker.nodes, key=lambda node: leaders.count(node.name))


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="module")
def cluster():
    nodes = Cluster()
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_each_part_dies_in_turn(tmp_path, cluster, postgres):
    with ClusterWorld(tmp_path, 20, cluster, postgres.url) as world:
        assert world.live(20) > 0, world.log.read_text()[-2000:]
        for i in range(ROUNDS):
            world.kill_reconciler(i % 2)
            assert world.live(15) > 0, "the reconciler that stands by took nothing"
            world.start_reconciler(i % 2)
            world.live(5)

            node = world.busiest()
            node.kill()
            assert world.live(30) > 0, "two nodes of three took nothing"
            node.start()
            node.wait()
            world.live(5)

            postgres.restart()
            assert world.live(20) > 0, "nothing came after the database was back"
        for node in cluster.nodes:
            node.kill()
        world.live(5, give_up_s=0)
        for node in cluster.nodes:
            node.start()
        for node in cluster.nodes:
            node.wait()
        assert world.live(20) > 0, "nothing came after all nodes were off at once"
        assert world.fleet.drain(300), (world.fleet.backlog(), world.log.read_text()[-2000:])
        found = world.check()
        cuts = sum(charger.cuts for charger in world.fleet.chargers)
        print(f"{ROUNDS} rounds, {cuts} cuts, {world.head()} slots, {found} bills")
        assert found > 20


class Client:
    """A station's connection, of which a test sees everything."""

    def __init__(self, replica, address):
        self.got, self.granted, self.lost = {}, [], False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, replica.name)
        self.client.username_pw_set(replica.name, replica.password)
        self.client.on_message = lambda c, u, m: self.got.update({m.topic: m.payload})
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.granted.extend(codes)
        self.client.on_disconnect = lambda *_: setattr(self, "lost", True)
        self.client.connect(*address)

    def until(self, condition, seconds=20):
        give_up = time.monotonic() + seconds
        while not condition() and time.monotonic() < give_up:
            self.client.loop(0.1)
        return condition()

    def subscribe(self, topic):
        before = len(self.granted)
        self.client.subscribe(topic, 1)
        self.until(lambda: len(self.granted) > before or self.lost)


@pytest.mark.nightly
def test_what_a_station_gets_and_may(tmp_path, cluster):
    home = make_home(tmp_path)
    one, two = Replica(SITE, "bay-1"), Replica(SITE, "bay-2")
    for replica in (one, two):
        home.save_station(replica.record())
    cluster.admit(home.stations())
    down, everyone = (f"chargekeep/1/{SITE}/{to}/down" for to in ("bay-1", "all"))
    page = f"{everyone}/allowlist/9/0"
    with publish.connected(cluster.mqtt_url(OPERATOR)) as operator:
        publish.Follower(home).serve(operator)
        publish.send(cluster.mqtt_url(OPERATOR, node=1), [(page, b"page", True)])
        station = Client(one, cluster.addresses[1])
        for topic in (f"{down}/+", f"{everyone}/+", page):
            station.subscribe(topic)
        station.client.publish(f"chargekeep/1/{SITE}/bay-1/up/connection", b"online", 1, True)
        # Its tariff, from whoever follows; an allowlist's page, retained at this node.
        tariffs = {f"{down}/tariff", f"{everyone}/tariff"}
        assert station.until(lambda: page in station.got and tariffs & set(station.got))
        other = Client(two, cluster.addresses[2])
        other.subscribe(f"{down}/+")
        other.subscribe(f"chargekeep/1/{SITE}/+/up/#")
        assert other.lost or all(code.is_failure for code in other.granted)
        other = Client(two, cluster.addresses[2])
        other.client.publish(one.log_topic, b"forged", 1)
        assert other.until(lambda: other.lost)


def test_follower_sends_a_station_its_objects(tmp_path):
    home = make_home(tmp_path / "home")
    one = Replica(SITE, "bay-1")
    with Broker(tmp_path / "broker", [one.record()], {OPERATOR: "o"}) as broker:
        with publish.connected(broker.url(OPERATOR)) as operator:
            follower = publish.Follower(home)
            follower.serve(operator)
            station = Client(one, (broker.host, broker.port))
            station.subscribe(f"chargekeep/1/{SITE}/bay-1/down/+")
            up = f"chargekeep/1/{SITE}/bay-1/up/connection"
            station.client.publish(up, b"online", 1, True)
            tariff = f"chargekeep/1/{SITE}/bay-1/down/tariff"
            assert station.until(lambda: tariff in station.got)
            assert station.got == {tariff: home.current(SITE, "tariff")[None][1]}
            station.client.publish(up, b"lost", 1, True)
            station.until(lambda: False, 0.3)
            assert follower.answered == 1


def test_definitions_name_each_station_s_own_topics():
    record = Replica(SITE, "bay-1").record()
    found = definitions([record], {RECONCILER: "r", OPERATOR: "o"})
    assert [user["name"] for user in found["users"]] == [RECONCILER, OPERATOR, "bay-1"]
    rule = found["topic_permissions"][2]
    assert rule["write"] == rf"^chargekeep\.1\.{SITE}\.bay\-1\.up\."
    assert rule["read"] == rf"^chargekeep\.1\.{SITE}\.(bay\-1|all)\.down\."
    found = definitions([record | {"revoked": 1_800_000_000}], {})
    assert found["users"][0]["password_hash"] == ""
    assert found["permissions"][0]["write"] == "^$"
    with pytest.raises(ToolError, match="dot"):
        definitions([Replica(SITE, "bay.1").record()], {})


def test_stations_with_pre_shared_keys_are_named(tmp_path, capsys):
    home = make_home(tmp_path / "home")
    for name, auth in {"bay-1": Auth.PSK, "bay-2": Auth.CERTIFICATE}.items():
        record = Replica(SITE, name).record()
        home.save_station(record | {"mqtt": record["mqtt"] | {"auth": str(auth)}})
    rabbitmq_command(tmp_path / "access", ["localhost"], home=home.root, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"stations": 2, "psk": ["bay-1"]}
    for path in (tmp_path / "access").iterdir():
        assert path.stat().st_mode & 0o77 == 0, path
