"""When to see to it that an integration is on at Aircall: a customer may come back while it is switched off there."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("installation", sa.Column("switch_on_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("installation", "switch_on_at")
