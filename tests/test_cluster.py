"""Three RabbitMQ nodes, PostgreSQL and three reconcilers; each part dies in turn under load."""

import os
import time

import pytest
import sqlalchemy as sa
from postgres import Postgres
from rabbitmq import Cluster
from test_fleet import World

from chargekeep_tools.broker import OPERATOR, RECONCILER
from chargekeep_tools.reconcile.schema import logs

# Two share the stations, the third stands by for both.
PARTS = (("--partition", "0/2"), ("--partition", "1/2"), ())
ROUNDS = int(os.environ.get("CHARGEKEEP_ROUNDS", "3"))


class ClusterWorld(World):
    """A `World` whose broker is a cluster, with chargers that are online for seconds."""

    def __init__(self, folder, chargers, database):
        super().__init__(folder, chargers, 0.5, database, PARTS, period_s=10)

    def make_broker(self, records):
        self.broker = Cluster(records, {RECONCILER: "r", OPERATOR: "o"})
        return self.broker.url, self.broker.addresses

    def live(self, seconds):
        """Chargers at work for so long; returns how many slots came into the database."""
        before, end = self.stored(), time.monotonic() + seconds
        while time.monotonic() < end:
            self.fleet.round(steps=1)
        return self.stored() - before

    def stored(self):
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


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_each_part_dies_in_turn(tmp_path, postgres):
    with ClusterWorld(tmp_path, 20, postgres.url) as world:
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
        assert world.fleet.drain(300), (world.fleet.backlog(), world.log.read_text()[-2000:])
        found = world.check()
        cuts = sum(charger.cuts for charger in world.fleet.chargers)
        print(f"{ROUNDS} rounds, {cuts} cuts, {world.stored()} slots, {found} bills")
        assert found > 20
