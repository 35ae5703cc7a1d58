"""The way to Aircall: how much of its limit each Aircall company has spent, and what an API key may ask it for."""

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
    op.add_column("api_key", sa.Column("aircall_rules", sa.ARRAY(sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("api_key", "aircall_rules")
    op.drop_table("budget")
