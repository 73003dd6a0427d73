"""Chargers on flapping networks; broker and reconciler are killed; every Wh is billed once."""

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

from chargekeep_tools import keys
from chargekeep_tools.broker import RECONCILER, Broker
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.schema import bills, exceptions
from chargekeep_tools.sim.fleet import Fleet
from chargekeep_tools.sim.replica import Replica


class World:
    """A home, a broker, a reconciler process and a fleet; `database` is an SQLAlchemy URL."""

    def __init__(self, folder, chargers, online=0.3, database=None):
        self.folder = folder
        self.home = make_home(folder / "home")
        self.replicas = [Replica(SITE, f"cp-{i}", register=i * 1000) for i in range(chargers)]
        for replica in self.replicas:
            self.home.save_station(replica.record())
        records = [replica.record() for replica in self.replicas]
        self.broker = Broker(folder / "broker", records, {RECONCILER: "r"})
        self.database = database or f"sqlite:///{folder / 'reconcile.db'}"
        self.engine = store.connect(self.database)
        self.reconciler = None
        address = self.broker.host, self.broker.port
        key_for = keys.key_for(self.home)
        self.fleet = Fleet(self.replicas, *address, key_for, online, tariff=(7, 1))

    def __enter__(self):
        self.broker.start()
        self.start_reconciler()
        return self

    def __exit__(self, *_):
        self.fleet.close()
        self.kill_reconciler(signal.SIGTERM)
        self.broker.stop()

    def start_reconciler(self):
        program = os.path.join(os.path.dirname(sys.executable), "chargekeep")
        words = ["reconcile", "run", "--broker", self.broker.url(RECONCILER)]
        words += ["--home", str(self.home.root), "--database", self.database]
        log = (self.folder / "reconciler.log").open("ab")
        self.reconciler = subprocess.Popen([program, *words], stdout=log, stderr=log)

    def kill_reconciler(self, number=signal.SIGKILL):
        self.reconciler.send_signal(number)
        self.reconciler.wait(20)

    def check(self):
        """Bills are what the meters counted, to the Wh."""
        give_up = time.monotonic() + 60
        while True:
            with self.engine.connect() as connection:
                behind = connection.scalar(
                    sa.text("SELECT count(*) FROM logs WHERE projected_seq < head_seq")
                )
            if not behind:
                break
            assert time.monotonic() < give_up, (self.folder / "reconciler.log").read_text()[-900:]
            time.sleep(0.1)
        found = {}
        for bill in cli.list_bills(self.engine):
            found[bill["station"]] = found.get(bill["station"], 0) + bill["energy_wh"]
        expected = {c.replica.name: c.wh for c in self.fleet.chargers if c.wh}
        assert found == expected
        with self.engine.connect() as connection:
            kinds = connection.execute(sa.select(exceptions)).mappings().all()
            assert not kinds
            return connection.scalar(sa.select(sa.func.count()).select_from(bills))


def soak(world, minutes, kills, seconds):
    """Live `minutes` while the broker and the reconciler are killed, in turns, `kills` times."""
    chance = random.Random(1)
    done = threading.Event()

    def kill():
        for i in range(kills):
            time.sleep(chance.uniform(0.3, 2.5))
            if i % 2:
                world.broker.stop(kill=True)
                world.broker.start()
            else:
                world.kill_reconciler()
                world.start_reconciler()
        done.set()

    thread = threading.Thread(target=kill)
    thread.start()
    lived = 0
    while lived < minutes:
        world.fleet.round(steps=10)
        lived += 10
    world.fleet.run(done.is_set)
    thread.join()
    assert world.fleet.drain(seconds), (world.fleet.backlog(), world.folder)
    return world.check()


def test_kills_under_load(tmp_path):
    with World(tmp_path, 5) as world:
        assert soak(world, minutes=1200, kills=4, seconds=60) > 20
        assert sum(charger.cuts for charger in world.fleet.chargers) > 10


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_a_thousand_kills(tmp_path):
    kills = int(os.environ.get("CHARGEKEEP_KILLS", "1000"))
    with World(tmp_path, 20) as world:
        assert soak(world, minutes=20 * kills, kills=kills, seconds=300) > kills


@pytest.mark.nightly
@pytest.mark.timeout(7200)
def test_a_day_of_two_hundred_chargers(tmp_path):
    with World(tmp_path, 200) as world:
        assert soak(world, minutes=1440, kills=10, seconds=600) > 1000
