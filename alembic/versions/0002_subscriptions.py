"""Push subscriptions: readers of the log that deliver, the events they could not hand over yet, and what they tried.

Three new tables; the version still running knows none of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "subscription",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("url_sealed", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("exchange", sa.Text(), nullable=True),
        sa.Column("routing_key", sa.Text(), nullable=True),
        sa.Column("topic", sa.Text(), nullable=True),
        sa.Column("secret_sealed", sa.Text(), nullable=True),
        sa.Column("old_secret_sealed", sa.Text(), nullable=True),
        sa.Column("old_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("types", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("owners", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("installations", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("ordering", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("health", sa.Text(), server_default=sa.text("'up'"), nullable=False),
        sa.Column("quiet_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("probes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("last_error_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_number", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('http', 'nats', 'rabbitmq', 'kafka')", name=op.f("ck_subscription_kind")),
        sa.CheckConstraint("ordering IN ('none', 'installation')", name=op.f("ck_subscription_ordering")),
        sa.CheckConstraint("status IN ('active', 'paused', 'disabled')", name=op.f("ck_subscription_status")),
        sa.CheckConstraint("health IN ('up', 'down')", name=op.f("ck_subscription_health")),
        sa.CheckConstraint("(kind = 'http') = (secret_sealed IS NOT NULL)", name=op.f("ck_subscription_secret")),
        sa.CheckConstraint("(kind = 'http') = (url_sealed IS NULL)", name=op.f("ck_subscription_url_sealed")),
        sa.PrimaryKeyConstraint("id", name="pk_subscription"),
    )
    op.create_table(
        "parked",
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("dead_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("dead_at IS NULL OR due_at IS NULL", name=op.f("ck_parked_due")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscription.id"], name="fk_parked_subscription_id_subscription", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("subscription_id", "position", name="pk_parked"),
    )
    op.create_index(
        "ix_parked_due",
        "parked",
        ["subscription_id", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_parked_waiting",
        "parked",
        ["subscription_id", "installation_id", "position"],
        unique=False,
        postgresql_where=sa.text("dead_at IS NULL"),
    )
    op.create_index(
        "ix_parked_dead",
        "parked",
        ["subscription_id", "position"],
        unique=False,
        postgresql_where=sa.text("dead_at IS NOT NULL"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("milliseconds", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
    )
    op.create_index("ix_attempt_subscription_id_id", "attempt", ["subscription_id", "id"], unique=False)
    op.create_index("ix_attempt_event_id", "attempt", ["event_id"], unique=False)
    op.create_index("ix_attempt_at", "attempt", ["at"], unique=False, postgresql_using="brin")


def downgrade() -> None:
    op.drop_table("attempt")
    op.drop_table("parked")
    op.drop_table("subscription")
