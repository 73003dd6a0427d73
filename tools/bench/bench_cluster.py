"""The distributed profile: three RabbitMQ nodes, PostgreSQL, one reconciler process.

All on this machine, which they share with the senders: what a cluster of machines does is more.
Needs root, rabbitmq-server and postgresql; measures nothing where they are missing.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from chargekeep_tools import keys, objects, publish, wire
from chargekeep_tools.broker import RECONCILER
from chargekeep_tools.home import Home
from chargekeep_tools.reconcile import cli
from chargekeep_tools.reconcile.database import connect
from chargekeep_tools.reconcile.schema import logs
from chargekeep_tools.reconcile.source import source_for
from chargekeep_tools.sim.replica import METER_VALUE, Replica

SITE = "depot"
STATIONS = 64
RECORDS = 1600  # of a station
SENDERS = 12


def measure(folder: Path, cluster: Any, postgres: Any) -> dict[str, float]:
    home = Home(folder)
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    objects.sign(home, wire.TARIFF, SITE, {10: 1, 11: "EUR", 12: 1, 13: 0, 14: 0})
    replicas = [Replica(SITE, f"cp-{i}") for i in range(STATIONS)]
    for replica in replicas:
        home.save_station(replica.record())
        while len(replica.slots) < RECORDS:
            replica.register += 60
            replica.sleep(60)
            replica.append(METER_VALUE, [replica.register, 3600])
    cluster.admit(home.stations())
    sent = [replica.batches() for replica in replicas]
    slots = sum(len(replica.slots) for replica in replicas)

    source = source_for(cluster.url(RECONCILER))
    source.open()  # the queues are there from now on
    source.close()

    def send(i: int) -> None:
        host, port = cluster.addresses[i % len(cluster.addresses)]
        replica = replicas[i]
        url = f"mqtt://{replica.name}:{replica.password}@{host}:{port}"
        publish.send(url, [(replica.log_topic, data, False) for data in sent[i]])

    began = time.perf_counter()
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(send, range(STATIONS)))
    kept = slots / (time.perf_counter() - began)

    engine = connect(postgres.url)
    with engine.connect() as connection:
        empty = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    reconciler = cli.reconciler_for(home, engine, None, source.publish)
    project = reconciler.project
    reconciler.project = lambda *_: None  # type: ignore[method-assign]
    figures = reconciler.figures
    began = time.perf_counter()
    source.run(reconciler, lambda: figures.slots == slots)
    stored = slots / (time.perf_counter() - began)
    began = time.perf_counter()
    project()
    billed = slots / (time.perf_counter() - began)
    with engine.connect() as connection:
        found = connection.scalar(sa.select(sa.func.sum(logs.c.head_seq)))
        size = connection.scalar(sa.text("SELECT pg_database_size(current_database())")) - empty
    engine.dispose()
    if found != slots:
        raise RuntimeError(f"{found} of {slots} slots")
    return {
        "cluster_published_records_per_s": kept,
        "cluster_stored_records_per_s": stored,
        "cluster_projected_records_per_s": billed,
        "cluster_database_bytes_per_record": size / slots,
    }


def run() -> dict[str, float]:
    """Records a second: on three nodes' disks, in the database and acknowledged, projected."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
    from postgres import Postgres
    from rabbitmq import Cluster

    try:
        cluster = Cluster()
    except pytest.skip.Exception as error:
        print(f"   {error}")
        return {}
    with tempfile.TemporaryDirectory() as name:
        postgres = Postgres()
        try:
            cluster.start()
            return measure(Path(name), cluster, postgres)
        finally:
            cluster.stop()
            postgres.close()
