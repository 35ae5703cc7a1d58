"""A claim that was used is remembered until it expires, so that the same owner may send it again."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("claim", sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    # A version before this one would take a remembered claim for one that may be used.
    op.execute("DELETE FROM claim WHERE claimed_at IS NOT NULL")
    op.drop_column("claim", "claimed_at")
