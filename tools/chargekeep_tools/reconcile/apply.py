"""A log's records, applied in their order: transactions, bills, and what an operator is asked.

What is known of a transaction is collected, and it is billed at the record that completes it; if
thinning moved that one, once what was moved with it is there. A bill is never edited.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from chargekeep_tools import wire
from chargekeep_tools.reconcile import bill, policy
from chargekeep_tools.reconcile.attest import differences, sealed_in
from chargekeep_tools.reconcile.books import Books
from chargekeep_tools.reconcile.payload import (
    CLOCK_SET,
    EVIDENCE,
    HEAD,
    INTERPRETED,
    METER_SEGMENT,
    NEWEST_TYPE,
    THINNED,
    TX_ENDED,
    TX_STARTED,
    TX_UPDATED,
    read,
    readable,
)
from chargekeep_tools.reconcile.rows import Rows
from chargekeep_tools.reconcile.schema import (
    adjustments,
    bills,
    exceptions,
    records,
    transactions,
)
from chargekeep_tools.reconcile.store import (
    Log,
    close_agreed,
    close_billed,
    link_at,
    raise_exception,
    stored,
)
from chargekeep_tools.reconcile.verify import (
    Record,
    Station,
    Stations,
    head_message,
    records_of,
)

_ALL = 1 << 62  # above every id


@dataclass
class Knows:
    """What records are judged by."""

    stations: Stations
    books: Books
    clock: Callable[[], float]


class Pass:
    """The next batches of one log."""

    def __init__(self, knows: Knows, rows: Rows, log: Log, unsettled: bool = False) -> None:
        self.knows = knows
        self.rows = rows
        self.connection = rows.connection
        self.log = log
        self.done = log.head_seq
        self.unsettled = unsettled  # records that thinning moved came, and more may follow
        self._known: dict[int, dict[str, Any]] = {}  # transactions by id
        self._from: int | None = None  # the id from which all are known
        self._batch: tuple[bytes, int, int] = (b"", 0, -1)  # data, first and last slot
        # Of this log: (seq, old register, new register) and seqs, read when first needed
        self._segments: list[tuple[int, int, int]] | None = None
        self._clock_sets: list[int] | None = None

    def run(self, found: Iterable[tuple[bytes, int, int]]) -> int:
        """Apply the records of batches `(data, first slot, last slot)`; how many were new."""
        count = 0
        for self._batch in found:
            new = [r for r in records_of(self._batch[0]) if r.at > self.done]
            self.done = self._batch[2]
            known = self._stored([r.seq for r in new if r.moved])
            for record in new:
                if record.seq not in known:
                    if self.unsettled and not record.moved and record.type != THINNED:
                        self._settle()
                    self._apply(record)
                    known.add(record.seq)
                    count += 1
        return count

    def again(self, tx: int) -> bool:
        """Bill a transaction that was blocked; False if it still is."""
        row = self._row(tx)
        return _complete(row) and self._bill(row)

    def _stored(self, moved: list[int]) -> set[int]:
        # What thinning took over has its old seq; usually it was here long ago.
        if not moved:
            return set()
        query = sa.select(records.c.seq).where(
            records.c.log == self.log.id, records.c.seq.in_(moved)
        )
        here = {row[1] for row in self.rows.records if row[0] == self.log.id}
        return here | {seq for (seq,) in self.connection.execute(query)}

    def _apply(self, record: Record) -> None:
        stamp: list[Any] = [None, 0, 0, 0]
        try:
            stamp, body = read(record.type, record.payload)
            if record.type in INTERPRETED:
                self._interpret(record, stamp, body)
            elif record.type > NEWEST_TYPE:
                self._raise("unknown_record", record.at, f"type {record.type}")
        except ValueError as error:
            self._raise("unreadable", record.at, str(error))
        kind, data = record.type, record.payload
        self.rows.records.append((self.log.id, record.seq, kind, *stamp, data))

    def _interpret(self, record: Record, stamp: list[Any], body: list[Any]) -> None:
        kind, seq = record.type, record.seq
        if kind in (TX_STARTED, TX_UPDATED, TX_ENDED):
            self._transaction(record, stamp, body)
        elif kind == METER_SEGMENT:
            insort(self._read_segments(), (seq, body[0], body[1]))
            if record.moved:
                self._late_segment(record)
        elif kind == CLOCK_SET:
            self._read_clock_sets().append(seq)
        elif kind == HEAD:
            self._head(record, *body[:3])
        elif kind == EVIDENCE:
            self._evidence(record, *body[:2])

    def _head(self, record: Record, seq: int, link: bytes, signature: bytes) -> None:
        """A head must be signed by the station, and be the chain's."""
        if not 0 < seq < 1 << 32:
            raise ValueError("no slot")
        station = self.knows.stations.get(self.log.site, self.log.station)
        message = head_message(self.log.log_id, seq, link)
        if station is None:
            return  # no record of it in this home any more: nothing to check by
        if not any(wire.verify(key, message, signature) for key in station.keys.values()):
            self._raise("bad_head", record.at, f"slot {seq}: the signature is not the station's")
        elif seq >= record.at or self._link_at(seq, station) not in (link, None):
            self._raise("bad_head", record.at, f"slot {seq}: signed for link {link.hex()}")

    def _link_at(self, seq: int, station: Station) -> bytes | None:
        data, first, last = self._batch
        if not first <= seq + 1 <= last + 1:
            return link_at(self.connection, self.log, seq, station)
        batch = stored(data, station)
        return batch.link(seq) if seq >= batch.first else batch.link_before

    # Transactions

    def _transaction(self, record: Record, stamp: list[Any], body: list[Any]) -> None:
        when, _, boot, uptime = stamp
        row = self._row(body[0])
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
        self._keep(row)
        if _complete(row):
            if record.moved and self._made(row) is None:
                self.unsettled = True
            else:
                self._bill(row, record)
                self._attest(row)

    def _keep(self, row: dict[str, Any]) -> None:
        self.rows.transactions[self.log.id, row["tx"]] = row

    def _row(self, tx: int) -> dict[str, Any]:
        if tx not in self._known and (self._from is None or tx < self._from):
            # Ids rise: what comes after the first one that is asked for is read with it.
            first = max(tx - 1, 0) if self._from is None else tx
            query = sa.select(transactions).where(
                transactions.c.log == self.log.id,
                transactions.c.tx >= first,
                transactions.c.tx <= (_ALL if self._from is None else tx),
            )
            for found in self.connection.execute(query).mappings():
                self._known[found["tx"]] = dict(found)
            self._from = first if self._from is None else self._from
        row = self._known.get(tx)
        if row is None:
            row = dict.fromkeys(transactions.columns.keys())
            row.update(log=self.log.id, tx=tx, seq_no=0, flags="", is_new=True)
            self._known[tx] = row
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

    # Evidence

    def _evidence(self, record: Record, tx: int, sealed: bytes) -> None:
        row = self._row(tx)
        row["evidence_seq"] = record.seq
        self._keep(row)
        self._attest(row, sealed)

    def _attest(self, row: dict[str, Any], sealed: bytes = b"") -> None:
        """What the station signed about a transaction must be what its records say."""
        station = self.knows.stations.get(self.log.site, self.log.station)
        if station is None or row["evidence_seq"] is None:
            return
        again = not sealed
        if again:
            self.rows.write()
            sealed = sealed_in(self.connection, self.log.id, row["evidence_seq"])
        energy_wh = self._energy(row)[0] if _complete(row) else None
        detail = differences(sealed, station, self.log, row, energy_wh)
        if detail:
            self._raise("evidence_mismatch", row["evidence_seq"], detail, row)
        elif again:
            close_agreed(self.connection, self._now(), self.log, row["tx"])

    # What thinning moved. Its records are old ones, and come behind newer ones: the segment of a
    # transaction, say, after its end. They come many at once, so what they complete is billed
    # when the last of them is there.

    def _late_segment(self, record: Record) -> None:
        self.unsettled = True
        self.rows.write()
        here, seq = transactions.c.log == self.log.id, record.seq
        after = sa.select(transactions.c.tx).where(here, transactions.c.started_seq > seq)
        mine = bills.update().where(bills.c.log == self.log.id)
        # One more each; in two steps, since each step of it must be unique
        step = mine.where(bills.c.tx.in_(after)).values(segment=-2 - bills.c.segment)
        self.connection.execute(step)
        step = mine.where(bills.c.segment < 0).values(segment=-1 - bills.c.segment)
        self.connection.execute(step)
        around = here, transactions.c.started_seq < seq, transactions.c.ended_seq > seq
        for tx in self.connection.scalars(sa.select(transactions.c.tx).where(*around)).all():
            row = self._row(tx)
            if self._made(row) is not None:
                self._bill(row, record)
                self._attest(row)

    def _settle(self) -> None:
        self.unsettled = False
        self.rows.write()
        query = (
            sa.select(transactions.c.tx)
            .outerjoin(
                bills, sa.and_(bills.c.log == transactions.c.log, bills.c.tx == transactions.c.tx)
            )
            .where(
                transactions.c.log == self.log.id,
                transactions.c.started_seq.is_not(None),
                transactions.c.ended_seq.is_not(None),
                bills.c.tx.is_(None),
            )
            .order_by(transactions.c.started_seq)
        )
        for tx in self.connection.scalars(query).all():
            row = self._row(tx)
            self._bill(row)
            self._attest(row)
        self.rows.write()
        close_billed(self.connection, self._now(), self.log)

    # Bills

    def _bill(self, row: dict[str, Any], record: Record | None = None) -> bool:
        made = self._made(row)
        priced = self._price(row, made is not None)
        if priced is None:
            return False
        if made is None:
            self.rows.bills[self.log.id, row["tx"]] = priced
            row["flags"] = priced["flags"]
            self._keep(row)
        elif record is not None:
            self._adjust(row, made, priced, record)
        return made is None

    def _made(self, row: dict[str, Any]) -> Any:
        key = self.log.id, row["tx"]
        made: Any = self.rows.bills.get(key)
        if made is None and not row.get("is_new"):
            here = (bills.c.log == key[0], bills.c.tx == key[1])
            made = self.connection.execute(sa.select(bills).where(*here)).mappings().one_or_none()
        return made

    def _price(self, row: dict[str, Any], billed: bool) -> dict[str, Any] | None:
        """The values of a bill; None where a rule blocks it."""
        tx, seq = row["tx"], row["ended_seq"]
        start, end = row["register_start"], row["register_last"]
        energy_wh, inside = self._energy(row)
        if energy_wh is None:
            return self._raise("no_register", seq, f"transaction {tx}", row)
        tariff, newer = self._tariff(row)
        if tariff is None:
            named = f"tariff {row['tariff']} version {row['tariff_version']}"
            return self._raise("unknown_tariff", seq, named, row)
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

    def _energy(self, row: dict[str, Any]) -> tuple[int | None, list[tuple[int, int, int]]]:
        """Wh of a complete transaction, and the meter segments in it. None without a register."""
        start, end = row["register_start"], row["register_last"]
        if start is None or end is None:
            return None, []
        span = row["started_seq"], row["ended_seq"]
        inside = [s for s in self._read_segments() if span[0] < s[0] < span[1]]
        return end - start + sum(old - new for _, old, new in inside), inside

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
        for (log, tx), made in self.rows.bills.items():
            if (log, made["evse"], made["segment"]) == (self.log.id, row["evse"], segment):
                low, high = made["register_from"], made["register_to"]
                if low < high and low < end and high > row["register_start"]:
                    return tx
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
        token = row["cti"], row["kid"], row["started_time"]
        if row["cti"] is None or self.knows.books.issued(self.log.site, *token):
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
        known = self.rows.tariffs_of(self.log.site, row["tariff"], self.knows.books)
        version, started = row["tariff_version"], row["started_time"]
        newer = started is not None and any(
            t.version > version and t.issued <= started for t in known.values()
        )
        return known.get(version), newer

    def _read_segments(self) -> list[tuple[int, int, int]]:
        if self._segments is None:
            self._segments = [(seq, *body[:2]) for seq, body in self._all(METER_SEGMENT)]
        return self._segments

    def _read_clock_sets(self) -> list[int]:
        if self._clock_sets is None:
            self._clock_sets = [seq for seq, _ in self._all(CLOCK_SET)]
        return self._clock_sets

    def _all(self, kind: int) -> Iterable[tuple[int, list[Any]]]:
        """Seq and body of the log's stored records of a kind, but for unreadable ones."""
        query = sa.select(records.c.seq, records.c.payload).where(
            records.c.log == self.log.id, records.c.type == kind
        )
        for seq, payload in self.connection.execute(query.order_by(records.c.seq)):
            found = readable(kind, payload)
            if found is not None:
                yield seq, found[1]

    def _raise(self, kind: str, seq: int, detail: str, row: dict[str, Any] | None = None) -> None:
        tx = None if row is None else row["tx"]
        raise_exception(self.connection, self.log, kind, seq, detail, self._now(), tx)

    def _now(self) -> int:
        return int(self.knows.clock())


def _complete(row: dict[str, Any]) -> bool:
    return row["started_seq"] is not None and row["ended_seq"] is not None
