"""Chargers on flapping networks; broker, reconciler and database die; each Wh is billed once."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
import sqlalchemy as sa
from charger import SITE, make_home
from postgres import Postgres

from chargekeep_tools import keys
from chargekeep_tools.broker import RECONCILER, Broker
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.schema import batches, bills, exceptions
from chargekeep_tools.sim.fleet import Fleet
from chargekeep_tools.sim.replica import Replica


class World:
    """A home, a broker, reconciler processes and a fleet; `database` is an SQLAlchemy URL.

    parts: what each reconciler takes, as words of its command line.
    """

    def __init__(self, folder, chargers, online=0.3, database=None, parts=((),), **fleet):
        self.folder = folder
        self.home = make_home(folder / "home")
        self.replicas = [Replica(SITE, f"cp-{i}", register=i * 1000) for i in range(chargers)]
        for replica in self.replicas:
            self.home.save_station(replica.record())
        self.broker_url, addresses = self.make_broker([r.record() for r in self.replicas])
        self.database = database or f"sqlite:///{folder / 'reconcile.db'}"
        self.engine = store.connect(self.database)
        self.parts = parts
        self.reconcilers = {}
        key_for = keys.key_for(self.home)
        self.fleet = Fleet(self.replicas, addresses, key_for, online, tariff=(7, 1), **fleet)

    def make_broker(self, records):
        self.broker = Broker(self.folder / "broker", records, {RECONCILER: "r"})
        return self.broker.url(RECONCILER), [(self.broker.host, self.broker.port)]

    def start_broker(self):
        self.broker.start()

    def stop_broker(self):
        self.broker.stop()

    def __enter__(self):
        self.start_broker()
        for i in range(len(self.parts)):
            self.start_reconciler(i)
        return self

    def __exit__(self, *_):
        self.fleet.close()
        for i in self.reconcilers:
            self.kill_reconciler(i, signal.SIGTERM)
        self.stop_broker()
        self.engine.dispose()

    @property
    def log(self):
        return self.folder / "reconciler.log"

    def start_reconciler(self, i=0):
        program = os.path.join(os.path.dirname(sys.executable), "chargekeep")
        words = ["reconcile", "run", "--broker", self.broker_url, *self.parts[i]]
        words += ["--home", str(self.home.root), "--database", self.database]
        log = self.log.open("ab")
        self.reconcilers[i] = subprocess.Popen([program, *words], stdout=log, stderr=log)

    def kill_reconciler(self, i=0, number=signal.SIGKILL):
        self.reconcilers[i].send_signal(number)
        self.reconcilers[i].wait(20)

    def restart_reconciler(self, i=0):
        self.kill_reconciler(i)
        self.start_reconciler(i)

    def restart_broker(self):
        self.broker.stop(kill=True)
        self.broker.start()

    @property
    def answers(self):
        """Signed acknowledgements that chargers got."""
        return sum(charger.answers for charger in self.fleet.chargers)

    def settle(self):
        """Wait until all that is stored is billed."""
        behind = sa.text("SELECT count(*) FROM logs WHERE projected_seq < head_seq")
        give_up = time.monotonic() + 60
        while True:
            with self.engine.connect() as connection:
                if not connection.scalar(behind):
                    return
            assert time.monotonic() < give_up, self.log.read_text()[-900:]
            time.sleep(0.1)

    def stored(self):
        """How many different slots are in the database, beyond gaps or not."""
        query = sa.select(batches.c.log, batches.c.first_seq, batches.c.last_seq)
        found = set()
        with self.engine.connect() as connection:
            for log, first, last in connection.execute(query):
                found.update((log, seq) for seq in range(first, last + 1))
        return len(found)

    def billed(self):
        """Wh by station."""
        found = {}
        for bill in cli.list_bills(self.engine):
            found[bill["station"]] = found.get(bill["station"], 0) + bill["energy_wh"]
        return found

    def metered(self):
        return {c.replica.name: c.wh for c in self.fleet.chargers if c.wh}

    def check(self):
        """Bills are what the meters counted, to the Wh; returns how many."""
        self.settle()
        assert self.billed() == self.metered()
        with self.engine.connect() as connection:
            assert not connection.execute(sa.select(exceptions)).mappings().all()
            return connection.scalar(sa.select(sa.func.count()).select_from(bills))


def harass(world, kills, victims, pace, minutes=None):
    """Everyone lives while each of `victims` (kill and start again) dies at random.

    They die independently of each other, `kills` times together, each when acknowledgements have
    come since it died last. pace: simulated minutes a second; minutes: of them, if not as many as
    there is time for. Returns after how many kills no acknowledgement came in time.
    """
    left = list(range(kills))
    lock = threading.Lock()
    failed, dry = [], []

    def kill(seed, victim):
        chance = random.Random(seed)
        try:
            while left:
                time.sleep(chance.uniform(0, 1))
                with lock:
                    if not left:
                        return
                    left.pop()
                    if len(left) % 100 == 0:
                        print(f"{kills - len(left)} kills, {len(dry)} without effect", flush=True)
                victim()
                before, give_up = world.answers, time.monotonic() + 10
                while world.answers == before and time.monotonic() < give_up:
                    time.sleep(0.05)
                dry.extend([1] * (time.monotonic() > give_up))
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=kill, args=one) for one in enumerate(victims)]
    for thread in threads:
        thread.start()
    lived, began = 0, time.monotonic()
    try:
        while any(thread.is_alive() for thread in threads) or lived < (minutes or 0):
            due = int((time.monotonic() - began) * pace)
            steps = min(10, (due if minutes is None else min(due, minutes)) - lived)
            world.fleet.round(steps)
            lived += steps
    finally:
        left.clear()
        for thread in threads:
            thread.join()
    assert not failed
    return len(dry)


def soak(world, kills, seconds, pace, minutes=None, victims=()):
    """`harass`, then everyone comes online; how many bills there are, all of them right."""
    victims = victims or (world.restart_broker, world.restart_reconciler)
    dry = harass(world, kills, victims, pace, minutes)
    print(f"{kills} kills, {dry} without an acknowledgement before the next")
    assert world.fleet.drain(seconds), (world.fleet.backlog(), world.log.read_text()[-2000:])
    return world.check()


def test_kills_under_load(tmp_path):
    with World(tmp_path, 5) as world:
        assert soak(world, kills=4, seconds=60, pace=150) > 20
        assert sum(charger.cuts for charger in world.fleet.chargers) > 10


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_a_thousand_kills(tmp_path):
    """Of the broker, the reconciler and PostgreSQL, at random, often at the same time."""
    kills = int(os.environ.get("CHARGEKEEP_KILLS", "1000"))
    postgres = Postgres()
    try:
        with World(tmp_path, 20, database=postgres.url) as world:
            victims = (world.restart_broker, world.restart_reconciler, postgres.restart)
            found = soak(world, kills, 300, pace=20, victims=victims)
            print(f"{sum(c.cuts for c in world.fleet.chargers)} cuts")
            print(f"{world.stored()} slots, {found} bills")
            assert found > kills
    finally:
        postgres.close()


@pytest.mark.nightly
def test_a_fleet_that_believes_pubacks_loses(tmp_path):
    """The control: the same kills, and chargers that free their logs on the broker's word."""
    with World(tmp_path, 5, believe_puback=True) as world:
        harass(world, 10, (world.restart_broker, world.restart_reconciler), pace=20)
        assert world.fleet.drain(60)  # as far as they know
        time.sleep(5)
        freed, stored = sum(r.acknowledged for r in world.replicas), world.stored()
        print(f"freed {freed} slots, {stored} of them are stored")
        assert 0 < stored < freed


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_a_day_of_two_hundred_chargers(tmp_path):
    with World(tmp_path, 200) as world:
        found = soak(world, kills=10, seconds=600, pace=10, minutes=1440)
        cuts = sum(charger.cuts for charger in world.fleet.chargers)
        metered, billed = sum(world.metered().values()), sum(world.billed().values())
        print(f"{cuts} cuts, {world.stored()} slots, {found} bills")
        print(f"metered {metered} Wh, billed {billed} Wh")
        assert found > 1000
