"""The tables. `batches` holds what stations sent, for ever and in the order of arrival; all the
others but `exceptions.resolved` and `tariffs` follow from it. On PostgreSQL the large ones are
partitioned by the hash of `log` (migration 0003).

Energy is in whole Wh, money in 1/10000 of the currency unit, time in unix seconds.
"""

import re
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

# SQLite counts in its own 64-bit rowid only where the type is INTEGER.
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Rows of one commit are written in whatever order is cheapest.
_LATE: dict[str, Any] = {"deferrable": True, "initially": "DEFERRED"}

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("site", sa.String, nullable=False),
    sa.Column("station", sa.String, nullable=False),
    sa.Column("log_id", sa.LargeBinary, nullable=False),
    # Everything up to here is stored, without a gap that is not accounted for: the cursor that is
    # acknowledged to the station.
    sa.Column("head_seq", sa.BigInteger, nullable=False),
    sa.Column("head_link", sa.LargeBinary, nullable=False),
    # Records up to here are in the tables below.
    sa.Column("projected_seq", sa.BigInteger, nullable=False),
    # The last of them were moved by thinning: what they complete is billed with the next record.
    sa.Column("unsettled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("site", "station", "log_id"),
)

ACCEPTED, WAITING, QUARANTINED = 0, 1, 2
"""State of a batch: part of the history; beyond a gap; contradicting the history."""

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("log", _Id, sa.ForeignKey("logs.id"), nullable=False),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("batches_by_seq", "log", "last_seq"),
    sqlite_autoincrement=True,
)

# Verified, but no part of any log: see parking.py. In no relation, so that nothing can hold it up.
parked = sa.Table(
    "parked",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("site", sa.String, nullable=False),
    sa.Column("station", sa.String, nullable=False),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("exception", _Id, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("log", _Id, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("type", sa.SmallInteger, nullable=False),
    sa.Column("time", sa.BigInteger),
    sa.Column("quality", sa.SmallInteger, nullable=False),
    sa.Column("boot", sa.BigInteger, nullable=False),
    sa.Column("uptime", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("log", "seq"),
)

tariffs = sa.Table(
    "tariffs",
    metadata,
    sa.Column("site", sa.String, primary_key=True),
    sa.Column("tariff", sa.BigInteger, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("currency", sa.String, nullable=False),
    sa.Column("per_kwh", sa.BigInteger, nullable=False),
    sa.Column("per_hour", sa.BigInteger, nullable=False),
    sa.Column("per_start", sa.BigInteger, nullable=False),
    sa.Column("issued", sa.BigInteger, nullable=False),
)

transactions = sa.Table(
    "transactions",
    metadata,
    sa.Column("log", _Id, sa.ForeignKey("logs.id"), primary_key=True),
    sa.Column("tx", sa.BigInteger, primary_key=True),
    sa.Column("evse", sa.Integer),
    sa.Column("connector", sa.Integer),
    sa.Column("id_token", sa.LargeBinary),  # hash
    sa.Column("cti", sa.LargeBinary),
    sa.Column("kid", sa.LargeBinary),
    sa.Column("tariff", sa.BigInteger),
    sa.Column("tariff_version", sa.BigInteger),
    sa.Column("max_wh", sa.BigInteger),
    sa.Column("max_s", sa.BigInteger),
    sa.Column("started_seq", sa.BigInteger),
    sa.Column("started_time", sa.BigInteger),
    sa.Column("started_boot", sa.BigInteger),
    sa.Column("started_uptime", sa.BigInteger),
    sa.Column("register_start", sa.BigInteger),
    sa.Column("register_last", sa.BigInteger),
    sa.Column("seq_no", sa.Integer, nullable=False),
    sa.Column("ended_seq", sa.BigInteger),
    sa.Column("ended_time", sa.BigInteger),
    sa.Column("ended_boot", sa.BigInteger),
    sa.Column("ended_uptime", sa.BigInteger),
    sa.Column("stopped_reason", sa.Integer),
    sa.Column("evidence_seq", sa.BigInteger),  # the record with what the station signed of it
    sa.Column("flags", sa.String, nullable=False),
)

bills = sa.Table(
    "bills",
    metadata,
    sa.Column("log", _Id, primary_key=True),
    sa.Column("tx", sa.BigInteger, primary_key=True),
    sa.Column("evse", sa.Integer, nullable=False),
    sa.Column("segment", sa.Integer, nullable=False),
    sa.Column("register_from", sa.BigInteger, nullable=False),
    sa.Column("register_to", sa.BigInteger, nullable=False),
    sa.Column("energy_wh", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.String, nullable=False),
    sa.Column("energy_amount", sa.BigInteger, nullable=False),
    sa.Column("time_amount", sa.BigInteger, nullable=False),
    sa.Column("start_amount", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("flags", sa.String, nullable=False),
    sa.ForeignKeyConstraint(["log", "tx"], ["transactions.log", "transactions.tx"], **_LATE),
    # No Wh of a meter is sold twice: ranges of a segment begin at different registers, and the
    # projection refuses one that begins before the last one's end. An empty range sells none.
    sa.Index(
        "bills_by_register",
        *("log", "evse", "segment", "register_from"),
        unique=True,
        sqlite_where=sa.text("register_from < register_to"),
        postgresql_where=sa.text("register_from < register_to"),
    ),
)

# What a bill would be different by, had it been made later.
adjustments = sa.Table(
    "adjustments",
    metadata,
    sa.Column("log", _Id, primary_key=True),
    sa.Column("tx", sa.BigInteger, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),  # the record that came late
    sa.Column("energy_wh", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["log", "tx"], ["bills.log", "bills.tx"], **_LATE),
)

# Transactions that were handed to a CSMS; a rebuild keeps them.
delivered = sa.Table(
    "delivered",
    metadata,
    sa.Column("log", _Id, primary_key=True),
    sa.Column("tx", sa.BigInteger, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)

exceptions = sa.Table(
    "exceptions",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("log", _Id),
    sa.Column("station", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("tx", sa.BigInteger),
    sa.Column("detail", sa.String, nullable=False),
    sa.Column("raised", sa.BigInteger, nullable=False),
    sa.Column("resolved", sa.BigInteger),
    sa.Column("note", sa.String),
    sa.UniqueConstraint("station", "log", "kind", "seq", "detail"),
)


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """For Alembic: leaves out PostgreSQL's partitions, and the keys that refer to each."""
    inner = {"table": r"\w+_p\d\d", "foreign_key_constraint": r"\w+_fkey\d+"}
    return kind not in inner or re.fullmatch(inner[kind], name or "") is None
