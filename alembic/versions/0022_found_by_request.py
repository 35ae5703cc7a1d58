"""The audit is searched by request, and install attempts by installation.

The audit's index is built beside its writers: it has a row for every proxied call, and may be large.
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_audit_request_id": "audit (request_id) WHERE request_id IS NOT NULL",
    "ix_install_attempt_of_installation": "install_attempt (installation_id, id) WHERE installation_id IS NOT NULL",
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # Waits for the transactions that are open; nothing that the service does waits for it meanwhile.
        op.execute("SET lock_timeout = 0")
        for name, columns in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {columns}")
        op.execute("SET lock_timeout = '300ms'")


def downgrade() -> None:
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
