"""Subscriptions ordered by subject: an event that waits beside the log keeps what it is about.

The column is empty in rows that are there, and in those of a version that is still running: a reader fills it before it
goes by it. Their index is built beside the writers, as an outage may have left many rows.
"""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

INDEX = "ix_parked_subject"


def _allow(*orders: str) -> None:
    op.execute(
        "-- squawk-ignore ban-drop-constraint\nALTER TABLE subscription DROP CONSTRAINT ck_subscription_ordering"
    )
    op.execute(
        "-- squawk-ignore constraint-missing-not-valid\n"
        f"ALTER TABLE subscription ADD CONSTRAINT ck_subscription_ordering CHECK (ordering IN {orders})"
    )


def upgrade() -> None:
    _allow("none", "subject", "installation")
    # Commits in the middle, and may be run again where the index could not be built: so the column may be there.
    op.execute("ALTER TABLE parked ADD COLUMN IF NOT EXISTS subject text")
    with op.get_context().autocommit_block():
        # Waits for the transactions that are open; nothing that the service does waits for it meanwhile.
        op.execute("SET lock_timeout = 0")
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX} "
            "ON parked (subscription_id, installation_id, subject, position) WHERE dead_at IS NULL"
        )
        op.execute("SET lock_timeout = '300ms'")


def downgrade() -> None:
    op.execute(f"DROP INDEX {INDEX}")
    op.execute("ALTER TABLE parked DROP COLUMN subject")
    op.execute("UPDATE subscription SET ordering = 'installation' WHERE ordering = 'subject'")
    _allow("none", "installation")
