"""The `Idempotency-Key` that a subscription was made with, so that a repeated request does not make a second one.

A version that is still running remembers none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "creation_key",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("body_fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscription.id"],
            name=op.f("fk_creation_key_subscription_id_subscription"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_creation_key")),
    )
    op.create_index(op.f("ix_creation_key_subscription_id"), "creation_key", ["subscription_id"])


def downgrade() -> None:
    op.drop_table("creation_key")
