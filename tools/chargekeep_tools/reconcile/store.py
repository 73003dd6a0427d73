"""Batches into the database, in one durable commit for as many as came together.

What the cursor of a log acknowledges is stored, verified and without a gap that is not accounted
for. Nothing that verified is thrown away: a batch beyond a gap waits, one that contradicts the
history is quarantined.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from chargekeep_tools import wire
from chargekeep_tools.reconcile import policy
from chargekeep_tools.reconcile.database import Stale, insert
from chargekeep_tools.reconcile.database import connect as connect
from chargekeep_tools.reconcile.schema import (
    ACCEPTED,
    QUARANTINED,
    WAITING,
    batches,
    bills,
    exceptions,
    logs,
)
from chargekeep_tools.reconcile.verify import Batch, SealKeys, Station, genesis, read_batch

_MOVE = (
    logs.update()
    .where(logs.c.id == sa.bindparam("key"), logs.c.head_seq == sa.bindparam("was"))
    .values(head_seq=sa.bindparam("seq"), head_link=sa.bindparam("link"))
)
_COLUMNS = ("log", "received", "first_seq", "last_seq", "state", "data")
_ATTEMPTS = 3  # where other reconcilers write the same logs
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
    waiting: int = 0  # batches beyond a gap


class Outcome(NamedTuple):
    """What became of a batch: `accepted`, `duplicate`, `waiting` or `fork`; and of its log."""

    kind: str
    log: Log


class Store:
    """The logs' cursors, in memory and in the database, and the batches behind them."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._logs: dict[tuple[str, str, bytes], Log] = {}

    def ingest(
        self, opened: Sequence[tuple[Batch, Station]], now: int | None = None
    ) -> list[Outcome]:
        """Store verified batches in one commit and move cursors as far as the history reaches.

        Raises what the database raises; then nothing is stored and no cursor has moved.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self.engine.begin() as connection:
                    group = Group(self, connection, int(time.time()) if now is None else now)
                    outcomes = [group.ingest(batch, station) for batch, station in opened]
                    group.flush()
                # As committed: what is done to a log later may not come to be.
                touched = {log.id: log for _, log in outcomes}
                heads = {key: replace(log) for key, log in touched.items()}
                return [Outcome(kind, heads[log.id]) for kind, log in outcomes]
            except (Stale, IntegrityError):
                self._logs.clear()  # another reconciler was here: look again
                if attempt == _ATTEMPTS - 1:
                    raise
            except BaseException:
                self._logs.clear()  # what is in memory may be ahead of the database
                raise
        raise AssertionError

    def probe(self) -> None:
        """Store a batch that nothing is wrong with, and take it back.

        Raises whatever would prevent that for every station.
        """
        batch = Batch("", "", bytes(16), 1, 1, 0, None, bytes(8), b"")
        station = Station("", "", {}, {batch.log_id: SealKeys(bytes(32))})
        with self.engine.connect() as connection:
            group = Group(Store(self.engine), connection, 0)
            group.ingest(batch, station)
            group.flush()
            connection.rollback()

    def log(self, connection: sa.Connection, site: str, station: str, log_id: bytes) -> Log:
        """The log's row; a new one for a log that was never heard of."""
        if not self._logs:
            self._logs = _load_all(connection)
        found = self._logs.get((site, station, log_id))
        if found is None:
            found = _load(connection, site, station, log_id)
            self._logs[(site, station, log_id)] = found
        return found


def _load_all(connection: sa.Connection) -> dict[tuple[str, str, bytes], Log]:
    """Every log that there is, in two queries: a fleet that comes back comes back at once."""
    columns = (logs.c.id, logs.c.site, logs.c.station, logs.c.log_id)
    query = sa.select(*columns, logs.c.head_seq, logs.c.head_link)
    found = [Log(*row) for row in connection.execute(query)]
    by_id = {log.id: log for log in found}
    counts = sa.select(batches.c.log, sa.func.count()).where(batches.c.state == WAITING)
    for key, count in connection.execute(counts.group_by(batches.c.log)):
        by_id[key].waiting = count
    return {(log.site, log.station, log.log_id): log for log in found}


def _load(connection: sa.Connection, site: str, station: str, log_id: bytes) -> Log:
    where = (logs.c.site == site, logs.c.station == station, logs.c.log_id == log_id)
    columns = (logs.c.id, logs.c.head_seq, logs.c.head_link)
    row = connection.execute(sa.select(*columns).where(*where)).one_or_none()
    if row is None:
        new = {"site": site, "station": station, "log_id": log_id, "projected_seq": 0}
        head = {"head_seq": 0, "head_link": genesis(log_id)}
        row = connection.execute(logs.insert().values(new | head).returning(*columns)).one()
    waiting = connection.execute(
        sa.select(sa.func.count()).where(batches.c.log == row.id, batches.c.state == WAITING)
    ).scalar_one()
    return Log(row.id, site, station, log_id, row.head_seq, row.head_link, waiting)


class Group:
    """The batches of one commit. The usual one, which continues its log, costs no query."""

    def __init__(self, store: Store, connection: sa.Connection, now: int) -> None:
        self.store = store
        self.connection = connection
        self.now = now
        self._new: list[tuple] = []
        self._moved: dict[int, tuple[Log, int]] = {}  # and where its cursor was

    def flush(self) -> None:
        """Write what was put off."""
        insert(self.connection, batches, _COLUMNS, self._new)
        self._new = []
        if self._moved:
            heads = [
                {"key": log.id, "was": was, "seq": log.head_seq, "link": log.head_link}
                for log, was in sorted(self._moved.values(), key=lambda moved: moved[0].id)
            ]
            if self.connection.execute(_MOVE, heads).rowcount != len(heads):
                raise Stale
            self._moved = {}

    def ingest(self, batch: Batch, station: Station) -> Outcome:
        log = self.store.log(self.connection, batch.site, batch.station, batch.log_id)
        if batch.log_id not in station.logs:
            return self._quarantine(log, batch, "unknown_log")
        if station.logs[batch.log_id] is None:
            return self._quarantine(log, batch, "no_seal_key")
        kind = self._place(log, batch, station)
        if kind == "accepted":
            self._accept(log, batch)
            self._insert(log, batch, ACCEPTED)
            if log.waiting:
                self._promote(log, station)
        elif kind == "waiting":
            self._wait(log, batch)
        elif kind == "fork":
            return self._quarantine(log, batch, "fork")
        return Outcome(kind, log)

    def _place(self, log: Log, batch: Batch, station: Station) -> str:
        if batch.first == log.head_seq + 1:
            return "accepted" if batch.link_before in (None, log.head_link) else "fork"
        if batch.first > log.head_seq:
            return "accepted" if batch.follows <= log.head_seq else "waiting"
        # It overlaps: the link of the last common slot stands for everything before it.
        common = min(batch.last, log.head_seq)
        known = self._link_at(log, common, station)
        if known is not None and known != batch.link(common):
            return "fork"
        return "duplicate" if batch.last <= log.head_seq else "accepted"

    def _link_at(self, log: Log, seq: int, station: Station) -> bytes | None:
        if seq == log.head_seq:
            return log.head_link
        self.flush()
        return link_at(self.connection, log, seq, station)

    def _accept(self, log: Log, batch: Batch) -> None:
        if batch.first > log.head_seq + 1:
            lost = f"slots {log.head_seq + 1} to {batch.first - 1}"
            self._raise(log, "lost", log.head_seq + 1, lost)
        self._moved.setdefault(log.id, (log, log.head_seq))
        log.head_seq, log.head_link = batch.last, batch.link(batch.last)

    def _promote(self, log: Log, station: Station) -> None:
        # What waited beyond a gap may follow on now.
        self.flush()
        waiting = (batches.c.log == log.id, batches.c.state == WAITING)
        rows = self.connection.execute(
            sa.select(batches.c.id, batches.c.data).where(*waiting).order_by(batches.c.first_seq)
        ).all()
        for row in rows:
            batch = stored(row.data, station)
            kind = self._place(log, batch, station)
            this = sa.and_(batches.c.log == log.id, batches.c.id == row.id)
            if kind == "waiting":
                break
            log.waiting -= 1
            if kind == "accepted":
                self._accept(log, batch)
                self.connection.execute(batches.update().where(this).values(state=ACCEPTED))
            elif kind == "duplicate":
                self.connection.execute(batches.delete().where(this))
            else:
                self.connection.execute(batches.update().where(this).values(state=QUARANTINED))
                self._raise(log, "fork", batch.first, span(batch))

    def _wait(self, log: Log, batch: Batch) -> None:
        self.flush()
        same = (batches.c.log == log.id, batches.c.state == WAITING, batches.c.data == batch.data)
        known = self.connection.execute(sa.select(batches.c.id).where(*same)).first()
        if known is None and log.waiting < _WAITING_LIMIT:
            self._insert(log, batch, WAITING)
            log.waiting += 1

    def _quarantine(self, log: Log, batch: Batch, kind: str) -> Outcome:
        self.flush()
        same = (
            batches.c.log == log.id,
            batches.c.state == QUARANTINED,
            batches.c.last_seq == batch.last,
            batches.c.data == batch.data,
        )
        if self.connection.execute(sa.select(batches.c.id).where(*same)).first() is None:
            self._insert(log, batch, QUARANTINED)
        self._raise(log, kind, batch.first, span(batch))
        return Outcome("fork", log)

    def _insert(self, log: Log, batch: Batch, state: int) -> None:
        self._new.append((log.id, self.now, batch.first, batch.last, state, batch.data))

    def _raise(self, log: Log, kind: str, seq: int, detail: str) -> None:
        raise_exception(self.connection, log, kind, seq, detail, self.now)


def stored(data: bytes, station: Station) -> Batch:
    """A batch from the database; its signature was verified before it got there."""
    return read_batch(wire.peek_batch(data), data, station)


def link_at(connection: sa.Connection, log: Log, seq: int, station: Station) -> bytes | None:
    """The link of slot `seq` of the history; None for a slot that the station had lost."""
    row = connection.execute(
        sa.select(batches.c.data)
        .where(batches.c.log == log.id, batches.c.last_seq >= seq, batches.c.state == ACCEPTED)
        .order_by(batches.c.last_seq)
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    batch = stored(row.data, station)
    return batch.link(seq) if batch.first <= seq else None


def span(batch: Batch) -> str:
    """Which slots they are, for an operator."""
    return f"slots {batch.first} to {batch.last}, last link {batch.link(batch.last).hex()}"


def raise_exception(
    connection: sa.Connection,
    log: Log,
    kind: str,
    seq: int,
    detail: str,
    now: int,
    tx: int | None = None,
    again: bool = False,
) -> None:
    """Put something on the operator's list, once; with `again`, also if it was resolved."""
    values = {"station": log.station, "log": log.id, "kind": kind, "seq": seq, "detail": detail}
    same = [exceptions.c[name] == value for name, value in values.items()]
    if connection.execute(sa.select(exceptions.c.id).where(*same)).first() is None:
        connection.execute(exceptions.insert().values(**values, tx=tx, raised=now))
    elif again:
        connection.execute(exceptions.update().where(*same).values(resolved=None))


def close_billed(connection: sa.Connection, now: int, log: Log | None = None) -> None:
    """Resolve what kept transactions from being billed, where they are billed now."""
    kinds = [rule.flag for rule in policy.RULES if rule.blocks] + ["unterminated"]
    same = (bills.c.log == exceptions.c.log, bills.c.tx == exceptions.c.tx)
    which: list[sa.ColumnElement[bool]] = [exceptions.c.kind.in_(kinds), sa.exists().where(*same)]
    if log is not None:
        which.append(exceptions.c.log == log.id)
    _close(connection, now, "billed since", *which)


def close_agreed(connection: sa.Connection, now: int, log: Log, tx: int) -> None:
    """Resolve that the evidence of a transaction was another than its records."""
    mine = (exceptions.c.log == log.id, exceptions.c.tx == tx)
    _close(connection, now, "agrees since", exceptions.c.kind == "evidence_mismatch", *mine)


def _close(connection: sa.Connection, now: int, note: str, *which: sa.ColumnElement[bool]) -> None:
    change = exceptions.update().where(exceptions.c.resolved.is_(None), *which)
    connection.execute(change.values(resolved=now, note=note))


def reason(error: Exception) -> str:
    """An error in a line that the database can hold."""
    text = str(getattr(error, "orig", None) or error).partition("\n")[0]
    return f"{type(error).__name__}: {text}".replace("\0", "")[:200]


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
