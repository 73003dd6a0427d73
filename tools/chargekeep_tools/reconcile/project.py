"""Records, transactions, bills and exceptions from the stored batches.

A projection: the same batches give the same rows, whenever and in whatever pieces it runs. Each
record is applied in the order of its log; what is known of a transaction is collected (thinning
moves records), and it is billed at the record that completes it. A bill is never edited.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import sqlalchemy as sa

from chargekeep_tools import wire
from chargekeep_tools.reconcile import bill, policy
from chargekeep_tools.reconcile.schema import (
    ACCEPTED,
    adjustments,
    batches,
    bills,
    exceptions,
    logs,
    records,
    tariffs,
    transactions,
)
from chargekeep_tools.reconcile.store import Log, raise_exception, stored
from chargekeep_tools.reconcile.verify import Record, Stations

TX_STARTED, TX_UPDATED, TX_ENDED, CLOCK_SET, METER_SEGMENT = 2, 3, 4, 7, 11
_NEWEST_TYPE = 14
_STAMP = 4  # elements of a payload before its body: time, quality, boot id, uptime
_BATCHES = 200


class Books(Protocol):
    """What the operator knows that stations do not."""

    def tariffs(self, site: str) -> list[bill.Tariff]:
        """Every tariff that was signed for the site."""
        ...

    def issued(self, site: str, cti: bytes) -> bool:
        """Whether an entitlement with this id was issued for the site."""
        ...


class NoBooks:
    """Knows no tariff, and takes every token for issued."""

    def tariffs(self, site: str) -> list[bill.Tariff]:
        return []

    def issued(self, site: str, cti: bytes) -> bool:
        return True


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
        self.stations = stations
        self.books = books or NoBooks()
        self.clock = clock

    def run(self) -> int:
        """Project what is stored and not projected; returns how many records were new."""
        count = 0
        while True:
            with self.engine.begin() as connection:
                # SQLite takes its only write lock here, others a lock for each log: a second
                # reconciler on this database waits, and finds the work done.
                connection.execute(logs.update().where(logs.c.id < 0).values(projected_seq=0))
                behind = connection.execute(
                    sa.select(logs)
                    .where(logs.c.projected_seq < logs.c.head_seq)
                    .order_by(logs.c.id)
                    .limit(_BATCHES)
                    .with_for_update(skip_locked=True)
                ).all()
                for row in behind:
                    log = Log(row.id, row.site, row.station, row.log_id, 0, b"")
                    count += _Pass(self, connection, log).run(row.projected_seq)
            if not behind:
                return count

    def retry(self) -> int:
        """Bill what was blocked and is not any more; returns how many bills that made."""
        blocked = [rule.flag for rule in policy.RULES if rule.blocks]
        query = (
            sa.select(logs, transactions.c.tx)
            .join(transactions, transactions.c.log == logs.c.id)
            .join(
                exceptions,
                sa.and_(exceptions.c.log == logs.c.id, exceptions.c.tx == transactions.c.tx),
            )
            .outerjoin(bills, sa.and_(bills.c.log == logs.c.id, bills.c.tx == transactions.c.tx))
            .where(exceptions.c.kind.in_(blocked), bills.c.tx.is_(None))
            .order_by(logs.c.id, transactions.c.tx)
            .distinct()
        )
        count = 0
        with self.engine.begin() as connection:
            for row in connection.execute(query).all():
                log = Log(row.id, row.site, row.station, row.log_id, 0, b"")
                count += _Pass(self, connection, log).again(row.tx)
        return count

    def rebuild(self) -> int:
        """Forget every projected row and project all batches again."""
        with self.engine.begin() as connection:
            for table in (adjustments, bills, transactions, records):
                connection.execute(table.delete())
            connection.execute(logs.update().values(projected_seq=0))
        return self.run()


class _Pass:
    """The next batches of one log, in one transaction of the database."""

    def __init__(self, projector: Projector, connection: sa.Connection, log: Log) -> None:
        self.projector = projector
        self.connection = connection
        self.log = log
        self._rows: dict[int, dict[str, Any]] = {}  # transactions by id
        self._dirty: set[int] = set()
        self._new: list[dict[str, Any]] = []  # records not yet written
        # Of this log: (seq, old register, new register) and seqs, read when first needed
        self._segments: list[tuple[int, int, int]] | None = None
        self._clock_sets: list[int] | None = None

    def run(self, done: int) -> int:
        station = self.projector.stations.get(self.log.site, self.log.station)
        found = self.connection.execute(
            sa.select(batches.c.data, batches.c.last_seq)
            .where(
                batches.c.log == self.log.id,
                batches.c.state == ACCEPTED,
                batches.c.last_seq > done,
            )
            .order_by(batches.c.last_seq)
            .limit(_BATCHES)
        ).all()
        new: list[Record] = []
        for data, last_seq in found:
            if station is not None:
                new += [r for r in stored(data, station).records if r.at > done]
            done = last_seq
        known = self._known([r.seq for r in new if r.moved])
        count = 0
        for record in new:
            if record.seq not in known:
                self._apply(record)
                count += 1
                if record.moved:
                    known.add(record.seq)
        self._write()
        self.connection.execute(
            logs.update().where(logs.c.id == self.log.id).values(projected_seq=done)
        )
        return count

    def again(self, tx: int) -> bool:
        """Bill a transaction that was blocked; False if it still is."""
        row = self._row(tx)
        if row["started_seq"] is None or row["ended_seq"] is None:
            return False
        made = self._bill(row)
        self._write()
        return made

    def _known(self, moved: list[int]) -> set[int]:
        # What thinning took over has its old seq; usually it was here long ago.
        if not moved:
            return set()
        query = sa.select(records.c.seq).where(
            records.c.log == self.log.id, records.c.seq.in_(moved)
        )
        return {seq for (seq,) in self.connection.execute(query)}

    def _write(self) -> None:
        if self._new:
            self.connection.execute(records.insert(), self._new)
            self._new = []
        for tx in sorted(self._dirty):
            row = self._rows[tx]
            here = (transactions.c.log == self.log.id, transactions.c.tx == tx)
            if row.pop("is_new", False):
                self.connection.execute(transactions.insert().values(row))
            else:
                self.connection.execute(transactions.update().where(*here).values(row))
        self._dirty.clear()

    def _apply(self, record: Record) -> None:
        when, quality, boot, uptime = None, 0, 0, 0
        try:
            payload = wire.loads(record.payload)
            stamp, body = payload[:_STAMP], payload[_STAMP:]
            if [type(v) for v in stamp[1:]] != [int] * 3 or type(stamp[0]) not in (
                int,
                type(None),
            ):
                raise ValueError("no time stamp")
            when, quality, boot, uptime = stamp
            self._interpret(record, stamp, body)
        except (wire.WireError, ValueError, TypeError, IndexError, KeyError) as error:
            self._raise("unreadable", record.at, str(error))
        self._new.append(
            {
                "log": self.log.id,
                "seq": record.seq,
                "type": record.type,
                "time": when,
                "quality": quality,
                "boot": boot,
                "uptime": uptime,
                "payload": record.payload,
            }
        )

    def _interpret(self, record: Record, stamp: list[Any], body: list[Any]) -> None:
        kind, seq = record.type, record.seq
        if kind in (TX_STARTED, TX_UPDATED, TX_ENDED):
            self._transaction(record, stamp, body)
        elif kind == METER_SEGMENT:
            self._read_segments().append((seq, int(body[0]), int(body[1])))
        elif kind == CLOCK_SET:
            self._read_clock_sets().append(seq)
        elif kind > _NEWEST_TYPE:
            self._raise("unknown_record", record.at, f"type {kind}")

    # Transactions

    def _transaction(self, record: Record, stamp: list[Any], body: list[Any]) -> None:
        when, _, boot, uptime = stamp
        row = self._row(int(body[0]))
        if record.type == TX_STARTED:
            _, evse, connector, id_token, cti, kid, register, tariff, version = body[:9]
            row.update(
                evse=evse,
                connector=connector,
                id_token=id_token,
                cti=cti,
                kid=kid,
                tariff=tariff,
                tariff_version=version,
                max_wh=body[9],
                max_s=body[10],
                started_seq=record.seq,
                started_time=when,
                started_boot=boot,
                started_uptime=uptime,
                register_start=register,
            )
            self._left_open(record, row)
        elif record.type == TX_UPDATED:
            _, seq_no, _, register, _ = body[:5]
            if row["ended_seq"] is None and seq_no >= row["seq_no"]:
                row.update(seq_no=seq_no, register_last=register)
        else:
            _, seq_no, _, reason, register = body[:5]
            if row["ended_seq"] is not None and record.seq < row["ended_seq"]:
                return  # an older end that comes late says nothing new
            row.update(
                seq_no=seq_no,
                stopped_reason=reason,
                register_last=register,
                ended_seq=record.seq,
                ended_time=when,
                ended_boot=boot,
                ended_uptime=uptime,
            )
        self._dirty.add(row["tx"])
        if row["started_seq"] is not None and row["ended_seq"] is not None:
            self._bill(row, record)

    def _row(self, tx: int) -> dict[str, Any]:
        row = self._rows.get(tx)
        if row is None:
            here = (transactions.c.log == self.log.id, transactions.c.tx == tx)
            query = sa.select(transactions).where(*here)
            found = self.connection.execute(query).mappings().one_or_none()
            if found is not None:
                row = dict(found)
            else:
                row = dict.fromkeys(transactions.columns.keys())
                row.update(log=self.log.id, tx=tx, seq_no=0, flags="", is_new=True)
            self._rows[tx] = row
        return row

    def _left_open(self, record: Record, row: dict[str, Any]) -> None:
        before = self._row(row["tx"] - 1) if row["tx"] > 1 else None
        if (
            before is not None
            and before["started_seq"] is not None
            and before["ended_seq"] is None
            and before["evse"] == row["evse"]
        ):
            self._raise(
                "unterminated", before["started_seq"], f"transaction {before['tx']}", before
            )

    # Bills

    def _bill(self, row: dict[str, Any], record: Record | None = None) -> bool:
        here = (bills.c.log == self.log.id, bills.c.tx == row["tx"])
        made = self.connection.execute(sa.select(bills).where(*here)).mappings().one_or_none()
        priced = self._price(row, made is not None)
        if priced is None:
            return False
        if made is None:
            self.connection.execute(bills.insert().values(priced))
            row["flags"] = priced["flags"]
            self._dirty.add(row["tx"])
        elif record is not None:
            self._adjust(row, made, priced, record)
        return made is None

    def _price(self, row: dict[str, Any], billed: bool) -> dict[str, Any] | None:
        """The values of a bill; None where a rule blocks it."""
        tx, seq = row["tx"], row["ended_seq"]
        start, end = row["register_start"], row["register_last"]
        if start is None or end is None:
            return self._raise("no_register", seq, f"transaction {tx}", row)
        tariff, newer = self._tariff(row)
        if tariff is None:
            named = f"tariff {row['tariff']} version {row['tariff_version']}"
            return self._raise("unknown_tariff", seq, named, row)
        inside = [s for s in self._read_segments() if row["started_seq"] < s[0] < seq]
        energy_wh = end - start + sum(old - new for _, old, new in inside)
        if energy_wh < 0:
            return self._raise("register_decreased", seq, f"{energy_wh} Wh", row)
        segment = sum(s[0] < row["started_seq"] for s in self._read_segments())
        if not billed:
            other = self._overlapping(row, segment, end if not inside else inside[0][1])
            if other is not None:
                detail = f"transaction {other} has Wh of transaction {tx}"
                return self._raise("double_energy", seq, detail, row)
            if not self._issued(row):
                return None
        clock_sets = sum(row["started_seq"] < s < seq for s in self._read_clock_sets())
        flags = policy.flags(row, energy_wh, clock_sets, len(inside), newer)
        for flag in flags:
            if policy.BY_FLAG[flag].raises:
                self._raise(flag, seq, f"transaction {tx}", row)
        amounts = bill.price(tariff, energy_wh, policy.duration(row) or 0)
        return {
            "log": self.log.id,
            "tx": tx,
            "evse": row["evse"],
            "segment": segment,
            "register_from": start,
            "register_to": end,
            "energy_wh": energy_wh,
            "seconds": policy.duration(row) or 0,
            "currency": tariff.currency,
            "energy_amount": amounts.energy,
            "time_amount": amounts.time,
            "start_amount": amounts.start,
            "total": amounts.total,
            "flags": ",".join(sorted(flags)),
        }

    def _adjust(
        self, row: dict[str, Any], made: Any, priced: dict[str, Any], record: Record
    ) -> None:
        here = (adjustments.c.log == self.log.id, adjustments.c.tx == row["tx"])
        total = sa.func.coalesce(sa.func.sum(adjustments.c.total), 0)
        energy = sa.func.coalesce(sa.func.sum(adjustments.c.energy_wh), 0)
        so_far = self.connection.execute(sa.select(energy, total).where(*here)).one()
        energy_wh = priced["energy_wh"] - made["energy_wh"] - int(so_far[0])
        amount = priced["total"] - made["total"] - int(so_far[1])
        if energy_wh or amount:
            self.connection.execute(
                adjustments.insert().values(
                    log=self.log.id,
                    tx=row["tx"],
                    seq=record.at,
                    energy_wh=energy_wh,
                    total=amount,
                )
            )
            self._raise("late", record.at, f"transaction {row['tx']}: {energy_wh} Wh", row)

    def _overlapping(self, row: dict[str, Any], segment: int, end: int) -> int | None:
        """A billed transaction of the same meter segment that has some of the Wh."""
        query = sa.select(bills.c.tx).where(
            bills.c.log == self.log.id,
            bills.c.evse == row["evse"],
            bills.c.segment == segment,
            bills.c.register_from < bills.c.register_to,
            bills.c.register_from < end,
            bills.c.register_to > row["register_start"],
        )
        return self.connection.execute(query.order_by(bills.c.tx).limit(1)).scalar()

    def _issued(self, row: dict[str, Any]) -> bool:
        if row["cti"] is None or self.projector.books.issued(self.log.site, row["cti"]):
            return True
        detail = f"entitlement {row['cti'].hex()}"
        self._raise("unknown_token", row["ended_seq"], detail, row)
        same = (
            exceptions.c.log == self.log.id,
            exceptions.c.kind == "unknown_token",
            exceptions.c.tx == row["tx"],
        )
        query = sa.select(exceptions.c.resolved).where(*same)
        return self.connection.execute(query).scalar() is not None

    def _tariff(self, row: dict[str, Any]) -> tuple[bill.Tariff | None, bool]:
        """The tariff that was frozen at the start, and whether a newer one was in force then."""
        same = (tariffs.c.site == self.log.site, tariffs.c.tariff == row["tariff"])
        query = sa.select(tariffs).where(*same)
        known = {t["version"]: bill.Tariff(**t) for t in self.connection.execute(query).mappings()}
        for tariff in self.projector.books.tariffs(self.log.site):
            # Kept: a bill must not depend on files that may go.
            if tariff.tariff == row["tariff"] and tariff.version not in known:
                known[tariff.version] = tariff
                self.connection.execute(tariffs.insert().values(vars(tariff)))
        version, started = row["tariff_version"], row["started_time"]
        newer = started is not None and any(
            t.version > version and t.issued <= started for t in known.values()
        )
        return known.get(version), newer

    def _read_segments(self) -> list[tuple[int, int, int]]:
        if self._segments is None:
            query = sa.select(records.c.seq, records.c.payload).where(
                records.c.log == self.log.id, records.c.type == METER_SEGMENT
            )
            self._segments = [
                (seq, *wire.loads(payload)[_STAMP : _STAMP + 2])
                for seq, payload in self.connection.execute(query.order_by(records.c.seq))
            ]
        return self._segments

    def _read_clock_sets(self) -> list[int]:
        if self._clock_sets is None:
            query = sa.select(records.c.seq).where(
                records.c.log == self.log.id, records.c.type == CLOCK_SET
            )
            self._clock_sets = [seq for (seq,) in self.connection.execute(query)]
        return self._clock_sets

    def _raise(self, kind: str, seq: int, detail: str, row: dict[str, Any] | None = None) -> None:
        now = int(self.projector.clock())
        tx = None if row is None else row["tx"]
        raise_exception(self.connection, self.log, kind, seq, detail, now, tx)


def open_exceptions(connection: sa.Connection) -> int:
    """How many exceptions wait for an operator."""
    query = sa.select(sa.func.count()).where(exceptions.c.resolved.is_(None))
    return connection.execute(query).scalar_one()
