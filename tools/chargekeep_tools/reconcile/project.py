"""Records, transactions, bills and exceptions from the stored batches.

A projection: the same batches give the same rows whenever and in whatever pieces it runs. What is
known of a transaction is collected in any order (thinning moves records) and billed once its
start and its end are there; nothing that was billed is ever edited.
"""

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from chargekeep_tools import wire
from chargekeep_tools.reconcile import bill
from chargekeep_tools.reconcile.schema import (
    ACCEPTED,
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

TX_STARTED, TX_UPDATED, TX_ENDED, METER_SEGMENT = 2, 3, 4, 11
_STAMP = 4  # elements of a payload before its body: time, quality, boot id, uptime
_BATCHES = 200

TariffFor = Callable[[str, int, int], bill.Tariff | None]
"""`(site, tariff id, version)` to the tariff that an operator has signed, or None."""


class Projector:
    """Brings the tables up to the logs' cursors."""

    def __init__(
        self, engine: sa.Engine, stations: Stations, tariff_for: TariffFor | None = None
    ) -> None:
        self.engine = engine
        self.stations = stations
        self.tariff_for = tariff_for or (lambda site, tariff, version: None)

    def run(self) -> int:
        """Project what is stored and not projected; returns how many records were new."""
        count = 0
        while True:
            with self.engine.begin() as connection:
                behind = connection.execute(
                    sa.select(logs).where(logs.c.projected_seq < logs.c.head_seq).limit(_BATCHES)
                ).all()
                for row in behind:
                    count += self._log(connection, row)
            if not behind:
                return count

    def rebuild(self) -> int:
        """Forget every projected row and project all batches again."""
        with self.engine.begin() as connection:
            for table in (bills, transactions, records):
                connection.execute(table.delete())
            connection.execute(logs.update().values(projected_seq=0))
        return self.run()

    def _log(self, connection: sa.Connection, row: Any) -> int:
        log = Log(row.id, row.site, row.station, row.log_id, row.head_seq, row.head_link)
        station = self.stations.get(log.site, log.station)
        found = connection.execute(
            sa.select(batches.c.data, batches.c.last_seq)
            .where(
                batches.c.log == log.id,
                batches.c.state == ACCEPTED,
                batches.c.last_seq > row.projected_seq,
            )
            .order_by(batches.c.last_seq)
            .limit(_BATCHES)
        ).all()
        new = []
        done = row.projected_seq
        for data, last_seq in found:
            if station is not None:
                new += [r for r in stored(data, station).records if r.seq > done or r.moved]
            done = last_seq
        self._records(connection, log, new)
        connection.execute(logs.update().where(logs.c.id == log.id).values(projected_seq=done))
        return len(new)

    def _records(self, connection: sa.Connection, log: Log, new: list[Record]) -> None:
        moved = [r.seq for r in new if r.moved]
        known: set[int] = set()
        if moved:
            rows = connection.execute(
                sa.select(records.c.seq).where(records.c.log == log.id, records.c.seq.in_(moved))
            )
            known = {seq for (seq,) in rows}
        rows = []
        changed: dict[int, dict[str, Any]] = {}
        for record in new:
            if record.seq in known:
                continue
            known.add(record.seq)
            try:
                payload = wire.loads(record.payload)
                when, quality, boot, uptime = payload[:_STAMP]
                self._transaction(connection, log, record, payload, changed)
            except (wire.WireError, ValueError, TypeError, IndexError, KeyError) as error:
                # Evidence that nobody can read is kept and shown, and stops nothing.
                self._raise(connection, log, "unreadable", record.seq, str(error))
                when, quality, boot, uptime = None, 0, 0, 0
            rows.append(
                {
                    "log": log.id,
                    "seq": record.seq,
                    "type": record.type,
                    "time": when,
                    "quality": quality,
                    "boot": boot,
                    "uptime": uptime,
                    "payload": record.payload,
                }
            )
        if rows:
            connection.execute(records.insert(), rows)
        for row in changed.values():
            self._save(connection, row)
            if row["started_seq"] is not None and row["ended_seq"] is not None:
                self._bill(connection, log, row)

    # Transactions

    def _transaction(
        self,
        connection: sa.Connection,
        log: Log,
        record: Record,
        payload: list[Any],
        changed: dict[int, dict[str, Any]],
    ) -> None:
        if record.type not in (TX_STARTED, TX_UPDATED, TX_ENDED):
            return
        when, _, boot, uptime = payload[:_STAMP]
        body = payload[_STAMP:]
        tx = body[0]
        row = changed.get(tx)
        if row is None:
            row = changed[tx] = self._load(connection, log, tx)
        if record.type == TX_STARTED:
            (_, evse, connector, id_token, cti, kid, register, tariff, version) = body[:9]
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
        elif record.type == TX_UPDATED:
            _, seq_no, _, register, _ = body[:5]
            if seq_no >= row["seq_no"]:
                row.update(seq_no=seq_no, register_last=register)
        else:
            _, seq_no, _, reason, register = body[:5]
            row.update(
                seq_no=seq_no,
                stopped_reason=reason,
                register_last=register,
                ended_seq=record.seq,
                ended_time=when,
                ended_boot=boot,
                ended_uptime=uptime,
            )

    def _load(self, connection: sa.Connection, log: Log, tx: int) -> dict[str, Any]:
        here = (transactions.c.log == log.id, transactions.c.tx == tx)
        row = connection.execute(sa.select(transactions).where(*here)).mappings().one_or_none()
        if row is not None:
            return dict(row)
        empty = {column.name: None for column in transactions.columns}
        return empty | {"log": log.id, "tx": tx, "seq_no": 0, "flags": ""}

    def _save(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        here = (transactions.c.log == row["log"], transactions.c.tx == row["tx"])
        if connection.execute(sa.select(transactions.c.tx).where(*here)).first() is None:
            connection.execute(transactions.insert().values(row))
        else:
            connection.execute(transactions.update().where(*here).values(row))

    # Bills

    def _bill(self, connection: sa.Connection, log: Log, row: dict[str, Any]) -> None:
        tx, seq = row["tx"], row["ended_seq"]
        here = (bills.c.log == log.id, bills.c.tx == tx)
        if connection.execute(sa.select(bills.c.tx).where(*here)).first() is not None:
            return
        if row["register_start"] is None or row["register_last"] is None:
            return self._raise(connection, log, "no_register", seq, f"transaction {tx}", tx)
        tariff = self._tariff(connection, log.site, row["tariff"], row["tariff_version"])
        if tariff is None:
            named = f"tariff {row['tariff']} version {row['tariff_version']}"
            return self._raise(connection, log, "unknown_tariff", seq, named, tx)
        segment, energy_wh = self._energy(connection, log, row)
        if energy_wh < 0:
            return self._raise(connection, log, "register_decreased", seq, f"{energy_wh} Wh", tx)
        other = self._overlapping(connection, log, row, segment)
        if other is not None:
            detail = f"transaction {other} has Wh of transaction {tx}"
            return self._raise(connection, log, "double_energy", seq, detail, tx)
        flags = []
        seconds = _seconds(row)
        if seconds is None:
            seconds = 0
            flags.append("duration_unknown")
        amounts = bill.price(tariff, energy_wh, seconds)
        connection.execute(
            bills.insert().values(
                log=log.id,
                tx=tx,
                evse=row["evse"],
                segment=segment,
                register_from=row["register_start"],
                register_to=row["register_last"],
                energy_wh=energy_wh,
                seconds=seconds,
                currency=tariff.currency,
                energy_amount=amounts.energy,
                time_amount=amounts.time,
                start_amount=amounts.start,
                total=amounts.total,
                flags=",".join(flags),
            )
        )

    def _energy(self, connection: sa.Connection, log: Log, row: dict[str, Any]) -> tuple[int, int]:
        """(segments of the meter before the start, Wh), across resets and exchanges."""
        found = connection.execute(
            sa.select(records.c.seq, records.c.payload)
            .where(records.c.log == log.id, records.c.type == METER_SEGMENT)
            .where(records.c.seq < row["ended_seq"])
            .order_by(records.c.seq)
        )
        before, energy_wh, start = 0, 0, row["register_start"]
        for seq, payload in found:
            if seq < row["started_seq"]:
                before += 1
                continue
            old, new = wire.loads(payload)[_STAMP : _STAMP + 2]
            energy_wh += old - start
            start = new
        return before, energy_wh + row["register_last"] - start

    def _overlapping(
        self, connection: sa.Connection, log: Log, row: dict[str, Any], segment: int
    ) -> int | None:
        start, end = row["register_start"], row["register_last"]
        same = (
            bills.c.log == log.id,
            bills.c.evse == row["evse"],
            bills.c.segment == segment,
            bills.c.register_from < bills.c.register_to,
        )
        return connection.execute(
            sa.select(bills.c.tx).where(
                *same, bills.c.register_from < end, bills.c.register_to > start
            )
        ).scalar()

    def _tariff(
        self, connection: sa.Connection, site: str, tariff: int, version: int
    ) -> bill.Tariff | None:
        key = {"site": site, "tariff": tariff, "version": version}
        same = [tariffs.c[name] == value for name, value in key.items()]
        row = connection.execute(sa.select(tariffs).where(*same)).mappings().one_or_none()
        if row is not None:
            return bill.Tariff(**row)
        found = self.tariff_for(site, tariff, version)
        if found is not None:  # kept: a bill must not depend on files that may go
            connection.execute(tariffs.insert().values(vars(found)))
        return found

    def _raise(
        self,
        connection: sa.Connection,
        log: Log,
        kind: str,
        seq: int,
        detail: str,
        tx: int | None = None,
    ) -> None:
        raise_exception(connection, log, kind, seq, detail, int(time.time()), tx)


def _seconds(row: dict[str, Any]) -> int | None:
    """How long it took: by the uptime of one boot, else by the clock, else unknown."""
    if row["started_boot"] == row["ended_boot"]:
        return row["ended_uptime"] - row["started_uptime"]
    if row["started_time"] is not None and row["ended_time"] is not None:
        return max(0, row["ended_time"] - row["started_time"])
    return None


def open_exceptions(connection: sa.Connection) -> int:
    """How many exceptions wait for an operator."""
    query = sa.select(sa.func.count()).where(exceptions.c.resolved.is_(None))
    return connection.execute(query).scalar_one()
