"""The age of the oldest event that waits beside the log is read from one end of an index.

Measured every few seconds, and shown by each page about a destination; without it, all that waits would be read. Built
beside the writers, as an outage may have left many rows.
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

INDEX = "ix_parked_oldest"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for the transactions that are open; nothing that the service does waits for it meanwhile.
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} "
            "ON parked (subscription_id, received_at) WHERE dead_at IS NULL"
        )
        op.execute("SET lock_timeout = '300ms'")


def downgrade() -> None:
    op.execute(f"DROP INDEX {INDEX}")
