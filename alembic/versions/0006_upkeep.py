"""Upkeep: when a webhook was last looked at with all that belongs to it, since when its token is refused, whether it is
to be rotated; webhooks to be deleted; troubles of the receiver; and whether Aircall has the integration switched on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "installation", sa.Column("integration_active", sa.Boolean(), server_default=sa.text("true"), nullable=False)
    )
    op.add_column("webhook", sa.Column("thorough_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook", sa.Column("refused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "webhook", sa.Column("rotation_wanted", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_table(
        "retired_webhook",
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("token_fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["installation_id"],
            ["installation.id"],
            name="fk_retired_webhook_installation_id_installation",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("webhook_id", name="pk_retired_webhook"),
    )
    op.create_index("ix_retired_webhook_due_at", "retired_webhook", ["due_at"], unique=False)
    op.create_index("ix_retired_webhook_installation_id", "retired_webhook", ["installation_id"], unique=False)
    op.create_index("ix_retired_webhook_token_fingerprint", "retired_webhook", ["token_fingerprint"], unique=False)
    op.create_table(
        "trouble",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trouble"),
    )


def downgrade() -> None:
    op.drop_table("trouble")
    op.drop_table("retired_webhook")
    op.drop_column("webhook", "rotation_wanted")
    op.drop_column("webhook", "refused_at")
    op.drop_column("webhook", "thorough_at")
    op.drop_column("installation", "integration_active")
