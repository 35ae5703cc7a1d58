"""The first tables: installations and their webhooks, the flows that made them, the log, API keys, the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("integration_id", sa.BigInteger(), nullable=True),
        sa.Column("company_name", sa.Text(), nullable=True),
        sa.Column("number_ids", sa.ARRAY(sa.BigInteger()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("token_sealed", sa.Text(), nullable=True),
        sa.Column("token_fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("connected_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(status = 'removed') = (token_sealed IS NULL)", name=op.f("ck_installation_token")),
        sa.CheckConstraint(
            "status IN ('unclaimed', 'active', 'unauthorized', 'removed')", name=op.f("ck_installation_status")
        ),
        sa.CheckConstraint(
            "(token_sealed IS NULL) = (token_fingerprint IS NULL)", name=op.f("ck_installation_fingerprint")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.create_index("ix_installation_owner", "installation", ["owner"], unique=False)
    op.create_index(
        "uq_installation_company_id",
        "installation",
        ["company_id"],
        unique=True,
        postgresql_where=sa.text("integration_id IS NULL"),
    )
    op.create_index(
        "uq_installation_integration_id",
        "installation",
        ["integration_id"],
        unique=True,
        postgresql_where=sa.text("integration_id IS NOT NULL"),
    )
    op.create_table(
        "webhook",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=True),
        sa.Column("token_fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.CheckConstraint("status IN ('pending', 'active', 'disabled', 'missing')", name=op.f("ck_webhook_status")),
        sa.ForeignKeyConstraint(
            ["installation_id"], ["installation.id"], name="fk_webhook_installation_id_installation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook"),
    )
    op.create_index(
        "ix_webhook_due_at", "webhook", ["due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL")
    )
    op.create_index("uq_webhook_installation_id", "webhook", ["installation_id"], unique=True)
    op.create_index("uq_webhook_token_fingerprint", "webhook", ["token_fingerprint"], unique=True)
    op.create_table(
        "flow",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.Column("installation_id", sa.Text(), nullable=True),
        sa.Column("return_to", sa.Text(), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("status IN ('unknown', 'connected', 'ended')", name=op.f("ck_flow_status")),
        sa.ForeignKeyConstraint(
            ["installation_id"], ["installation.id"], name="fk_flow_installation_id_installation", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_flow"),
    )
    op.create_index("ix_flow_used_at", "flow", ["used_at"], unique=False)
    op.execute("CREATE SEQUENCE event_position AS BIGINT")
    op.create_table(
        "event",
        sa.Column(
            "position", sa.BigInteger(), server_default=sa.text("nextval('event_position'::regclass)"), nullable=False
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.CheckConstraint("source IN ('aircall', 'service')", name=op.f("ck_event_source")),
        sa.PrimaryKeyConstraint("position", "received_at", name="pk_event"),
        postgresql_partition_by="RANGE (received_at)",
    )
    op.create_index("ix_event_installation_id_position", "event", ["installation_id", "position"], unique=False)
    op.create_index("ix_event_id", "event", ["id"], unique=False)
    op.create_table(
        "event_fingerprint",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_event_fingerprint"),
    )
    op.create_index(
        "ix_event_fingerprint_received_at",
        "event_fingerprint",
        ["received_at"],
        unique=False,
        postgresql_using="brin",
    )
    op.create_table(
        "log_start",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("dropped_to", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_log_start_one")),
        sa.PrimaryKeyConstraint("one", name="pk_log_start"),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("cardinality(scopes) > 0", name=op.f("ck_api_key_scopes")),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
    )
    op.create_index("uq_api_key_fingerprint", "api_key", ["fingerprint"], unique=True)
    op.create_table(
        "audit",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_installation_id_at", "audit", ["installation_id", "at"], unique=False)


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("api_key")
    op.drop_table("event_fingerprint")
    op.drop_table("event")
    op.execute("DROP SEQUENCE event_position")
    op.drop_table("log_start")
    op.drop_table("flow")
    op.drop_table("webhook")
    op.drop_table("installation")
