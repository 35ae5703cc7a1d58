"""The console: one-time links, and who is signed in."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TEXTS = ("actor", "person")
TIMES = ("created_at", "last_seen_at", "expires_at")


def upgrade() -> None:
    op.create_table(
        "console_link",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_link")),
    )
    op.create_table(
        "console_session",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in TEXTS),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in TIMES),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_console_session")),
    )
    for table in ("console_link", "console_session"):
        op.create_index(f"uq_{table}_fingerprint", table, ["fingerprint"], unique=True)
        op.create_index(f"ix_{table}_expires_at", table, ["expires_at"])
    op.create_index("ix_console_session_actor", "console_session", ["actor"])


def downgrade() -> None:
    op.drop_table("console_session")
    op.drop_table("console_link")
