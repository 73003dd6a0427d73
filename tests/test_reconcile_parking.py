"""Errors that pass by themselves are waited for; what can never work stops one station only."""

import threading
from itertools import zip_longest
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from charger import SITE
from postgres import Postgres
from reconcile_host import Host
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from chargekeep_tools.reconcile import apply, cli, parking
from chargekeep_tools.reconcile.database import Broken, Stale, passes
from chargekeep_tools.reconcile.schema import exceptions, logs, metadata, parked
from chargekeep_tools.reconcile.source import Source
from chargekeep_tools.reconcile.store import Group, Store
from chargekeep_tools.reconcile.worker import Message
from chargekeep_tools.sim.replica import Replica

PRICED = (7, 1)


@pytest.fixture(scope="module")
def server():
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def host(request, tmp_path):
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("server").url
    host = Host(tmp_path, url)
    host.cure = lambda: None
    yield host
    host.cure()
    if url:
        run(host, [f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)])
    host.engine.dispose()


@pytest.fixture
def replicas(host):
    found = [host.add(Replica(SITE, f"cp-{i}")) for i in range(4)]
    for replica in found:
        replica.charge(100, tariff=PRICED)
    return found


def poison(host, table, *replicas, also="TRUE"):
    """From now on the database refuses rows of `replicas` in `table` that meet `also`."""
    names = [replica.name for replica in replicas]
    found = [str(row["id"]) for row in host.rows(logs) if row["station"] in names]
    condition = f"NEW.log IN ({', '.join(found)}) AND {also}"
    if host.engine.dialect.name == "sqlite":
        statements = [
            f"CREATE TRIGGER poison BEFORE INSERT ON {table} WHEN {condition}"
            " BEGIN SELECT RAISE(ABORT, 'poison'); END"
        ]
        cure = ["DROP TRIGGER IF EXISTS poison"]
    else:
        check = condition.replace("NEW.", "")
        statements = [f"ALTER TABLE {table} ADD CONSTRAINT poison CHECK (NOT ({check})) NOT VALID"]
        cure = [f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS poison"]
    run(host, statements)
    host.cure = lambda: run(host, cure)
    return host.cure


def run(host, statements):
    with host.engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def everything(replicas, most=3):
    found = [[(r, data) for data in r.batches(most=most)] for r in replicas]
    return [one for row in zip_longest(*found) for one in row if one]


def take(host, sent):
    done = []
    host.reconciler.take(
        [Message(r.log_topic, data, lambda r=r: done.append(r.name)) for r, data in sent]
    )
    host.reconciler.project()
    return done


def billed(host):
    return [(b["station"], b["energy_wh"]) for b in cli.list_bills(host.engine)]


def test_parked(host, replicas):
    sent = everything(replicas)
    take(host, sent[:4])
    stood = replicas[1].acknowledged
    cure = poison(host, "batches", replicas[1], also=f"NEW.first_seq = {stood + 1}")
    assert len(take(host, sent)) == len(sent)
    others = [r for r in replicas if r.name != "cp-1"]
    assert all(r.acknowledged == len(r.slots) for r in others)
    assert replicas[1].acknowledged == stood  # what came before it
    assert billed(host) == [("cp-0", 100), ("cp-2", 100), ("cp-3", 100)]
    assert host.kinds() == ["parked"] and host.reconciler.figures.batches["parked"] == 1
    assert [bytes(row["data"]) for row in host.rows(parked)] == [sent[5][1]]
    # It comes again, and life goes on
    take(host, [sent[5]])
    replicas[0].charge(7, tariff=PRICED)
    take(host, [(replicas[0], data) for data in replicas[0].batches()])
    assert ("cp-0", 7) in billed(host) and len(host.rows(parked)) == 1
    # Resolved too early: it stays
    host.resolve("kind=parked")
    host.reconciler.project()
    assert [row["resolved"] for row in host.rows(exceptions)] == [None]
    cure()
    host.reconciler.project()  # nobody has asked for it
    assert len(host.rows(parked)) == 1
    host.resolve("kind=parked")
    host.reconciler.project()
    assert replicas[1].acknowledged == len(replicas[1].slots)
    assert ("cp-1", 100) in billed(host) and host.rows(parked) == []


def test_retry_takes_it_up(host, replicas):
    sent = everything(replicas)
    take(host, sent[:4])
    cure = poison(host, "batches", replicas[2])
    take(host, sent[4:])
    assert ("cp-2", 100) not in billed(host) and host.kinds() == ["parked"]
    cure()
    store = Store(host.engine)
    assert len(parking.take_up(store, host.reconciler.stations, 1, "retried")) == 1
    host.reconciler.project()
    assert ("cp-2", 100) in billed(host)
    assert [row["note"] for row in host.rows(exceptions)] == ["retried"]


def test_resent_after_the_cure_is_taken_once(host, replicas):
    sent = everything(replicas)
    take(host, sent[:4])
    cure = poison(host, "batches", replicas[0])
    take(host, sent[4:])
    cure()
    take(host, [one for one in sent if one[0] is replicas[0]])
    assert replicas[0].acknowledged == len(replicas[0].slots)
    host.resolve("kind=parked")
    host.reconciler.project()
    assert host.rows(parked) == [] and billed(host).count(("cp-0", 100)) == 1


def test_unprojected(host, replicas):
    sent = everything(replicas)
    take(host, sent[:4])
    cure = poison(host, "bills", replicas[1])
    assert len(take(host, sent[4:])) == 4
    assert all(r.acknowledged == len(r.slots) for r in replicas)  # all of it is stored
    assert billed(host) == [("cp-0", 100), ("cp-2", 100), ("cp-3", 100)]
    assert host.kinds() == ["unprojected"]
    replicas[3].charge(5, tariff=PRICED)
    take(host, [(replicas[3], data) for data in replicas[3].batches()])
    assert ("cp-3", 5) in billed(host)
    host.resolve("kind=unprojected")
    host.reconciler.project()
    assert [row["resolved"] for row in host.rows(exceptions)] == [None]
    cure()
    host.resolve("kind=unprojected")
    host.reconciler.project()
    assert ("cp-1", 100) in billed(host)


def test_a_bug_of_the_projection_stops_one_log(host, replicas, monkeypatch):
    true = apply.Pass._transaction

    def bug(self, record, stamp, body):
        if self.log.station == "cp-2":
            raise ZeroDivisionError
        true(self, record, stamp, body)

    monkeypatch.setattr(apply.Pass, "_transaction", bug)
    take(host, everything(replicas))
    assert billed(host) == [("cp-0", 100), ("cp-1", 100), ("cp-3", 100)]
    monkeypatch.undo()
    host.reconciler.projector.rebuild()
    assert len(billed(host)) == 4


def test_what_passes_is_waited_for(host, replicas):
    """A lock that is held elsewhere: nothing is parked, nor acknowledged before it is free."""
    sent = everything(replicas)
    take(host, sent[:4])
    stood = [r.acknowledged for r in replicas]
    held = host.engine.connect()
    if host.engine.dialect.name == "sqlite":
        sa.event.listen(
            host.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 50")
        )
        host.engine.dispose()
        held = host.engine.connect()
        held.execute(sa.text("UPDATE logs SET head_seq = head_seq"))
    else:
        held.execute(sa.text("UPDATE logs SET head_seq = head_seq"))
        sa.event.listen(
            host.engine, "connect", lambda raw, _: raw.execute("SET lock_timeout = 50")
        )
        sa.event.listen(
            host.engine, "checkout", lambda raw, *_: raw.execute("SET lock_timeout = 50")
        )
    with pytest.raises(sa.exc.SQLAlchemyError) as caught:
        take(host, sent[4:])
    assert passes(caught.value) and host.rows(parked) == []
    assert [r.acknowledged for r in replicas] == stood
    held.rollback()
    held.close()
    take(host, sent[4:])
    assert all(r.acknowledged == len(r.slots) for r in replicas) and len(billed(host)) == 4


@pytest.mark.parametrize("alone", [False, True])
def test_those_who_alone_are_there_are_parked(host, replicas, alone):
    """Nobody gets through, but anybody else would: each is parked, and life goes on."""
    sent = everything(replicas)
    take(host, sent[:4])
    ill = replicas[1:2] if alone else replicas[1:3]
    cure = poison(host, "batches", *ill)
    assert len(take(host, [one for one in sent[4:] if one[0] in ill])) == len(ill)
    assert host.kinds() == ["parked"] * len(ill) and len(host.rows(logs)) == 4
    take(host, [one for one in sent[4:] if one[0] not in ill])
    assert len(billed(host)) == 4 - len(ill)
    cure()
    host.resolve("kind=parked")
    host.reconciler.project()
    assert len(billed(host)) == 4 and host.rows(parked) == []


@pytest.mark.parametrize("at_once", [1, 4])
def test_what_stops_everybody_parks_nobody(host, replicas, monkeypatch, at_once):
    sent = everything(replicas)
    take(host, sent[:4])
    monkeypatch.setattr(Group, "_place", lambda *_: 1 / 0)
    with pytest.raises(Broken):
        take(host, sent[4 : 4 + at_once])
    assert host.rows(parked) == [] and host.kinds() == []
    monkeypatch.undo()
    take(host, sent[4:])
    assert len(billed(host)) == 4


def test_which_errors_pass():
    def of(kind, state=None, lost=False):
        error = SimpleNamespace(sqlstate=state) if state else Exception()
        return passes(kind("", None, error, connection_invalidated=lost))

    for state in ("08006", "40001", "40P01", "55P03", "57P01", "53100", "25006", "42P01"):
        assert of(OperationalError, state)
    for state in ("23505", "22003", "54000", "22001", "XX000", "P0001"):
        assert not of(OperationalError, state) and not of(DataError, state)
    assert of(OperationalError) and of(IntegrityError, lost=True)
    assert not of(IntegrityError) and not of(DataError)
    assert passes(Stale()) and passes(sa.exc.TimeoutError())
    assert not passes(ValueError()) and not passes(OverflowError())


class Feed(Source):
    """Hands over what is in `queue`."""

    def __init__(self, queue):
        super().__init__()
        self.queue, self.opened = queue, 0

    def open(self):
        self.opened += 1

    def poll(self, timeout_s):
        self.messages += self.queue
        self.queue = []

    def close(self):
        pass

    def publish(self, topic, payload):
        pass


def test_source_survives_both(host, replicas, monkeypatch):
    """The loop goes on after an error that passes, and does not even notice the other kind."""
    from chargekeep_tools.reconcile import source

    monkeypatch.setattr(source, "_BACK_OFF_S", (0.01, 0.01))
    monkeypatch.setattr(source, "_IDLE_S", 0.01)
    take(host, everything(replicas)[:4])
    poison(host, "batches", replicas[1])
    feed = Feed([])
    done = threading.Event()
    failures = [1, 1]
    true = host.reconciler.store.ingest

    def failing(opened, now=None):
        if failures:
            failures.pop()
            raise OperationalError("server closed the connection", None, Exception())
        return true(opened, now)

    host.reconciler.store.ingest = failing

    def refill():  # the broker sends again what is not done
        if not feed.queue and not feed.messages:
            feed.queue = [Message(r.log_topic, data) for r, data in everything(replicas)]
        if all(r.acknowledged == len(r.slots) for r in replicas if r.name != "cp-1"):
            done.set()
        return done.is_set()

    feed.run(host.reconciler, refill)
    assert feed.opened == 3 and host.kinds() == ["parked"]
