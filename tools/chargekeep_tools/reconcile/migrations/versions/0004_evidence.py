"""Which record has a transaction's evidence, and which logs await more of what thinning moved.

`chargekeep reconcile rebuild` finds the evidence that came before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("transactions", sa.Column("evidence_seq", sa.BigInteger()))
    unsettled = sa.Column("unsettled", sa.Boolean(), nullable=False, server_default=sa.false())
    op.add_column("logs", unsettled)


def downgrade() -> None:
    op.drop_column("logs", "unsettled")
    op.drop_column("transactions", "evidence_seq")
