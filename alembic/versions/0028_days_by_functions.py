"""Days of the log are made and dropped by functions of their owner: the service may be a role that owns nothing.

They run with the rights of the role that migrates, whoever calls them: with a search path that no caller chooses, and
for days of the log only. PUBLIC may not call them. A new day gives the rights that the log gives.
"""

from alembic import context, op
from sqlalchemy import text

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# `{log}` is the name of the log's table as a literal. The lock is `LOG_DAYS` of `storage/locks`.
MAKE = """
    CREATE FUNCTION make_log_days(ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $make_log_days$
    DECLARE
        log CONSTANT regclass := {log}::regclass;
        home text;
        day date;
        named text;
        given record;
        made integer := 0;
    BEGIN
        IF ahead IS NULL OR ahead NOT BETWEEN 0 AND 31 THEN
            RAISE EXCEPTION 'days of the log are made for 0 to 31 days ahead' USING ERRCODE = '22023';
        END IF;
        PERFORM pg_advisory_xact_lock(28559150664658276);
        SELECT relnamespace::regnamespace::text INTO home FROM pg_class WHERE oid = log;
        FOR day IN
            SELECT today + n
            FROM (SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date) AS clock (today), generate_series(0, ahead) AS n
            WHERE 'event_' || to_char(today + n, 'YYYYMMDD') NOT IN (
                SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = log)
        LOOP
            named := format('%s.event_%s', home, to_char(day, 'YYYYMMDD'));
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', named, log);
            FOR given IN
                SELECT privilege_type AS rights,
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END AS to_whom
                FROM pg_class, aclexplode(relacl) WHERE oid = log AND grantee <> relowner
            LOOP
                EXECUTE format('GRANT %s ON %s TO %s', given.rights, named, given.to_whom);
            END LOOP;
            -- Attaching takes a lock that lets inserts through; making a partition in one statement would not.
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', log, named,
                           to_char(day, 'YYYY-MM-DD') || ' 00:00+00', to_char(day + 1, 'YYYY-MM-DD') || ' 00:00+00');
            made := made + 1;
        END LOOP;
        RETURN made;
    END
    $make_log_days$
"""
# The last position that is dropped is noted: a reader before it must be told that it missed events.
DROP = """
    CREATE FUNCTION drop_log_day(day date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '300ms' AS $drop_log_day$
    DECLARE
        log CONSTANT regclass := {log}::regclass;
        home text;
        dropped regclass;
    BEGIN
        SELECT relnamespace::regnamespace::text INTO home FROM pg_class WHERE oid = log;
        SELECT oid INTO dropped FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = log AND relname = 'event_' || to_char(day, 'YYYYMMDD');
        IF dropped IS NULL THEN
            RAISE EXCEPTION 'the log has no such day' USING ERRCODE = '42P01';
        END IF;
        IF day >= (clock_timestamp() AT TIME ZONE 'UTC')::date THEN
            RAISE EXCEPTION 'a day of the log is dropped after its end' USING ERRCODE = '22023';
        END IF;
        EXECUTE format(
            'INSERT INTO %s.log_start (dropped_to) SELECT max(position) FROM %s HAVING count(*) > 0 '
            'ON CONFLICT (one) DO UPDATE SET dropped_to = greatest(log_start.dropped_to, excluded.dropped_to)',
            home, dropped);
        EXECUTE format('DROP TABLE %s', dropped);
    END
    $drop_log_day$
"""
FUNCTIONS = "make_log_days(integer), drop_log_day(date)"
# Where a superuser, or a member of the tables' owner, migrates: the days stay their owner's.
TO_THE_OWNER = """
    DO $$
    DECLARE
        keeper regrole := (SELECT relowner FROM pg_class WHERE oid = 'event'::regclass);
    BEGIN
        IF keeper::text <> quote_ident(current_user) THEN
            EXECUTE format('ALTER FUNCTION make_log_days(integer) OWNER TO %s', keeper);
            EXECUTE format('ALTER FUNCTION drop_log_day(date) OWNER TO %s', keeper);
        END IF;
    END $$
"""


def upgrade() -> None:
    for function in (MAKE, DROP):
        op.execute(function.format(log=_log()))
    op.execute(f"REVOKE ALL ON FUNCTION {FUNCTIONS} FROM PUBLIC")
    op.execute(TO_THE_OWNER)


def _log() -> str:
    if context.is_offline_mode():
        return "'public.event'"
    found: str = op.get_bind().scalar(text("SELECT quote_literal(quote_ident(current_schema()) || '.event')"))
    return found


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {FUNCTIONS}")
