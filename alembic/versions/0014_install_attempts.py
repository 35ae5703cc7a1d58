"""Install attempts: how far each link or flow came; and hourly counts of what gets no row of its own.

`claim.attempt_reference` says which attempt a claim ends; null for those that were made before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

STEPS = ("made", "opened", "consented", "exchanged", "identified", "connected", "claimed", "live", "ended")


def upgrade() -> None:
    op.create_table(
        "install_attempt",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("link_id", sa.Text(), nullable=True),
        sa.Column("installation_id", sa.Text(), nullable=True),
        sa.Column("company_id", sa.BigInteger(), nullable=True),
        sa.Column("company_name", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(f"{step}_at", sa.DateTime(timezone=True), nullable=True) for step in STEPS),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.Column("shown", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_install_attempt")),
    )
    op.create_index("uq_install_attempt_reference", "install_attempt", ["reference"], unique=True)
    op.create_index("ix_install_attempt_link_id", "install_attempt", ["link_id"])
    op.create_index("ix_install_attempt_owner_id", "install_attempt", ["owner", "id"])
    op.create_index("ix_install_attempt_created_at", "install_attempt", ["created_at"])
    op.create_index(
        "ix_install_attempt_installation_id",
        "install_attempt",
        ["installation_id"],
        postgresql_where=sa.text("live_at IS NULL"),
    )
    op.create_table(
        "install_tally",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "what", name=op.f("pk_install_tally")),
    )
    op.execute("ALTER TABLE claim ADD COLUMN attempt_reference text")


def downgrade() -> None:
    op.execute("ALTER TABLE claim DROP COLUMN attempt_reference")
    op.drop_table("install_tally")
    op.drop_table("install_attempt")
