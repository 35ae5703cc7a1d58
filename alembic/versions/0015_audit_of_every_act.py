"""The audit says whom an act concerned and what it changed, and is searched by action, owner and subscription.

The indexes are built beside the audit's writers: it has a row for every proxied call, and may be large.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_audit_action_at": "(action, at)",
    "ix_audit_owner_at": "(owner, at) WHERE owner IS NOT NULL",
    "ix_audit_subscription_id_at": "(subscription_id, at) WHERE subscription_id IS NOT NULL",
}


def upgrade() -> None:
    # Commits in the middle, and may be run again where an index could not be built: so each step may be there already.
    for column, type_ in (("owner", "text"), ("subscription_id", "text"), ("details", "jsonb")):
        op.execute(f"ALTER TABLE audit ADD COLUMN IF NOT EXISTS {column} {type_}")
    with op.get_context().autocommit_block():
        # Waits for the transactions that are open; nothing that the service does waits for it meanwhile.
        op.execute("SET lock_timeout = 0")
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON audit {columns}")
        op.execute("SET lock_timeout = '300ms'")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    for column in ("details", "subscription_id", "owner"):
        op.execute(f"ALTER TABLE audit DROP COLUMN {column}")
