"""Parked batches; on PostgreSQL, the tables that grow partitioned by log."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PARTITIONS = 16
AFTER = (
    "ALTER TABLE batches ADD PRIMARY KEY (log, id)",
    "ALTER TABLE batches ADD FOREIGN KEY (log) REFERENCES logs (id)",
    "CREATE INDEX batches_by_seq ON batches (log, last_seq)",
    "ALTER TABLE records ADD UNIQUE (log, seq)",
    "ALTER TABLE transactions ADD PRIMARY KEY (log, tx)",
    "ALTER TABLE transactions ADD FOREIGN KEY (log) REFERENCES logs (id)",
    "ALTER TABLE bills ADD PRIMARY KEY (log, tx)",
    "ALTER TABLE bills ADD FOREIGN KEY (log, tx) REFERENCES transactions (log, tx)"
    " DEFERRABLE INITIALLY DEFERRED",
    "CREATE UNIQUE INDEX bills_by_register ON bills (log, evse, segment, register_from)"
    " WHERE register_from < register_to",
    "ALTER TABLE adjustments ADD FOREIGN KEY (log, tx) REFERENCES bills (log, tx)"
    " DEFERRABLE INITIALLY DEFERRED",
)


def upgrade() -> None:
    op.create_table(
        "parked",
        sa.Column("id", ID, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("station", sa.String(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("exception", ID, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    for table in ("bills", "transactions", "records", "batches"):
        op.execute(f"ALTER TABLE {table} RENAME TO {table}_whole")
        like = f"(LIKE {table}_whole INCLUDING DEFAULTS) PARTITION BY HASH (log)"
        op.execute(f"CREATE TABLE {table} {like}")
        for i in range(PARTITIONS):
            bounds = f"WITH (MODULUS {PARTITIONS}, REMAINDER {i})"
            op.execute(f"CREATE TABLE {table}_p{i:02} PARTITION OF {table} FOR VALUES {bounds}")
        op.execute(f"INSERT INTO {table} SELECT * FROM {table}_whole")
        if table in ("records", "batches"):
            op.execute(f"ALTER SEQUENCE {table}_id_seq OWNED BY {table}.id")
        op.execute(f"DROP TABLE {table}_whole CASCADE")
    for statement in AFTER:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("parked")  # the older schema has the same columns, partitioned or not
