"""Records, transactions, bills and exceptions from the stored batches.

A projection: the same batches give the same rows, whenever and in whatever pieces it runs. What a
record does is in apply.py.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby

import sqlalchemy as sa

from chargekeep_tools.reconcile import policy
from chargekeep_tools.reconcile.apply import Knows, Pass
from chargekeep_tools.reconcile.books import Books, NoBooks
from chargekeep_tools.reconcile.database import passes
from chargekeep_tools.reconcile.rows import Rows
from chargekeep_tools.reconcile.schema import (
    ACCEPTED,
    adjustments,
    batches,
    bills,
    exceptions,
    logs,
    records,
    transactions,
)
from chargekeep_tools.reconcile.store import Log, close_billed, raise_exception, reason
from chargekeep_tools.reconcile.verify import Stations

_LOGS = _BATCHES = 2000  # of one commit at most
_PROJECTED = (
    logs.update()
    .where(logs.c.id == sa.bindparam("key"))
    .values(projected_seq=sa.bindparam("seq"), unsettled=sa.bindparam("more"))
)
_LEFT = sa.select(exceptions.c.log).where(
    exceptions.c.kind == "unprojected",
    exceptions.c.resolved.is_(None),
    exceptions.c.log.is_not(None),
)
_UNBLOCKED = ("unknown_token", "unknown_tariff")  # by something outside
_UNBLOCK_EVERY_S = 30.0


def _same(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.log == transactions.c.log, table.c.tx == transactions.c.tx)


class Projector:
    """Brings the tables up to the logs' cursors."""

    def __init__(
        self,
        engine: sa.Engine,
        stations: Stations,
        books: Books | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine = engine
        self.knows = Knows(stations, books or NoBooks(), clock)
        self._log: Log | None = None  # the one at work
        self._unblock_at = 0.0

    def run(self, seconds: float | None = None) -> int:
        """Project what is stored and not projected; returns how many records were new.

        Stops early after about `seconds`. A log that cannot be projected is left for an operator
        (rule `unprojected`); raises what may pass by itself, as a lost database.
        """
        count, at_once = 0, _LOGS
        give_up = None if seconds is None else time.monotonic() + seconds
        while give_up is None or time.monotonic() < give_up:
            try:
                found = self._slice(at_once)
            except Exception as error:
                if passes(error):
                    raise
                if at_once == 1:
                    self._leave(error)
                at_once = 1  # whose fault is it?
                continue
            if found is None:
                break
            count += found
        if time.monotonic() >= self._unblock_at:
            self.retry(every=False)
            self._unblock_at = time.monotonic() + _UNBLOCK_EVERY_S
        return count

    def _slice(self, most: int) -> int | None:
        """Some batches of up to `most` logs in one commit; None if no log is behind."""
        self._log = None
        with self.engine.begin() as connection:
            which = sa.and_(logs.c.projected_seq < logs.c.head_seq, logs.c.id.not_in(_LEFT))
            behind = self._lock(connection, which, most)
            if not behind:
                return None
            by_id = {row.id: row for row in behind}
            found = connection.execute(
                sa.select(batches.c.log, batches.c.data, batches.c.first_seq, batches.c.last_seq)
                .join(logs, logs.c.id == batches.c.log)
                .where(
                    batches.c.log.in_(list(by_id)),
                    batches.c.state == ACCEPTED,
                    batches.c.last_seq > logs.c.projected_seq,
                )
                .order_by(batches.c.log, batches.c.last_seq)
                .limit(_BATCHES)
            ).all()
            rows = Rows(connection)
            count, cursors = 0, []
            for key, mine in groupby(found, lambda batch: batch.log):
                row = by_id[key]
                self._log = Log(row.id, row.site, row.station, row.log_id, row.projected_seq, b"")
                one = Pass(self.knows, rows, self._log, row.unsettled)
                count += one.run([batch[1:] for batch in mine])
                cursors.append({"key": key, "seq": one.done, "more": one.unsettled})
            rows.write()
            connection.execute(_PROJECTED, cursors)
            return count

    def _lock(
        self, connection: sa.Connection, which: sa.ColumnElement[bool], most: int
    ) -> Sequence[sa.Row]:
        """Up to `most` logs, for this connection alone.

        SQLite takes its only write lock here, others one for each log: a second reconciler on
        this database waits, or leaves them out, and finds the work done.
        """
        connection.execute(logs.update().where(logs.c.id < 0).values(projected_seq=0))
        query = sa.select(logs).where(which).order_by(logs.c.id).limit(most)
        return connection.execute(query.with_for_update(skip_locked=True)).all()

    def _leave(self, error: Exception) -> None:
        """Take the log at work out of turn until its exception is resolved."""
        log = self._log
        if log is None:
            raise error
        with self.engine.begin() as connection:
            what = reason(error)
            seq, now = log.head_seq + 1, int(self.knows.clock())
            raise_exception(connection, log, "unprojected", seq, what, now, again=True)

    def retry(self, every: bool = True) -> int:
        """Bill what was blocked and is not any more; returns how many bills that made.

        Without `every`, only what an operator has resolved or a new tariff allows. Raises what
        may pass by itself.
        """
        kinds = [rule.flag for rule in policy.RULES if rule.blocks] if every else _UNBLOCKED
        query = (
            sa.select(logs, transactions, exceptions.c.kind, exceptions.c.resolved)
            .join(transactions, transactions.c.log == logs.c.id)
            .join(exceptions, _same(exceptions))
            .outerjoin(bills, _same(bills))
            .where(exceptions.c.kind.in_(kinds), bills.c.tx.is_(None), logs.c.id.not_in(_LEFT))
            .order_by(logs.c.id, transactions.c.tx)
        )
        known = cache(self._tariffs)
        with self.engine.connect() as connection:
            found = [
                row
                for row in connection.execute(query)
                if every
                or (row.kind == "unknown_token" and row.resolved is not None)
                or (
                    row.kind == "unknown_tariff"
                    and (row.tariff, row.tariff_version) in known(row.site)
                )
            ]
        count = 0
        for _, mine in groupby(found, lambda row: row.id):
            first, *_ = rows = list(mine)
            self._log = Log(first.id, first.site, first.station, first.log_id, 0, b"")
            try:
                count += self._again(self._log, sorted({row.tx for row in rows}))
            except Exception as error:
                if passes(error):
                    raise
                self._leave(error)
        return count

    def _tariffs(self, site: str) -> set[tuple[int, int]]:
        return {(t.tariff, t.version) for t in self.knows.books.tariffs(site)}

    def _again(self, log: Log, txs: list[int]) -> int:
        with self.engine.begin() as connection:
            if not self._lock(connection, logs.c.id == log.id, 1):
                return 0  # another reconciler is at it
            rows = Rows(connection)
            one = Pass(self.knows, rows, log)
            count = sum(one.again(tx) for tx in txs)
            rows.write()
            close_billed(connection, int(self.knows.clock()), log)
        return count

    def take_up(self, note: str) -> None:
        """Have another go at the logs that could not be projected."""
        left = (exceptions.c.kind == "unprojected", exceptions.c.resolved.is_(None))
        with self.engine.begin() as connection:
            values = {"resolved": int(self.knows.clock()), "note": note}
            connection.execute(exceptions.update().where(*left).values(values))

    def rebuild(self) -> int:
        """Forget every projected row and project all batches again."""
        with self.engine.begin() as connection:
            for table in (adjustments, bills, transactions, records):
                connection.execute(table.delete())
            connection.execute(logs.update().values(projected_seq=0, unsettled=False))
        self.take_up("rebuilt")
        return self.run()


def open_exceptions(connection: sa.Connection) -> int:
    """How many exceptions wait for an operator."""
    query = sa.select(sa.func.count()).where(exceptions.c.resolved.is_(None))
    return connection.execute(query).scalar_one()
