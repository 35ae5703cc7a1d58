"""How much of Aircall's limit is spent: a row per Aircall company, shared by every replica."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budget",
        sa.Column("company_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("second", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("closed_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("company_id", name="pk_budget"),
    )


def downgrade() -> None:
    op.drop_table("budget")
