"""Batches into the database, in one durable commit for as many as came together.

What the cursor of a log acknowledges is stored, verified and without a gap that is not accounted
for. Nothing that verified is thrown away: a batch beyond a gap waits, one that contradicts the
history is quarantined.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event

from chargekeep_tools import wire
from chargekeep_tools.reconcile.schema import (
    ACCEPTED,
    QUARANTINED,
    WAITING,
    batches,
    exceptions,
    logs,
)
from chargekeep_tools.reconcile.verify import Batch, Station, genesis, read_batch

DEFAULT_URL = "sqlite:///reconcile.db"
_WAITING_LIMIT = 1000  # batches of one log beyond a gap; the station sends what is left out again


@dataclass
class Log:
    """A log's row: everything up to `head_seq`, whose link is `head_link`, is stored."""

    id: int
    site: str
    station: str
    log_id: bytes
    head_seq: int
    head_link: bytes


@dataclass(frozen=True)
class Outcome:
    """What became of a batch: `accepted`, `duplicate`, `waiting` or `fork`."""

    kind: str
    log: Log


def connect(url: str) -> sa.Engine:
    """An engine for `url` with the schema up to date. SQLite commits reach the disk (FULL)."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def durable(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 10000")

    migrate(engine)
    return engine


def migrate(engine: sa.Engine, revision: str = "head") -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


class Store:
    """Takes verified batches. `ingest` calls belong to one transaction of `engine`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._logs: dict[tuple[str, str, bytes], Log] = {}

    def forget(self) -> None:
        """After a rollback: what is in memory may be ahead of the database."""
        self._logs.clear()

    def log(self, connection: sa.Connection, site: str, station: str, log_id: bytes) -> Log:
        found = self._logs.get((site, station, log_id))
        if found is None:
            where = (logs.c.site == site, logs.c.station == station, logs.c.log_id == log_id)
            columns = [logs.c[name] for name in Log.__dataclass_fields__]
            row = connection.execute(sa.select(*columns).where(*where)).one_or_none()
            if row is None:
                link = genesis(log_id)
                number = connection.execute(
                    logs.insert()
                    .values(
                        site=site,
                        station=station,
                        log_id=log_id,
                        head_seq=0,
                        head_link=link,
                        projected_seq=0,
                    )
                    .returning(logs.c.id)
                ).scalar_one()
                found = Log(number, site, station, log_id, 0, link)
            else:
                found = Log(*row)
            self._logs[(site, station, log_id)] = found
        return found

    def ingest(
        self, connection: sa.Connection, batch: Batch, station: Station, now: int | None = None
    ) -> Outcome:
        """Store a batch and move its log's cursor as far as the history reaches."""
        now = int(time.time()) if now is None else now
        log = self.log(connection, batch.site, batch.station, batch.log_id)
        if batch.log_id not in station.logs:
            return self._quarantine(connection, log, batch, now, "unknown_log")
        if station.logs[batch.log_id] is None:
            return self._quarantine(connection, log, batch, now, "no_seal_key")
        kind = self._place(connection, log, batch, station)
        if kind == "accepted":
            self._accept(connection, log, batch, now)
            self._insert(connection, log, batch, now, ACCEPTED)
            self._promote(connection, log, station, now)
        elif kind == "waiting":
            self._wait(connection, log, batch, now)
        elif kind == "fork":
            return self._quarantine(connection, log, batch, now, "fork")
        return Outcome(kind, log)

    def _place(self, connection: sa.Connection, log: Log, batch: Batch, station: Station) -> str:
        if batch.first == log.head_seq + 1:
            return "accepted" if batch.link_before in (None, log.head_link) else "fork"
        if batch.first > log.head_seq:
            return "accepted" if batch.follows <= log.head_seq else "waiting"
        # It overlaps: the link of the last common slot stands for everything before it.
        common = min(batch.last, log.head_seq)
        known = self.link_at(connection, log, common, station)
        if known is not None and known != batch.links[common - batch.first]:
            return "fork"
        return "duplicate" if batch.last <= log.head_seq else "accepted"

    def link_at(
        self, connection: sa.Connection, log: Log, seq: int, station: Station
    ) -> bytes | None:
        """The link of slot `seq` of the history; None for a slot that the station had lost."""
        if seq == log.head_seq:
            return log.head_link
        row = connection.execute(
            sa.select(batches.c.data)
            .where(batches.c.log == log.id, batches.c.last_seq >= seq, batches.c.state == ACCEPTED)
            .order_by(batches.c.last_seq)
            .limit(1)
        ).one_or_none()
        if row is None:
            return None
        batch = stored(row.data, station)
        return batch.links[seq - batch.first] if batch.first <= seq else None

    def _accept(self, connection: sa.Connection, log: Log, batch: Batch, now: int) -> None:
        if batch.first > log.head_seq + 1:
            lost = f"slots {log.head_seq + 1} to {batch.first - 1}"
            raise_exception(connection, log, "lost", log.head_seq + 1, lost, now)
        log.head_seq, log.head_link = batch.last, batch.links[-1]
        connection.execute(
            logs.update()
            .where(logs.c.id == log.id)
            .values(head_seq=log.head_seq, head_link=log.head_link)
        )

    def _promote(self, connection: sa.Connection, log: Log, station: Station, now: int) -> None:
        # What waited beyond a gap may follow on now.
        waiting = (batches.c.log == log.id, batches.c.state == WAITING)
        rows = connection.execute(
            sa.select(batches.c.id, batches.c.data).where(*waiting).order_by(batches.c.first_seq)
        ).all()
        for row in rows:
            batch = stored(row.data, station)
            kind = self._place(connection, log, batch, station)
            this = batches.c.id == row.id
            if kind == "waiting":
                break
            if kind == "accepted":
                self._accept(connection, log, batch, now)
                connection.execute(batches.update().where(this).values(state=ACCEPTED))
            elif kind == "duplicate":
                connection.execute(batches.delete().where(this))
            else:
                connection.execute(batches.update().where(this).values(state=QUARANTINED))
                raise_exception(connection, log, "fork", batch.first, _span(batch), now)

    def _wait(self, connection: sa.Connection, log: Log, batch: Batch, now: int) -> None:
        rows = connection.execute(
            sa.select(batches.c.first_seq, batches.c.data).where(
                batches.c.log == log.id, batches.c.state == WAITING
            )
        ).all()
        if len(rows) < _WAITING_LIMIT and all(row.data != batch.data for row in rows):
            self._insert(connection, log, batch, now, WAITING)

    def _quarantine(
        self, connection: sa.Connection, log: Log, batch: Batch, now: int, kind: str
    ) -> Outcome:
        known = connection.execute(
            sa.select(batches.c.id).where(
                batches.c.log == log.id,
                batches.c.state == QUARANTINED,
                batches.c.last_seq == batch.last,
                batches.c.data == batch.data,
            )
        ).first()
        if known is None:
            self._insert(connection, log, batch, now, QUARANTINED)
        raise_exception(connection, log, kind, batch.first, _span(batch), now)
        return Outcome("fork", log)

    def _insert(
        self, connection: sa.Connection, log: Log, batch: Batch, now: int, state: int
    ) -> None:
        connection.execute(
            batches.insert(),
            {
                "log": log.id,
                "received": now,
                "first_seq": batch.first,
                "last_seq": batch.last,
                "state": state,
                "data": batch.data,
            },
        )


def stored(data: bytes, station: Station) -> Batch:
    """A batch from the database; its signature was verified before it got there."""
    return read_batch(wire.peek_sign1(data)[2], data, station)


def _span(batch: Batch) -> str:
    return f"slots {batch.first} to {batch.last}, last link {batch.links[-1].hex()}"


def raise_exception(
    connection: sa.Connection,
    log: Log,
    kind: str,
    seq: int,
    detail: str,
    now: int,
    tx: int | None = None,
) -> None:
    """Put something on the operator's list, once."""
    values = {"station": log.station, "log": log.id, "kind": kind, "seq": seq, "detail": detail}
    same = [exceptions.c[name] == value for name, value in values.items()]
    if connection.execute(sa.select(exceptions.c.id).where(*same)).first() is None:
        connection.execute(exceptions.insert().values(**values, tx=tx, raised=now))


def gaps(connection: sa.Connection) -> Iterable[dict[str, Any]]:
    """Missing slots that stop a log's acknowledgement: batches beyond them wait."""
    first = sa.func.min(batches.c.first_seq)
    rows = connection.execute(
        sa.select(logs.c.site, logs.c.station, logs.c.head_seq, first, sa.func.count())
        .join(batches, batches.c.log == logs.c.id)
        .where(batches.c.state == WAITING)
        .group_by(logs.c.id)
        .order_by(logs.c.site, logs.c.station)
    )
    for site, station, head, beyond, count in rows:
        yield {
            "site": site,
            "station": station,
            "first": head + 1,
            "last": beyond - 1,
            "waiting": count,
        }
