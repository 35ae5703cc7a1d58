"""Drafts: what a transaction adds to the log, put there by PostgreSQL itself while it commits.

The log's lock is taken when nothing of the transaction is left to do but to commit, in the same message: so no client,
however slow or silent, has it while it is waited for.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# The lock and the channel are those of `eventlog.py`. A call whose end was told already is not told again.
APPEND = """
    CREATE FUNCTION append_draft() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        appended integer;
    BEGIN
        PERFORM pg_advisory_xact_lock(7161124094370148199), pg_notify('aircall_oauth_log', '');
        WITH drafted AS MATERIALIZED (
            SELECT DISTINCT ON (coalesce(a.key, convert_to(a.id, 'UTF8'))) a.*,
                   sha256(convert_to(NEW.installation_id, 'UTF8') || a.key) AS fingerprint
            FROM unnest(NEW.ids, NEW.keys, NEW.times, NEW.texts) WITH ORDINALITY
                 AS a (id, key, occurred_at, data, number)
            ORDER BY coalesce(a.key, convert_to(a.id, 'UTF8')), number
        ), new AS (
            INSERT INTO told_call (fingerprint, received_at, back_filled)
            SELECT fingerprint, now(), true FROM drafted WHERE fingerprint IS NOT NULL
            ON CONFLICT (fingerprint) DO NOTHING
            RETURNING fingerprint
        ), kept AS (
            INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                               occurred_at, source, data)
            SELECT nextval('event_position'), clock_timestamp(), id, NEW.installation_id, NEW.company_id, NEW.owner,
                   NEW.type, NEW.resource, coalesce(occurred_at, clock_timestamp()), NEW.source, data
            FROM (SELECT * FROM drafted WHERE fingerprint IS NULL OR fingerprint IN (SELECT fingerprint FROM new)
                  ORDER BY number) AS in_order
            RETURNING id
        )
        SELECT count(*) INTO appended FROM kept;
        UPDATE gap SET added = added + appended WHERE id = NEW.gap_id;
        DELETE FROM event_draft WHERE id = NEW.id;
        RETURN NULL;
    END $$
"""
AT_COMMIT = """
    CREATE CONSTRAINT TRIGGER append_at_commit AFTER INSERT ON event_draft
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION append_draft()
"""


def upgrade() -> None:
    # Nothing stays in it: what is put in is taken out while the transaction commits.
    op.create_table(
        "event_draft",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("gap_id", sa.Text(), nullable=True),
        sa.Column("installation_id", sa.Text(), nullable=False),
        sa.Column("company_id", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("ids", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("keys", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.Column("times", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("texts", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_draft"),
        prefixes=["UNLOGGED"],
    )
    op.execute(APPEND)
    op.execute(AT_COMMIT)


def downgrade() -> None:
    op.drop_table("event_draft")
    op.execute("DROP FUNCTION append_draft()")
