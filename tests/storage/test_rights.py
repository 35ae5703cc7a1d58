"""A role that owns the tables and migrates, and a role that reads and writes rows and runs the service."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import alembic.command
import asyncpg
import pytest

from aircall_oauth.errors import DatabaseUnfit, NotReady, RoleRefused
from aircall_oauth.operations import doctor
from aircall_oauth.resources import open_resources
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.server import worker
from aircall_oauth.storage import migrations, rights
from aircall_oauth.storage.models.base import Table
from tests.support.service import command_environment, run_command, run_service, settings_for

# A name that has to be quoted wherever it stands.
SCHEMA = "Aircall's"
ALL_DAYS = "SELECT inhrelid::regclass::text AS day FROM pg_inherits WHERE inhparent = 'event'::regclass"
OLD_DAY = """
    CREATE TABLE event_20200101 PARTITION OF event FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00');
    GRANT SELECT ON event_20200101 TO clerk;
    INSERT INTO event (received_at, id, installation_id, company_id, type, source, data)
    VALUES ('2020-01-01 12:00+00', 'evt_old', 'ins_1', 1, 'call.ended', 'aircall', '{}');
"""
EVERYTHING = """
    SELECT oid, relnamespace, relname, relacl::text, pg_get_expr(relpartbound, oid) AS bounds FROM pg_class
    WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'Aircall''s') AND relkind IN ('r', 'p')
    ORDER BY oid
"""
REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError, asyncpg.UndefinedTableError)
# What a service that was taken over might try. Each is refused, and changes nothing.
HOSTILE = [
    "CREATE TABLE of_mine (id int)",
    "DROP TABLE installation",
    "DROP TABLE event_20200101",
    "ALTER TABLE event DISABLE TRIGGER ALL",
    "TRUNCATE event",
    "ALTER TABLE audit DISABLE TRIGGER audit_only_grows",
    "UPDATE audit SET actor = 'another'",
    "UPDATE alembic_version SET version_num = '0001'",
    "CREATE OR REPLACE FUNCTION append_draft() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "ALTER FUNCTION drop_log_day(date) SET search_path = public",
    "SELECT make_log_days(NULL)",
    "SELECT make_log_days(-1)",
    "SELECT make_log_days(32)",
    "SELECT make_log_days(2147483647)",
    "SELECT drop_log_day(NULL)",
    "SELECT drop_log_day('infinity')",
    "SELECT drop_log_day('-infinity')",
    "SELECT drop_log_day('0001-01-01 BC')",
    "SELECT drop_log_day('2019-01-01')",
    "SELECT drop_log_day((clock_timestamp() AT TIME ZONE 'UTC')::date)",
    "SELECT drop_log_day((clock_timestamp() AT TIME ZONE 'UTC')::date + 1)",
]
# Names that stand before ours on a search path: a function of the owner's that looked there would use them.
SHADOWED = """
    CREATE TEMP TABLE event (received_at timestamptz) PARTITION BY RANGE (received_at);
    CREATE TEMP TABLE event_20200101 PARTITION OF event FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
    CREATE TEMP TABLE log_start (one bool, dropped_to bigint);
    SET search_path = pg_temp;
    SET TimeZone = 'Pacific/Kiritimati';
    SET DateStyle = 'SQL, DMY';
"""


def test_every_table_is_among_those_that_a_role_needs_rights_on() -> None:
    assert sorted(rights.TABLES) == sorted({*Table.metadata.tables, "alembic_version"})


@dataclass(frozen=True)
class TwoRoles:
    """One database's URLs: of the role that owns, and of the one that the service has."""

    owner: str
    service: str
    admin: str


async def run_sql(url: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements; what the last one returns."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return list(await connection.fetch(statements[-1]))
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def roles(postgres: Postgres) -> Iterator[TwoRoles]:
    """A database with a schema of its own, migrated by the role that owns it, with the grants for another."""
    admin, options = postgres.dsn("roles"), quote(f'-csearch_path="{SCHEMA}"')
    owner, service = (f"{admin.replace('postgres@', f'{role}@')}&options={options}" for role in ("keeper", "clerk"))
    asyncio.run(make(postgres, admin, owner))
    yield TwoRoles(owner, service, admin)
    asyncio.run(
        run_sql(postgres.dsn(), "DROP DATABASE roles WITH (FORCE)", "DROP ROLE clerk, keeper, stranger", "SELECT 1")
    )


async def make(postgres: Postgres, admin: str, owner: str) -> None:
    roles = [f"CREATE ROLE {role} LOGIN" for role in ("keeper", "clerk", "stranger")]
    await run_sql(postgres.dsn(), "CREATE DATABASE roles STRATEGY FILE_COPY", *roles, "SELECT 1")
    await run_sql(admin, f'CREATE SCHEMA "{SCHEMA}" AUTHORIZATION keeper', "SELECT 1")
    await migrations.migrate(owner)
    grants = await migrations.grants(owner, "clerk")
    # They may be given again.
    await run_sql(owner, grants, grants, "SELECT 1")


async def test_a_role_that_reads_and_writes_rows_runs_the_service_past_its_days(roles: TwoRoles) -> None:
    async with run_service(settings_for(roles.service)) as service:
        installation_id = await service.installed()
        days = await run_sql(roles.owner, ALL_DAYS)
        await run_sql(roles.owner, f"DROP TABLE {', '.join(each['day'] for each in days)}", OLD_DAY, "SELECT 1")

        body = {"event": "call.created", "token": service.webhook_token(), "data": {"id": 1}}
        answer = await service.post_event(json.dumps(body).encode())
        for chore in worker.CHORES:
            await chore.work(service.resources)
        partner = await service.partner()
        deleted = await partner.delete(f"/v1/installations/{installation_id}")
        events = (await partner.get("/v1/events")).json()["events"]
        found = await doctor.rights_findings(service.resources)
        dropped = await service.sql("SELECT dropped_to FROM log_start")

    assert (answer.status_code, deleted.status_code) == (200, 204)
    assert len(await run_sql(roles.owner, ALL_DAYS)) == 8
    assert len(dropped) == 1
    assert [each["type"] for each in events] == ["call.created", "installation.removed"]
    assert [(each.level, each.seen) for each in found] == [("ok", "'clerk' reads and writes rows, and owns nothing")]


async def test_the_services_role_can_make_and_drop_nothing_but_days(roles: TwoRoles) -> None:
    await run_sql(roles.owner, "SELECT make_log_days(7)")
    before = await run_sql(roles.admin, EVERYTHING)
    hostile = await asyncpg.connect(roles.service)
    try:
        for statement in HOSTILE:
            with pytest.raises(REFUSED):
                await hostile.execute(statement)
        assert await run_sql(roles.admin, EVERYTHING) == before

        await run_sql(roles.owner, OLD_DAY, "SELECT 1")
        await hostile.execute(SHADOWED)
        await hostile.execute(f"""SELECT "{SCHEMA}".make_log_days(8), "{SCHEMA}".drop_log_day('2020-01-01')""")

        made = {row["bounds"] for row in await run_sql(roles.admin, EVERYTHING)} - {row["bounds"] for row in before}
        (bounds,) = made
        assert bounds.count(" 00:00:00+00'") == 2
        assert await hostile.fetchval("SELECT count(*) FROM log_start") == 0
        assert await hostile.fetchval("SELECT to_regclass('event_20200101') IS NOT NULL")
    finally:
        await hostile.close()


async def test_a_right_that_is_missing_is_named(roles: TwoRoles) -> None:
    stranger = roles.service.replace("clerk@", "stranger@")
    printed = await run_command("migrate", "--print-grants", "stranger", environment=command_environment(roles.owner))
    later = f'ALTER DEFAULT PRIVILEGES IN SCHEMA "{SCHEMA}" REVOKE ALL ON TABLES FROM stranger'
    await run_sql(roles.owner, printed.stdout, "REVOKE MAINTAIN ON parked FROM stranger", later, "SELECT 1")
    async with open_resources(settings_for(stranger)) as resources:
        doubts = await doctor.rights_findings(resources)
    revoked = ("REVOKE INSERT ON parked FROM stranger", "REVOKE EXECUTE ON FUNCTION make_log_days FROM stranger")
    await run_sql(roles.owner, *revoked, "SELECT 1")

    told = [found async for found in doctor.examine(settings_for(stranger))][-1]
    with pytest.raises(DatabaseUnfit, match=r"does not own its tables .*Connect as their owner"):
        await migrations.migrate(stranger)

    assert [each.seen.partition(" what is erased")[0] for each in doubts[1:]] == [
        "it will have no rights on tables that later versions bring",
        "it may not VACUUM:",
    ]
    assert (told.check, told.level) == ("database", "problem")
    assert told.seen.endswith("and lacks INSERT on parked, EXECUTE on make_log_days(integer).")
    assert "migrate --print-grants stranger" in str(told.advice)


@pytest.mark.parametrize("role", ["keeper", "public", "", "two\nlines"])
async def test_grants_are_for_one_role_that_owns_nothing(roles: TwoRoles, role: str) -> None:
    with pytest.raises(RoleRefused):
        await migrations.grants(roles.owner, role)


async def test_grants_name_a_role_that_is_not_there_and_wait_for_the_tables(roles: TwoRoles) -> None:
    assert 'CREATE ROLE "ne""w" LOGIN' in await migrations.grants(roles.owner, 'ne"w')
    with pytest.raises(NotReady):
        await migrations.grants(roles.admin, "clerk")


async def test_days_stay_their_owners_though_a_superuser_migrates(postgres: Postgres, database_url: str) -> None:
    """As where the tables were given to the service's role after the first migration."""
    await asyncio.to_thread(alembic.command.downgrade, migrations.alembic_config(database_url), "0027")
    days = await run_sql(database_url, ALL_DAYS)
    tables = [each["day"] for each in days] + ["event", "log_start", "alembic_version"]
    owned = [f"ALTER TABLE {table} OWNER TO holder" for table in tables]
    await run_sql(database_url, "CREATE ROLE holder LOGIN", "GRANT CREATE ON SCHEMA public TO holder", *owned, ALL_DAYS)
    try:
        await migrations.migrate(database_url)
        made = await run_sql(database_url.replace("postgres@", "holder@"), "SELECT make_log_days(9)")
    finally:
        await run_sql(
            database_url, "REASSIGN OWNED BY holder TO postgres", "DROP OWNED BY holder", "DROP ROLE holder", ALL_DAYS
        )

    assert made[0]["make_log_days"] == 2
