"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:

    op.create_table(
        "exceptions",
        sa.Column("id", ID, nullable=False),
        sa.Column("log", ID, nullable=True),
        sa.Column("station", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tx", sa.BigInteger(), nullable=True),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("raised", sa.BigInteger(), nullable=False),
        sa.Column("resolved", sa.BigInteger(), nullable=True),
        sa.Column("note", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("station", "log", "kind", "seq", "detail"),
    )
    op.create_table(
        "logs",
        sa.Column("id", ID, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("station", sa.String(), nullable=False),
        sa.Column("log_id", sa.LargeBinary(), nullable=False),
        sa.Column("head_seq", sa.BigInteger(), nullable=False),
        sa.Column("head_link", sa.LargeBinary(), nullable=False),
        sa.Column("projected_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("site", "station", "log_id"),
    )
    op.create_table(
        "records",
        sa.Column("id", ID, nullable=False),
        sa.Column("log", ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=True),
        sa.Column("quality", sa.SmallInteger(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("uptime", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("log", "seq"),
    )
    op.create_table(
        "tariffs",
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("tariff", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("per_kwh", sa.BigInteger(), nullable=False),
        sa.Column("per_hour", sa.BigInteger(), nullable=False),
        sa.Column("per_start", sa.BigInteger(), nullable=False),
        sa.Column("issued", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site", "tariff", "version"),
    )
    op.create_table(
        "batches",
        sa.Column("id", ID, autoincrement=True, nullable=False),
        sa.Column("log", ID, nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["log"],
            ["logs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.create_index("batches_by_seq", ["log", "last_seq"], unique=False)

    op.create_table(
        "transactions",
        sa.Column("log", ID, nullable=False),
        sa.Column("tx", sa.BigInteger(), nullable=False),
        sa.Column("evse", sa.Integer(), nullable=True),
        sa.Column("connector", sa.Integer(), nullable=True),
        sa.Column("id_token", sa.LargeBinary(), nullable=True),
        sa.Column("cti", sa.LargeBinary(), nullable=True),
        sa.Column("kid", sa.LargeBinary(), nullable=True),
        sa.Column("tariff", sa.BigInteger(), nullable=True),
        sa.Column("tariff_version", sa.BigInteger(), nullable=True),
        sa.Column("max_wh", sa.BigInteger(), nullable=True),
        sa.Column("max_s", sa.BigInteger(), nullable=True),
        sa.Column("started_seq", sa.BigInteger(), nullable=True),
        sa.Column("started_time", sa.BigInteger(), nullable=True),
        sa.Column("started_boot", sa.BigInteger(), nullable=True),
        sa.Column("started_uptime", sa.BigInteger(), nullable=True),
        sa.Column("register_start", sa.BigInteger(), nullable=True),
        sa.Column("register_last", sa.BigInteger(), nullable=True),
        sa.Column("seq_no", sa.Integer(), nullable=False),
        sa.Column("ended_seq", sa.BigInteger(), nullable=True),
        sa.Column("ended_time", sa.BigInteger(), nullable=True),
        sa.Column("ended_boot", sa.BigInteger(), nullable=True),
        sa.Column("ended_uptime", sa.BigInteger(), nullable=True),
        sa.Column("stopped_reason", sa.Integer(), nullable=True),
        sa.Column("flags", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["log"],
            ["logs.id"],
        ),
        sa.PrimaryKeyConstraint("log", "tx"),
    )
    op.create_table(
        "bills",
        sa.Column("log", ID, nullable=False),
        sa.Column("tx", sa.BigInteger(), nullable=False),
        sa.Column("evse", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("register_from", sa.BigInteger(), nullable=False),
        sa.Column("register_to", sa.BigInteger(), nullable=False),
        sa.Column("energy_wh", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("energy_amount", sa.BigInteger(), nullable=False),
        sa.Column("time_amount", sa.BigInteger(), nullable=False),
        sa.Column("start_amount", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("flags", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["log", "tx"],
            ["transactions.log", "transactions.tx"],
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.PrimaryKeyConstraint("log", "tx"),
    )
    op.create_index(
        "bills_by_register",
        "bills",
        ["log", "evse", "segment", "register_from"],
        unique=True,
        sqlite_where=sa.text("register_from < register_to"),
        postgresql_where=sa.text("register_from < register_to"),
    )
    op.create_table(
        "adjustments",
        sa.Column("log", ID, nullable=False),
        sa.Column("tx", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("energy_wh", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["log", "tx"], ["bills.log", "bills.tx"], deferrable=True, initially="DEFERRED"
        ),
        sa.PrimaryKeyConstraint("log", "tx", "seq"),
    )


def downgrade() -> None:

    op.drop_table("adjustments")
    op.drop_table("bills")
    op.drop_table("transactions")
    with op.batch_alter_table("batches", schema=None) as batch_op:
        batch_op.drop_index("batches_by_seq")

    op.drop_table("batches")
    op.drop_table("tariffs")
    op.drop_table("records")
    op.drop_table("logs")
    op.drop_table("exceptions")
