"""The reconciler beside a subscriber that only counts; on both databases; as the fleet grows; and
72 hours of a whole fleet at once.

What is compared runs in the same call, in turns, on one mosquitto or one PostgreSQL, which sync
every commit to the disk. Stations sign genuine records, made before the clock starts.
CHARGEKEEP_FLEET=1000 replays that many stations instead of 200; the figure is scaled to 10,000.
"""

import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from queue import Empty
from typing import Any

import cbor2
import paho.mqtt.client as mqtt
import pytest
import sqlalchemy as sa
from paho.mqtt.enums import CallbackAPIVersion

from chargekeep_tools import keys, objects, publish, wire
from chargekeep_tools.broker import RECONCILER, Broker
from chargekeep_tools.home import Home
from chargekeep_tools.reconcile import cli, store
from chargekeep_tools.reconcile.books import HomeBooks
from chargekeep_tools.reconcile.project import Projector
from chargekeep_tools.reconcile.schema import adjustments, bills, metadata, transactions
from chargekeep_tools.reconcile.source import TOPIC, MqttSource
from chargekeep_tools.reconcile.verifiers import Verifiers
from chargekeep_tools.reconcile.verify import Stations
from chargekeep_tools.reconcile.worker import Message, Reconciler
from chargekeep_tools.sim.replica import METER_VALUE, Replica, Slot

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))
from postgres import Postgres

SITE = "depot"
STATIONS = 250  # then a commit has as many batches of each as one has on its way at a time
ALONE = 1000  # then it has one of each: every signature is looked at, every batch acknowledged
BATCHES = 25_000  # of 32 records each
TURNS = 3
GROWTH = (10, 100, 1000, 10_000)
GROWTH_BATCHES = 10_000
FLEET = 10_000
HOURS = 72
WORKERS = 2
GROUP = 500

Sent = list[tuple[str, bytes]]
_PAD = [bytes(50 - n) for n in range(51)]


class Station(Replica):
    """A replica that makes records of one slot faster."""

    def append(self, kind: int, body: list[Any]) -> None:
        payload = cbor2.dumps([self.time, 3 if self.time else 0, self.boot, self.uptime, *body])
        if len(payload) > 48:
            return super().append(kind, body)
        seq = len(self.slots) + 1
        sector, index = 1, 0
        if self.slots:
            sector, index = self.slots[-1].sector, self.slots[-1].index + 1
            if index == 60:
                sector, index = sector + 1, 0
        short = bytes((kind, len(payload) | 0xC0)) + payload
        before = self.seal.link_key(sector) + self._link + (seq & 0xFFFF).to_bytes(2, "little")
        self._link = sha256(before + short + _PAD[len(short)]).digest()[:8]
        self.slots.append(Slot(sector, index, short, self._link))

    def minutes(self, count: int) -> None:
        """A record a minute: four hours of charging, then four of meter values, and so on."""
        for minute in range(count):
            self.sleep(60)
            at = minute % 480
            if at == 0:
                self.start()
            elif at == 239:
                self.stop()
            elif at < 239:
                self.register += 180
                self.update()
            else:
                self.append(METER_VALUE, [self.register, 0])


def in_turns(stations: list[Station], most: int) -> Sent:
    """All batches of all stations, a batch of each in turn."""
    found = [[(s.log_topic, data) for data in s.batches(most=most)] for s in stations]
    return [message for row in zip(*found, strict=True) for message in row]


def meter_values(count: int, batches: int) -> tuple[list[Station], Sent]:
    """`count` stations, and of each `batches` batches of 32 records in 32 slots."""
    stations = [Station(SITE, f"cp-{i}") for i in range(count)]
    for station in stations:
        while len(station.slots) < 32 * batches:
            station.register += 60
            station.sleep(60)
            station.append(METER_VALUE, [station.register, 3600])
    return stations, in_turns(stations, 32)


def make_home(folder: Path) -> Home:
    home = Home(folder / "home")
    keys.create(home, "root", "root", encrypted=False)
    keys.create(home, "issuer", "issuer", encrypted=False)
    objects.sign(home, wire.TARIFF, SITE, {10: 1, 11: "EUR", 12: 3500, 13: 1, 14: 1}, now=0)
    return home


def empty(url: str) -> sa.Engine:
    """The database at `url`, with nothing in it."""
    engine = store.connect(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            names = ", ".join(table.name for table in metadata.sorted_tables)
            connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
        else:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    return engine


# Beside a subscriber that only counts, over MQTT


class SenderBroker(Broker):
    """Has an account `sender` that may speak as every station."""

    def write(self) -> Path:
        path = super().write()
        lines = path.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("max_queued_messages")]
        path.write_text("\n".join([*kept, f"max_queued_messages {2 * BATCHES}", ""]))
        with (self.folder / "acl").open("a") as acl:
            acl.write("user sender\ntopic write chargekeep/#\n")
        return path

    def queue(self, client_id: str, sent: Sent) -> None:
        """Keep `sent` for the client `client_id`, who is away, and nothing of an earlier turn."""
        granted: list[object] = []
        for clean in (True, False):
            client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, clean_session=clean)
            client.username_pw_set(RECONCILER, "r")
            client.on_subscribe = lambda *arguments: granted.append(arguments)
            client.connect(self.host, self.port)
            client.loop_start()
            while not client.is_connected():
                time.sleep(0.01)
            if not clean:
                client.subscribe(TOPIC, 1)
                while not granted:
                    time.sleep(0.01)
            client.disconnect()
            client.loop_stop()
        publish.send(self.url("sender"), [(topic, data, False) for topic, data in sent])


def count(broker: SenderBroker, sent: Sent) -> float:
    """Batches a second of a subscriber that only counts, with PUBACKs by paho itself."""
    broker.queue("counter", sent)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "counter", clean_session=False)
    client.username_pw_set(RECONCILER, "r")
    seen = 0

    def on_message(*_: object) -> None:
        nonlocal seen
        seen += 1

    client.on_message = on_message
    began = time.perf_counter()
    client.connect(broker.host, broker.port)
    while seen < len(sent):
        client.loop(1)
    taken = time.perf_counter() - began
    client.disconnect()
    return len(sent) / taken


def reconcile(
    broker: SenderBroker, sent: Sent, home: Home, url: str, verifiers: Verifiers
) -> tuple[float, float]:
    """(batches a second stored and acknowledged, records a second billed after that)."""
    broker.queue("reconciler", sent)
    engine = empty(url)
    source = MqttSource(broker.url(RECONCILER), "reconciler")
    reconciler = cli.reconciler_for(home, engine, None, source.publish)
    reconciler.verifiers = verifiers
    project: Callable[[], None] = reconciler.project
    reconciler.project = lambda *_: None  # type: ignore[method-assign]
    stored = reconciler.figures.batches
    began = time.perf_counter()
    source.run(reconciler, lambda: stored["accepted"] == len(sent))
    taken = time.perf_counter() - began
    began = time.perf_counter()
    project()
    records = reconciler.figures.records
    engine.dispose()
    return len(sent) / taken, records / (time.perf_counter() - began)


def beside_a_counter(folder: Path, size: int, url: str | None) -> dict[str, float]:
    """Medians of turns for `size` stations; `url` of a PostgreSQL, if there is one."""
    home = make_home(folder)
    stations, sent = meter_values(size, BATCHES // size)
    for station in stations:
        home.save_station(station.record())
    del stations
    gc.collect()
    gc.freeze()  # no reconciler has what stations are to send in its memory
    verifiers = Verifiers(home.root, len(os.sched_getaffinity(0)))  # has started when it is used
    broker = SenderBroker(folder / "broker", home.stations(), {RECONCILER: "r", "sender": "s"})
    urls = {"sqlite": f"sqlite:///{folder}/reconcile.db"} | ({"pg": url} if url else {})
    counted = []
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    with broker:
        for _ in range(TURNS):
            counted.append(count(broker, sent))
            for name, where in urls.items():
                rates[name].append(reconcile(broker, sent, home, where, verifiers))
    verifiers.close()
    found = {"reconcile_bare_records_per_s": round(32 * statistics.median(counted))}
    for name, pairs in rates.items():
        stored, billed = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[f"reconcile_{name}_records_per_s"] = round(32 * stored)
        found[f"reconcile_{name}_projected_records_per_s"] = round(billed)
    ratios = [stored / bare for (stored, _), bare in zip(rates["sqlite"], counted, strict=True)]
    found["reconcile_vs_bare_ratio"] = round(statistics.median(ratios), 3)
    return found


def alone(folder: Path) -> dict[str, float]:
    ratio = beside_a_counter(folder, ALONE, None)["reconcile_vs_bare_ratio"]
    return {f"reconcile_vs_bare_{ALONE}_stations_ratio": ratio}


# Without a broker


def reconciler(home: Home, engine: sa.Engine, stations: list[Station]) -> Reconciler:
    """A reconciler that knows `stations` without a file for each."""
    known = Stations(home)
    of = {s.name: s.station for s in stations}
    known.get = lambda _, name: of.get(name)  # type: ignore[method-assign]
    projector = Projector(engine, known, HomeBooks(home))
    projector.knows.books.issued = lambda *_: True  # type: ignore[method-assign]
    key = keys.load(home, "issuer")
    return Reconciler(engine, known, key, lambda *_: None, projector)


def feed(worker: Reconciler, sent: Sent) -> None:
    for i in range(0, len(sent), GROUP):
        worker.take([Message(*message) for message in sent[i : i + GROUP]])


def growth(folder: Path) -> dict[str, float]:
    """Microseconds a record (verified, stored, acknowledged, billed) by the size of the fleet.

    Each station was heard of before.
    """
    home = make_home(folder)
    found: dict[str, float] = {}
    for size in GROWTH:
        stations, sent = meter_values(size, 1 + GROWTH_BATCHES // size)
        engine = empty(f"sqlite:///{folder}/growth{size}.db")
        worker = reconciler(home, engine, stations)
        feed(worker, sent[:size])
        worker.project()
        began = time.process_time(), time.perf_counter()
        feed(worker, sent[size:])
        worker.project()
        scale = 1e6 / (32 * GROWTH_BATCHES)
        found[f"reconcile_{size}_stations_us_per_record"] = round(
            (time.perf_counter() - began[1]) * scale, 2
        )
        found[f"reconcile_{size}_stations_cpu_us_per_record"] = round(
            (time.process_time() - began[0]) * scale, 2
        )
        assert worker.figures.records == 32 * len(sent)
        engine.dispose()
    last, first = (found[f"reconcile_{n}_stations_cpu_us_per_record"] for n in (10_000, 10))
    found["reconcile_growth_ratio"] = round(last / first, 2)
    return found


def work(home: Path, url: str, names: list[str], ready: Any, go: Any, done: Any) -> None:
    """A process with some of the fleet's stations: lets them live, then reconciles them."""
    stations = [Station(SITE, name) for name in names]
    for station in stations:
        station.minutes(60 * HOURS)
    sent = in_turns(stations, 60)
    engine = store.connect(url)
    worker = reconciler(Home(home), engine, stations)
    ready.put(len(sent))
    go.wait()
    began = time.perf_counter()
    feed(worker, sent)
    stored = time.perf_counter() - began
    # The last minutes of billing are everybody's: who is done first takes on what is left.
    worker.project()
    slots = sum(len(station.slots) for station in stations)
    assert worker.figures.slots == slots, worker.figures
    done.put((stored, sum(slot.short[1] >> 6 & 1 for s in stations for slot in s.slots)))
    engine.dispose()


def fleet(folder: Path, url: str) -> dict[str, float]:
    """72 hours of a record a minute, on `WORKERS` processes and PostgreSQL, to the last bill."""
    size = int(os.environ.get("CHARGEKEEP_FLEET", "200"))
    home = make_home(folder)
    engine = empty(url)
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Queue(), context.Event(), context.Queue()
    names = [f"cp-{i}" for i in range(size)]
    processes = [
        context.Process(target=work, args=(home.root, url, names[i::WORKERS], ready, go, done))
        for i in range(WORKERS)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        answer(ready, processes)
    began = time.perf_counter()
    go.set()
    ended = [answer(done, processes) for _ in processes]
    taken = time.perf_counter() - began
    for process in processes:
        process.join()
    records = sum(count for _, count in ended)
    before = projected(engine)
    with engine.connect() as connection:
        made = connection.scalar(sa.select(sa.func.count()).select_from(bills))
    assert made == 9 * size, made
    worker = reconciler(home, engine, [Station(SITE, name) for name in names])
    worker.projector.rebuild()
    return {
        "fleet_72h_stations_measured": size,
        "fleet_72h_records_per_s": round(records / taken),
        "fleet_72h_replay_s": round(taken * FLEET / size),
        "reconcile_replay_identical": float(projected(engine) == before),
    }


def answer(queue: Any, processes: list[Any]) -> Any:
    """What a process says; RuntimeError if one has died."""
    while True:
        try:
            return queue.get(timeout=1)
        except Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a worker died") from None


def projected(engine: sa.Engine) -> list[Any]:
    """Every row of transactions, bills and adjustments."""
    with engine.connect() as connection:
        return [
            connection.execute(sa.select(table).order_by(*table.primary_key)).all()
            for table in (transactions, bills, adjustments)
        ]


@contextmanager
def postgres() -> Iterator[str | None]:
    """The URL of a PostgreSQL of our own, or None."""
    try:
        server = Postgres(fsync=True)
    except pytest.skip.Exception as error:
        print(f"no PostgreSQL: {error}")
        yield None
        return
    try:
        yield server.url
    finally:
        server.close()


def run() -> dict[str, float]:
    """Rates in records a second where the name does not say otherwise."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, postgres() as url:
        parts: dict[str, Callable[[Path], dict[str, float]]] = {
            "beside": lambda folder: beside_a_counter(folder, STATIONS, url),
            "alone": alone,
            "growth": growth,
        }
        if url is not None:
            parts["fleet"] = lambda folder: fleet(folder, url)
        for part, measure in parts.items():
            if part in os.environ.get("CHARGEKEEP_PARTS", part):
                found |= measure(Path(name) / part)
                print(json.dumps(found), flush=True)
    return found


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
