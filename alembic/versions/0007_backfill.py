"""Back-fill: the windows in which an installation could not receive, and what was taken in since; its rhythm.

Keys of calls are kept from here on. Calls that the log took in before have none, so a back-fill over the time before
this migration would tell them once more.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SOURCES = "source IN ('aircall', 'service', 'backfill')"
OLD_SOURCES = "source IN ('aircall', 'service')"


def upgrade() -> None:
    _replace_sources(SOURCES)
    op.create_table(
        "gap",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("listed_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("part_to", sa.DateTime(timezone=True), nullable=True),
        sa.Column("page", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("found", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("added", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "reason IN ('webhook_disabled', 'webhook_missing', 'service_away', 'by_hand')", name=op.f("ck_gap_reason")
        ),
        sa.CheckConstraint("until IS NOT NULL OR (due_at IS NULL AND done_at IS NULL)", name=op.f("ck_gap_open")),
        sa.ForeignKeyConstraint(
            ["installation_id"], ["installation.id"], name="fk_gap_installation_id_installation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_gap"),
    )
    op.create_index(
        "uq_gap_installation_id", "gap", ["installation_id"], unique=True, postgresql_where=sa.text("until IS NULL")
    )
    op.create_index("ix_gap_installation_id_since", "gap", ["installation_id", "since"], unique=False)
    op.create_index("ix_gap_due_at", "gap", ["due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL"))
    _what_is_noticed()


def _what_is_noticed() -> None:
    op.create_table(
        "pulse",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_pulse_one")),
        sa.PrimaryKeyConstraint("one", name="pk_pulse"),
    )
    op.create_table(
        "told_call",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("back_filled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_told_call"),
    )
    op.create_index("ix_told_call_received_at", "told_call", ["received_at"], unique=False, postgresql_using="brin")
    op.create_table(
        "rhythm",
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("spoke", postgresql.BIT(672), nullable=False),
        sa.Column("silent_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["installation_id"], ["installation.id"], name="fk_rhythm_installation_id_installation", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("installation_id", name="pk_rhythm"),
    )
    op.create_index(
        "ix_rhythm_silent_at", "rhythm", ["silent_at"], unique=False, postgresql_where=sa.text("silent_at IS NOT NULL")
    )


def _replace_sources(condition: str) -> None:
    """Comes first: it commits in the middle, and may be run again where what follows fails."""
    # The new condition allows all that the old one did, and the table's lock is held for both statements.
    op.execute("-- squawk-ignore ban-drop-constraint\nALTER TABLE event DROP CONSTRAINT ck_event_source")
    op.execute(f"ALTER TABLE event ADD CONSTRAINT ck_event_source CHECK ({condition}) NOT VALID")
    # Reads the whole log, so under a lock that lets its writers through.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE event VALIDATE CONSTRAINT ck_event_source")


def downgrade() -> None:
    op.execute("UPDATE event SET source = 'aircall' WHERE source = 'backfill'")
    _replace_sources(OLD_SOURCES)
    for table in ("rhythm", "told_call", "pulse", "gap"):
        op.drop_table(table)
