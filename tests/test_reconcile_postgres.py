"""The reconciler on PostgreSQL by URL: the same results, and no loss when that is killed."""

import threading
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from charger import SITE
from postgres import Postgres
from reconcile_host import Host
from test_fleet import World

from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.schema import bills, include_name, metadata
from chargekeep_tools.sim.replica import Replica


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def url(postgres):
    return postgres.empty()


def test_same_bills_as_sqlite(tmp_path, url):
    replica = Replica(SITE, "cp-1")
    for wh in (100, 20_000, 3):
        replica.charge(wh, updates=9, tariff=(7, 1))
    replica.start(tariff=(7, 9))
    replica.stop()
    found = []
    for i, database in enumerate((None, url)):
        (tmp_path / str(i)).mkdir()
        host = Host(tmp_path / str(i), database)
        host.add(replica)
        host.deaf = True
        sent = replica.batches(most=5)
        host.give(replica, *reversed(sent))
        host.give(replica, *sent, *sent)
        host.reconciler.projector.rebuild()
        found.append((host.rows(bills), host.kinds(), cli.status(host.engine)))
        with host.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"include_name": include_name})
            assert compare_metadata(context, metadata) == []
        host.engine.dispose()
    assert found[0] == found[1] and len(found[0][0]) == 3


def test_database_killed_under_load(tmp_path, postgres, url):
    with World(tmp_path, 4, database=url) as world:
        done = threading.Event()

        def kill():
            for _ in range(2):
                time.sleep(1)
                postgres.kill()
                postgres.start()
            done.set()

        thread = threading.Thread(target=kill)
        thread.start()
        for _ in range(60):
            world.fleet.round(steps=10)
        world.fleet.run(done.is_set)
        thread.join()
        assert world.fleet.drain(60), (tmp_path / "reconciler.log").read_text()[-2000:]
        assert world.check() > 10
        world.engine.dispose()
