"""The reconciler on PostgreSQL by URL: the same results, and no loss when that is killed."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from charger import SITE
from postgres import Postgres
from reconcile_host import Host
from sqlalchemy.exc import IntegrityError
from test_fleet import World

from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.database import connect, migrate
from chargekeep_tools.reconcile.schema import batches, bills, include_name, metadata
from chargekeep_tools.sim.replica import Replica


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def url(postgres):
    return postgres.empty()


def test_reconcilers_that_start_at_once_make_one_schema(url):
    with ThreadPoolExecutor(4) as pool:
        engines = [*pool.map(connect, [url] * 4)]
    assert sa.inspect(engines[0]).has_table("bills")


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


def rows_of(connection, table, names):
    columns = [c for c in table.c if c.name in names]
    return connection.execute(sa.select(*columns).order_by(*columns)).all()


def test_partitioning_keeps_every_row(url):
    engine = sa.create_engine(url)
    migrate(engine, "0002")
    some = {sa.String: "x", sa.LargeBinary: b"x"}
    tables = [t for t in metadata.sorted_tables if t.name not in ("parked", "delivered")]
    there = {t.name: {c["name"] for c in sa.inspect(engine).get_columns(t.name)} for t in tables}
    with engine.begin() as connection:
        for table in tables:
            for i in (1, 2, 3):
                row = {c.name: some.get(type(c.type), i) for c in table.c}
                row = {name: row[name] for name in row if name in there[table.name]}
                for name in ("site", "detail"):
                    if name in row:
                        row[name] = f"{name}{i}"
                connection.execute(table.insert().values(row))
        for name in ("batches", "records"):
            connection.execute(sa.text(f"SELECT setval('{name}_id_seq', 3)"))
        before = [rows_of(connection, table, there[table.name]) for table in tables]
    migrate(engine)
    with engine.begin() as connection:
        assert before == [rows_of(connection, table, there[table.name]) for table in tables]
        new = batches.insert().values(
            log=1, received=0, first_seq=9, last_seq=9, state=0, data=b""
        )
        assert connection.execute(new.returning(batches.c.id)).scalar_one() == 4
        with pytest.raises(IntegrityError):
            again = {c.name: getattr(before[-1][0], c.name) for c in tables[-1].c}
            connection.execute(tables[-1].insert().values(again))
    engine.dispose()


def test_two_reconcilers_unblock_a_bill_once(tmp_path, url):
    replica, hosts = Replica(SITE, "cp-1"), []
    for i in range(2):
        (tmp_path / str(i)).mkdir()
        hosts.append(Host(tmp_path / str(i), url))
        hosts[i].add(replica)
        hosts[i].issued = lambda cti: False
    for _ in range(20):
        replica.charge(10, tariff=(7, 1))
    hosts[0].give(replica, *replica.batches())
    assert hosts[0].rows(bills) == []
    hosts[0].resolve("kind=unknown_token")
    with ThreadPoolExecutor(2) as pool:
        made = [*pool.map(lambda host: host.reconciler.projector.retry(every=False), hosts)]
    assert sum(made) == 20 == len(hosts[0].rows(bills))
    assert set(hosts[0].kinds()) == {"unknown_token"}
    for host in hosts:
        host.engine.dispose()


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
