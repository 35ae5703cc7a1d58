"""What other subscriptions were told last of a subscription's destination, and when.

A version that is still running leaves both as they are: nothing was told.
"""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE subscription ADD COLUMN told_health text NOT NULL DEFAULT 'up'")
    op.execute("ALTER TABLE subscription ADD COLUMN told_at timestamptz")


def downgrade() -> None:
    op.execute("ALTER TABLE subscription DROP COLUMN told_at")
    op.execute("ALTER TABLE subscription DROP COLUMN told_health")
