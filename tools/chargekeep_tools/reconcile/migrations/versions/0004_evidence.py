"""Which record has the evidence of a transaction; `reconcile rebuild` finds those from before."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("transactions", sa.Column("evidence_seq", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("transactions", "evidence_seq")
