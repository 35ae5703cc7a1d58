"""Custody: claims, uninstalls and farewells; an audit that tells from where, and that only grows.

The audit's triggers hold what the models only say.
"""

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
    _claims()
    _departures()
    op.execute(APPEND_ONLY)
    op.execute(f"CREATE TRIGGER audit_only_grows {ROWS} EXECUTE FUNCTION audit_only_grows()")
    op.execute(f"CREATE TRIGGER audit_is_never_emptied {WHOLE} EXECUTE FUNCTION audit_only_grows()")


def _claims() -> None:
    op.add_column("flow", sa.Column("link_id", sa.Text(), nullable=True))
    op.create_index(
        "uq_flow_link_id", "flow", ["link_id"], unique=True, postgresql_where=sa.text("link_id IS NOT NULL")
    )
    op.create_table(
        "claim",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("token_sealed", sa.Text(), nullable=True),
        sa.Column("token_fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(token_sealed IS NULL) = (token_fingerprint IS NULL)", name=op.f("ck_claim_fingerprint")),
        sa.ForeignKeyConstraint(
            ["installation_id"], ["installation.id"], name="fk_claim_installation_id_installation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_claim"),
    )
    op.create_index("uq_claim_fingerprint", "claim", ["fingerprint"], unique=True)
    op.create_index("ix_claim_installation_id", "claim", ["installation_id"], unique=False)
    op.create_index("ix_claim_expires_at", "claim", ["expires_at"], unique=False)


def _departures() -> None:
    op.create_table(
        "uninstall",
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("looks", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["installation_id"],
            ["installation.id"],
            name="fk_uninstall_installation_id_installation",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("installation_id", name="pk_uninstall"),
    )
    op.create_index("ix_uninstall_due_at", "uninstall", ["due_at"], unique=False)
    op.create_table(
        "farewell",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("token_sealed", sa.Text(), nullable=False),
        sa.Column("token_fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=True),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["installation_id"],
            ["installation.id"],
            name="fk_farewell_installation_id_installation",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_farewell"),
    )
    op.create_index("ix_farewell_due_at", "farewell", ["due_at"], unique=False)
    op.create_index("ix_farewell_installation_id", "farewell", ["installation_id"], unique=False)
    op.create_table(
        "log_reader",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_log_reader"),
    )


def downgrade() -> None:
    for table in ("log_reader", "farewell", "uninstall", "claim"):
        op.drop_table(table)
    op.drop_index("uq_flow_link_id", "flow")
    op.drop_column("flow", "link_id")
    op.execute("DROP TRIGGER audit_is_never_emptied ON audit")
    op.execute("DROP TRIGGER audit_only_grows ON audit")
    op.execute("DROP FUNCTION audit_only_grows()")
    op.drop_index("ix_audit_at", "audit")
    op.drop_index("ix_audit_actor_at", "audit")
    op.drop_column("audit", "outcome")
    op.drop_column("audit", "address")
