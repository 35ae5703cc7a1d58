"""Events may be encrypted at rest, under a data key of their customer's that can be erased.

The columns are added without touching a row. A version that is still running stores in clear, and shows an encrypted
event with `data` null: encryption is to be switched on when every process is of this version.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# As in migration 0016. A version that is still running gives neither: they are NULL then.
APPEND = """
    CREATE OR REPLACE FUNCTION append_draft() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        appended integer;
    BEGIN
        PERFORM pg_advisory_xact_lock(7161124094370148199), pg_notify('aircall_oauth_log', '');
        WITH drafted AS MATERIALIZED (
            SELECT DISTINCT ON (coalesce(a.key, convert_to(a.id, 'UTF8'))) a.*,
                   sha256(convert_to(NEW.installation_id, 'UTF8') || a.key) AS fingerprint
            FROM unnest(NEW.ids, NEW.keys, NEW.times, NEW.texts, NEW.subjects{given}) WITH ORDINALITY
                 AS a (id, key, occurred_at, data, subject{named}, number)
            ORDER BY coalesce(a.key, convert_to(a.id, 'UTF8')), number
        ), new AS (
            INSERT INTO told_call (fingerprint, received_at, back_filled)
            SELECT fingerprint, now(), true FROM drafted WHERE fingerprint IS NOT NULL
            ON CONFLICT (fingerprint) DO NOTHING
            RETURNING fingerprint
        ), kept AS (
            INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                               occurred_at, source, data, subject{columns})
            SELECT nextval('event_position'), clock_timestamp(), id, NEW.installation_id, NEW.company_id, NEW.owner,
                   NEW.type, NEW.resource, coalesce(occurred_at, clock_timestamp()), NEW.source, data, subject{values}
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
    op.execute("ALTER TABLE event ADD COLUMN IF NOT EXISTS data_key text, ADD COLUMN IF NOT EXISTS sealed bytea")
    op.execute(
        "ALTER TABLE event_draft ADD COLUMN IF NOT EXISTS data_key text, ADD COLUMN IF NOT EXISTS sealed bytea[]"
    )
    op.execute("""
        CREATE TABLE data_key (
            id text CONSTRAINT pk_data_key PRIMARY KEY,
            installation_id text NOT NULL,
            owner text,
            key_sealed text,
            created_at timestamptz NOT NULL DEFAULT now(),
            erased_at timestamptz
        )
    """)
    op.execute("""
        CREATE UNIQUE INDEX uq_data_key_installation_id ON data_key (installation_id, owner) NULLS NOT DISTINCT
        WHERE erased_at IS NULL
    """)
    op.execute(
        APPEND.format(
            given=", NEW.sealed", named=", sealed", columns=", data_key, sealed", values=", NEW.data_key, sealed"
        )
    )


def downgrade() -> None:
    op.execute(APPEND.format(given="", named="", columns="", values=""))
    op.execute("DROP TABLE data_key")
    op.execute("ALTER TABLE event_draft DROP COLUMN sealed, DROP COLUMN data_key")
    op.execute("ALTER TABLE event DROP COLUMN sealed, DROP COLUMN data_key")
