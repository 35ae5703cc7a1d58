"""An owner's events are kept for as long as the owner's own rules say.

A table of its own, which a version that is still running does not know; it keeps them for as long as all others.
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE owner_retention (
            owner text CONSTRAINT pk_owner_retention PRIMARY KEY,
            types text[] NOT NULL,
            seconds bigint[] NOT NULL
                CONSTRAINT ck_owner_retention_rules CHECK (cardinality(types) = cardinality(seconds)),
            changed_at timestamptz NOT NULL DEFAULT now()
        )
    """)


def downgrade() -> None:
    op.execute("DROP TABLE owner_retention")
