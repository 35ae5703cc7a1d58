"""Each form of the console acts once: what was sent is claimed here first, and what came of it is kept an hour.

A table of its own, so that it works with the version that is still running, which claims nothing.
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE console_form (
            fingerprint bytea CONSTRAINT pk_console_form PRIMARY KEY,
            begun_at timestamptz NOT NULL,
            answer jsonb,
            expires_at timestamptz NOT NULL
        )
    """)
    op.execute("CREATE INDEX ix_console_form_expires_at ON console_form (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE console_form")
