"""What an event is about, such as `call:123`, so that all events of a phone call are found at once.

The column is added without touching a row. The index is made for each day by itself, while events come in.
"""

from alembic import context, op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INDEX = "ix_event_subject_position"
ON = "(subject, position) WHERE subject IS NOT NULL"
# The days whose index is not part of the log's index yet.
WITHOUT = f"""
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event'::regclass AND NOT EXISTS (
        SELECT FROM pg_index x JOIN pg_inherits y ON y.inhrelid = x.indexrelid
        WHERE x.indrelid = c.oid AND y.inhparent = '{INDEX}'::regclass
    )
    ORDER BY c.relname
"""  # noqa: S608 - only constants of ours are put in
# As in migration 0010. A version that is still running gives no subjects: they are NULL then.
APPEND = """
    CREATE OR REPLACE FUNCTION append_draft() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        appended integer;
    BEGIN
        PERFORM pg_advisory_xact_lock(7161124094370148199), pg_notify('aircall_oauth_log', '');
        WITH drafted AS MATERIALIZED (
            SELECT DISTINCT ON (coalesce(a.key, convert_to(a.id, 'UTF8'))) a.*,
                   sha256(convert_to(NEW.installation_id, 'UTF8') || a.key) AS fingerprint
            FROM unnest(NEW.ids, NEW.keys, NEW.times, NEW.texts{subjects}) WITH ORDINALITY
                 AS a (id, key, occurred_at, data{subject}, number)
            ORDER BY coalesce(a.key, convert_to(a.id, 'UTF8')), number
        ), new AS (
            INSERT INTO told_call (fingerprint, received_at, back_filled)
            SELECT fingerprint, now(), true FROM drafted WHERE fingerprint IS NOT NULL
            ON CONFLICT (fingerprint) DO NOTHING
            RETURNING fingerprint
        ), kept AS (
            INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                               occurred_at, source, data{subject})
            SELECT nextval('event_position'), clock_timestamp(), id, NEW.installation_id, NEW.company_id, NEW.owner,
                   NEW.type, NEW.resource, coalesce(occurred_at, clock_timestamp()), NEW.source, data{subject}
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


def upgrade() -> None:
    op.execute("ALTER TABLE event ADD COLUMN IF NOT EXISTS subject text")
    op.execute("ALTER TABLE event_draft ADD COLUMN IF NOT EXISTS subjects text[]")
    op.execute(APPEND.format(subjects=", NEW.subjects", subject=", subject"))
    # Reads no row: the days have their own, made below, and a day that is made meanwhile gets one at once.
    op.execute(
        f"-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX IF NOT EXISTS {INDEX} ON ONLY event {ON}"
    )
    if not context.is_offline_mode():
        _index_the_days()


def _index_the_days() -> None:
    """Commits in the middle; what was made before is left as it is when it is run again."""
    days = [name for (name,) in op.get_bind().exec_driver_sql(WITHOUT)]
    with op.get_context().autocommit_block():
        for day in days:
            # One that a broken run left behind is not valid.
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {day}_subject_position_idx")
            op.execute(f"CREATE INDEX CONCURRENTLY {day}_subject_position_idx ON {day} {ON}")
            op.execute(f"ALTER INDEX {INDEX} ATTACH PARTITION {day}_subject_position_idx")


def downgrade() -> None:
    op.execute(f"DROP INDEX {INDEX}")
    op.execute(APPEND.format(subjects="", subject=""))
    op.execute("ALTER TABLE event_draft DROP COLUMN subjects")
    op.execute("ALTER TABLE event DROP COLUMN subject")
