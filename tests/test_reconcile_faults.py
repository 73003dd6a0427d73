"""The reconciler dies at every point between receiving and acknowledging, and nothing is lost.

Also: what it must not believe, and any order in which anything may come.
"""

import gc
import random
import shutil

import pytest
import sqlalchemy as sa
from charger import SITE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reconcile_host import Host
from sqlalchemy.exc import OperationalError

from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.schema import bills, records
from chargekeep_tools.reconcile.worker import Message
from chargekeep_tools.sim.replica import Replica

PRICED = (7, 1)


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


class Points:
    """Counts every step that can be the last one, and dies at the one that is asked for."""

    def __init__(self, engine, die_at):
        self.connections = []
        self.count = 0
        self.die_at = die_at
        # A process that is killed has no connection any more.
        sa.event.listen(engine, "checkout", lambda raw, *_: self.connections.append(raw))
        for name in ("before_cursor_execute", "after_cursor_execute", "begin", "commit"):
            sa.event.listen(engine, name, self.step)

    def step(self, *_):
        self.count += 1
        if self.count == self.die_at:
            raise Killed


def run_once(folder, die_at, empty=None, home=None):
    """One life with a kill at point `die_at`, then lives without; (points seen, host).

    empty: a database without rows.
    """
    folder.mkdir()
    if empty is not None:
        shutil.copy(empty, folder / "reconcile.db")
    host = Host(folder, home=home)
    replicas = [host.add(Replica(SITE, f"cp-{i}")) for i in range(2)]
    for replica in replicas:
        replica.charge(100, tariff=PRICED)
    points = Points(host.engine, die_at)

    def messages():
        return [
            Message(replica.log_topic, data, points.step)
            for replica in replicas
            for data in replica.batches(most=3)
        ]

    publish = host.publish

    def stepping(topic, data):
        points.step()
        publish(topic, data)

    host.reconciler.publish = stepping
    everything = messages()
    try:
        for i in range(0, len(everything), 3):
            host.reconciler.take(everything[i : i + 3])
        host.reconciler.project()
    except Killed:
        pass
    if die_at:
        gc.collect()  # a statement that was cut keeps its connection
        for raw in points.connections:
            raw.close()
        host.restart()
        for replica in replicas:
            check_acknowledged(host, replica)
    seen = points.count
    points.die_at = 0
    for replica in replicas:  # what was not acknowledged comes again
        host.give(replica, *replica.batches(most=3))
    return seen, host, replicas


def check_acknowledged(host, replica):
    """What the station may erase is in the database of whoever comes next."""
    with host.engine.begin() as connection:
        log = store._load(connection, SITE, replica.name, replica.log_id)
    assert replica.acknowledged <= log.head_seq


def test_killed_at_every_point(tmp_path):
    store.connect(f"sqlite:///{tmp_path / 'empty.db'}").dispose()
    total, host, _ = run_once(tmp_path / "whole", 0, tmp_path / "empty.db")
    assert total > 40
    for die_at in range(1, total + 1):
        folder = tmp_path / str(die_at)
        _, host, replicas = run_once(folder, die_at, tmp_path / "empty.db", host.home)
        found = [(b["station"], b["tx"], b["energy_wh"]) for b in cli.list_bills(host.engine)]
        assert found == [("cp-0", 1, 100), ("cp-1", 1, 100)]
        assert all(r.acknowledged == len(r.slots) for r in replicas), die_at
        assert len(host.rows(records)) == sum(len(r.slots) for r in replicas) - extra(replicas)
        assert host.kinds() == []
        host.engine.dispose()


def extra(replicas):
    """Slots that only continue a record."""
    return sum(not slot.short[1] & 0x40 for r in replicas for slot in r.slots)


def test_database_error_acknowledges_nothing(tmp_path):
    host = Host(tmp_path)
    replica = host.add(Replica(SITE, "cp-1"))
    replica.charge(10, tariff=PRICED)
    broken = []

    def fail(*_):
        if broken:
            raise OperationalError("disk full", None, Exception())

    sa.event.listen(host.engine, "commit", fail)
    broken.append(1)
    done = []
    message = Message(replica.log_topic, replica.batches()[0], lambda: done.append(1))
    with pytest.raises(OperationalError):
        host.reconciler.take([message])
    assert not done and not host.events and replica.acknowledged == 0
    broken.clear()
    host.give(replica, *replica.batches())
    assert replica.acknowledged == len(replica.slots)


def test_free_on_puback_would_lose(tmp_path):
    """The control: a station that believes a PUBACK loses what dies with the reconciler."""
    host = Host(tmp_path)
    replica = host.add(Replica(SITE, "cp-1"))
    replica.charge(10, tariff=PRICED)
    freed = list(replica.batches())  # PUBACKed by the broker: freed
    host.restart()  # ... which dies before the reconciler has seen any
    replica.acknowledged = len(replica.slots)
    host.give(replica, *replica.batches())
    assert freed and cli.list_bills(host.engine) == []


def test_forged_acknowledgements_free_nothing(tmp_path):
    host = Host(tmp_path)
    replica = host.add(Replica(SITE, "cp-1"))
    replica.charge(10, tariff=PRICED)
    link = replica.slots[2].link
    for log_id, seq, its_link in (
        (b"M" * 16, 3, link),
        (replica.log_id, 2, link),
        (replica.log_id, 3, bytes(8)),
        (replica.log_id, 99, link),
        (replica.log_id, 0, link),
    ):
        with pytest.raises(ValueError):
            replica.acknowledge({10: log_id, 11: seq, 12: its_link})
    assert replica.acknowledged == 0


# Any order: duplicates, gaps that are filled later, restarts, clock steps, meter exchanges


def live(seed):
    """A station's life with restarts, clock steps and meter exchanges; (replica, Wh billed)."""
    chance = random.Random(seed)
    replica = Replica(SITE, "cp-1", register=chance.randrange(10**6))
    total = 0
    for _ in range(chance.randint(1, 6)):
        what = chance.choice(("charge", "charge", "reboot", "clock", "exchange", "resume"))
        wh = chance.randrange(20_000)
        if what == "reboot":
            replica.reboot()
        elif what == "clock":
            old, replica.time = replica.time, replica.time + chance.randint(-5000, 5000)
            replica.append(7, [old, replica.time, 1])
        elif what == "exchange":
            old, replica.register = replica.register, chance.randrange(10**6)
            replica.append(11, [old, replica.register, 3])
        else:
            replica.start(PRICED)
            for _ in range(chance.randint(0, 3)):
                replica.sleep(60)
                replica.update()
            if what == "resume":
                replica.reboot()
            replica.register += wh
            replica.stop()
            total += wh
    return replica, total


def any_order(examples):
    def decorate(test):
        given_ = given(seed=st.integers(0, 2**32), data=st.data())
        checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
        return given_(
            settings(max_examples=examples, deadline=None, suppress_health_check=checks)(test)
        )

    return decorate


@any_order(300)
def test_any_order_gives_the_same_bills(any_order_host, seed, data):
    check_any_order(any_order_host, seed, data)


@pytest.mark.nightly
@any_order(10_000)
def test_ten_thousand_orders_give_the_same_bills(any_order_host, seed, data):
    check_any_order(any_order_host, seed, data)


def check_any_order(host, seed, data):
    replica, total = live(seed)
    sizes = data.draw(st.lists(st.integers(2, 12), min_size=1, max_size=2))
    sent = [batch for most in sizes for batch in replica.batches(after=0, most=most)]
    order = data.draw(st.permutations(range(len(sent))))
    repeated = data.draw(st.lists(st.sampled_from(range(len(sent))), max_size=8))
    cuts = data.draw(st.integers(3, 12))
    host.begin(replica)
    plan = [sent[i] for i in [*order, *repeated]]
    for i in range(0, len(plan), cuts):
        messages = [Message(replica.log_topic, batch) for batch in plan[i : i + cuts]]
        host.reconciler.take(messages)
        if data.draw(st.booleans()):
            host.reconciler.project()
    host.reconciler.project()
    assert replica.acknowledged == len(replica.slots)
    found = host.rows(bills)
    assert sum(bill["energy_wh"] for bill in found) == total
    host.begin(replica)
    host.reconciler.take([Message(replica.log_topic, b) for b in replica.batches(after=0)])
    host.reconciler.project()
    assert host.rows(bills) == found


@pytest.fixture(scope="module")
def any_order_host(tmp_path_factory):
    host = Host(tmp_path_factory.mktemp("any"), "sqlite://")

    def begin(replica):
        """An empty database for this replica."""
        replica.acknowledged = 0
        host.empty()
        host.chargers = {replica.name: replica}
        station = replica.station
        host.reconciler.stations.get = lambda *_: station

    host.begin = begin
    return host


def test_two_hosts_on_one_database_never_bill_twice(tmp_path):
    # As after a failover: both have a cursor in memory, and one is stale.
    one, replica = Host(tmp_path), None
    replica = one.add(Replica(SITE, "cp-1"))
    two = Host.__new__(Host)
    two.__dict__.update(one.__dict__)
    two.restart()
    two.reconciler.stations.refresh()
    replica.charge(100, tariff=PRICED)
    one.deaf = two.deaf = True
    first = replica.batches(most=3)
    one.give(replica, first[0])
    two.give(replica, *first)
    one.give(replica, *first)
    replica.charge(50, tariff=PRICED)
    one.give(replica, *replica.batches())
    two.give(replica, *replica.batches())
    found = [bill["energy_wh"] for bill in cli.list_bills(one.engine)]
    assert found == [100, 50]
    assert one.kinds() == []
