"""Numbers over time: what all processes counted together, a row per figure and minute, and one per figure and hour."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "figure",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("highest", sa.Boolean(), nullable=False),
        sa.Column("amounts", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.CheckConstraint("step IN ('minute', 'hour')", name=op.f("ck_figure_step")),
        sa.PrimaryKeyConstraint("name", "label", "step", "at", name=op.f("pk_figure")),
    )
    op.create_index(op.f("ix_figure_step_at"), "figure", ["step", "at"])


def downgrade() -> None:
    op.drop_table("figure")
