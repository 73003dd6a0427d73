"""What a commit of the projection will write, in bulk, and what it has read for all logs."""

from typing import Any

import sqlalchemy as sa

from chargekeep_tools.reconcile import bill
from chargekeep_tools.reconcile.books import Books
from chargekeep_tools.reconcile.database import insert
from chargekeep_tools.reconcile.schema import bills, records, tariffs, transactions

_RECORD = ("log", "seq", "type", "time", "quality", "boot", "uptime", "payload")
_CHANGE = transactions.update().where(
    transactions.c.log == sa.bindparam("its_log"), transactions.c.tx == sa.bindparam("its_tx")
)


class Rows:
    """What a commit will write, in bulk."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.records: list[tuple] = []
        self.transactions: dict[tuple[int, int], dict[str, Any]] = {}
        self.bills: dict[tuple[int, int], dict[str, Any]] = {}
        self._tariffs: dict[tuple[str, int], dict[int, bill.Tariff]] = {}

    def write(self) -> None:
        insert(self.connection, records, _RECORD, self.records)
        new, old = [], []
        for _, row in sorted(self.transactions.items()):
            (new if row.pop("is_new", False) else old).append(row)
        if new:
            self.connection.execute(transactions.insert(), new)
        if old:
            keyed = [row | {"its_log": row["log"], "its_tx": row["tx"]} for row in old]
            self.connection.execute(_CHANGE, keyed)
        if self.bills:
            made = [row for _, row in sorted(self.bills.items())]
            self.connection.execute(bills.insert(), made)
        self.records, self.transactions, self.bills = [], {}, {}

    def tariffs_of(self, site: str, tariff: int, books: Books) -> dict[int, bill.Tariff]:
        """The tariff's versions."""
        known = self._tariffs.get((site, tariff))
        if known is None:
            same = sa.select(tariffs).where(tariffs.c.site == site, tariffs.c.tariff == tariff)
            found = self.connection.execute(same).mappings()
            known = self._tariffs[site, tariff] = {t["version"]: bill.Tariff(**t) for t in found}
            for one in books.tariffs(site):
                # Kept: a bill must not depend on files that may go.
                if one.tariff == tariff and one.version not in known:
                    known[one.version] = one
                    self.connection.execute(tariffs.insert().values(vars(one)))
        return known
