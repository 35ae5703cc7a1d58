"""Custody: the audit tells from where and with what outcome, and the database itself refuses to rewrite it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None

# Lines older than this may be dropped by the retention; nothing else may ever be taken away or changed.
APPEND_ONLY = """
    CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            IF OLD.at < now() - interval '30 days' THEN
                RETURN OLD;
            END IF;
        END IF;
        RAISE EXCEPTION 'the audit only grows';
    END
    $$
"""
ROWS = "BEFORE UPDATE OR DELETE ON audit FOR EACH ROW"
WHOLE = "BEFORE TRUNCATE ON audit FOR EACH STATEMENT"


def upgrade() -> None:
    op.add_column("audit", sa.Column("address", sa.Text(), server_default=sa.text("'-'"), nullable=False))
    op.add_column("audit", sa.Column("outcome", sa.Text(), server_default=sa.text("'done'"), nullable=False))
    op.create_index("ix_audit_actor_at", "audit", ["actor", "at"], unique=False)
    op.create_index("ix_audit_at", "audit", ["at"], unique=False)
    op.execute(APPEND_ONLY)
    op.execute(f"CREATE TRIGGER audit_only_grows {ROWS} EXECUTE FUNCTION audit_only_grows()")
    op.execute(f"CREATE TRIGGER audit_is_never_emptied {WHOLE} EXECUTE FUNCTION audit_only_grows()")


def downgrade() -> None:
    op.execute("DROP TRIGGER audit_is_never_emptied ON audit")
    op.execute("DROP TRIGGER audit_only_grows ON audit")
    op.execute("DROP FUNCTION audit_only_grows()")
    op.drop_index("ix_audit_at", "audit")
    op.drop_index("ix_audit_actor_at", "audit")
    op.drop_column("audit", "outcome")
    op.drop_column("audit", "address")
