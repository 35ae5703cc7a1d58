"""The migrations: they make what the models say, many at once, in both directions, and from the wheel."""

import asyncio
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import alembic.command
import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

import aircall_oauth
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import migrations
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.migrations import alembic_config, newest_schema_version
from aircall_oauth.storage.models.base import Table
from tests.support.service import Service, command_environment, run_command, start_command
from tests.support.tools import tool

ROOT = Path(__file__).parents[2]
ALEMBICS_OWN_TABLE = re.compile(r"CREATE TABLE alembic_version \(.*?\);\n", re.DOTALL)
# A count of attempts does not come near two thousand million.
NOT_FOR_US = ["prefer-bigint-over-int"]
TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name"
SCHEMA = """
    SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
        a.attidentity::text, pg_get_expr(d.adbin, d.adrelid), pg_get_indexdef(c.oid, a.attnum, true), x.indisunique,
        pg_get_expr(x.indpred, x.indrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_index x ON x.indexrelid = c.oid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relname !~ '^alembic_version'
    ORDER BY c.relname, a.attname
"""
# Triggers apart: those are the migrations' own, with their functions.
CONSTRAINTS = """
    SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype <> 't'
        AND conrelid::regclass::text <> 'alembic_version'
    ORDER BY 1, 2
"""


async def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def run_alembic(url: str, direction: Any, revision: str) -> None:
    await asyncio.to_thread(direction, alembic_config(url), revision)


@pytest.fixture
async def migrated(database_url: str) -> str:
    """What the migrations make, without the days that a service makes first."""
    days = await rows(
        database_url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'event'::regclass"
    )
    await rows(database_url, f"DROP TABLE {', '.join(day for (day,) in days)}")
    return database_url


async def test_the_migrated_schema_is_what_autogenerate_would_make(migrated: str) -> None:
    def differences(connection: Connection) -> Any:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Table.metadata)

    opened = Database(migrated)
    async with opened.sessions.engine.connect() as connection:
        found = await connection.run_sync(differences)
    await opened.close()

    assert found == []


async def test_the_migrated_schema_is_what_the_models_make(migrated: str, empty_database: str) -> None:
    opened = Database(empty_database)
    async with opened.sessions.engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    await opened.close()

    assert await rows(migrated, SCHEMA) == await rows(empty_database, SCHEMA)
    assert await rows(migrated, CONSTRAINTS) == await rows(empty_database, CONSTRAINTS)


@pytest.mark.slow
async def test_every_migration_goes_up_and_down_and_up_again(empty_database: str) -> None:
    await run_alembic(empty_database, alembic.command.upgrade, "head")
    once = await rows(empty_database, SCHEMA)
    assert once

    await run_alembic(empty_database, alembic.command.downgrade, "base")
    assert await rows(empty_database, TABLES) == [("alembic_version",)]

    await run_alembic(empty_database, alembic.command.upgrade, "head")
    assert await rows(empty_database, SCHEMA) == once


@pytest.mark.slow
async def test_five_processes_migrate_at_once_and_all_succeed(empty_database: str) -> None:
    environment = command_environment(empty_database)

    ended = await asyncio.gather(*(run_command("migrate", environment=environment) for _ in range(5)))

    assert [(one.exit_code, one.stdout) for one in ended] == [(0, "")] * 5
    assert {one.stderr.splitlines()[-1] for one in ended} == {"The schema is up to date."}
    assert await rows(empty_database, "SELECT version_num FROM alembic_version") == [(newest_schema_version(),)]


async def test_a_schema_newer_than_the_code_is_left_alone(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    await connection.close()

    await migrations.migrate(database_url)

    assert await rows(database_url, "SELECT version_num FROM alembic_version") == [("9999",)]


@pytest.mark.slow
async def test_a_migration_that_does_not_get_its_lock_gives_up_and_changes_nothing(empty_database: str) -> None:
    holder = await asyncpg.connect(empty_database)
    held = holder.transaction()
    await held.start()
    await holder.execute("CREATE TABLE installation (id text)")

    # Without a lock timeout this waits until the test is stopped.
    ended = await run_command("migrate", "--lock-wait", "1s", environment=command_environment(empty_database))

    assert ended.exit_code == 1
    progress, line = ended.stderr.splitlines()
    assert "A table is in use" in progress
    assert line == (
        "aircall-oauth: The database cannot be reached right now; try again. (canceling statement due to lock timeout)"
    )
    await held.rollback()
    await holder.close()
    assert await rows(empty_database, TABLES) == []
    await migrations.migrate(empty_database)


@pytest.mark.slow
async def test_waiting_for_another_migration_is_not_cut_short_by_the_lock_timeout(empty_database: str) -> None:
    """A migration waits for the advisory lock before it sets its timeouts, so a held lock ends no migration."""
    holder = await asyncpg.connect(empty_database)
    await holder.execute("SELECT pg_advisory_lock(x'61697263616C6C'::bigint)")
    process = await start_command("migrate", environment=command_environment(empty_database))

    assert process.stderr is not None
    assert b"Another migration is under way" in await process.stderr.readline()
    await asyncio.sleep(1)  # longer than the lock timeout
    assert process.returncode is None
    assert await rows(empty_database, TABLES) == []
    await holder.close()

    assert await process.wait() == 0
    assert ("installation",) in await rows(empty_database, TABLES)


DAYS_WITHOUT_INDEX = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event'::regclass AND NOT EXISTS (
        SELECT FROM pg_index x JOIN pg_inherits y ON y.inhrelid = x.indexrelid
        WHERE x.indrelid = c.oid AND x.indisvalid AND y.inhparent = 'ix_event_subject_position'::regclass
    )
"""


async def test_days_that_are_there_get_the_index_of_subjects_one_by_one(database_url: str) -> None:
    await run_alembic(database_url, alembic.command.downgrade, "0015")
    days = await rows(database_url, "SELECT relname FROM pg_class WHERE relname ~ '^event_[0-9]{8}$' ORDER BY 1")
    # What a run that was cut short leaves behind.
    await rows(database_url, f"CREATE INDEX {days[0][0]}_subject_position_idx ON {days[0][0]} (type)")

    await migrations.migrate(database_url)

    assert len(days) > 1
    assert await rows(database_url, DAYS_WITHOUT_INDEX) == []
    assert await rows(
        database_url, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_event_subject_position'::regclass"
    ) == [(True,)]


STRONG = """
from alembic import op
revision, down_revision = "9999", "{newest}"
def upgrade() -> None:
    op.execute("ALTER TABLE event ADD COLUMN one_more text")
    op.execute("ALTER TABLE installation ADD COLUMN one_more text")
"""


@pytest.fixture
def with_one_more(tmp_path: Path) -> dict[str, str]:
    """The environment of a version with one more migration, which needs tables for itself."""
    package = Path(aircall_oauth.__file__).parent
    shutil.copytree(package, tmp_path / "aircall_oauth")
    shutil.copytree(migrations.migrations_folder(), tmp_path / "aircall_oauth/_alembic")
    one_more = tmp_path / "aircall_oauth/_alembic/versions/9999_one_more.py"
    one_more.write_text(STRONG.format(newest=newest_schema_version()))
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.slow
async def test_events_flow_while_a_migration_waits_for_a_reader(
    service: Service, with_one_more: dict[str, str]
) -> None:
    await service.installed()
    url = service.settings.database_url.get_secret_value()
    reader, answers = await asyncpg.connect(url), list[int]()
    reading = reader.transaction(isolation="repeatable_read", readonly=True)
    await reading.start()
    await reader.fetch("SELECT count(*) FROM installation, event")

    migrating = await start_command("migrate", environment=command_environment(url) | with_one_more)
    assert migrating.stderr is not None
    waiting = await migrating.stderr.readline()
    # Long enough for a migration that would block all others for five seconds at a time.
    until = asyncio.get_running_loop().time() + 8
    while asyncio.get_running_loop().time() < until:
        body = {"event": "call.created", "token": service.webhook_token(), "data": {"id": len(answers)}}
        answers.append((await service.post_event(json.dumps(body).encode())).status_code)
    assert migrating.returncode is None
    await reading.rollback()
    await reader.close()
    _, rest = await migrating.communicate()

    assert {200} == set(answers)
    assert b"A table is in use" in waiting
    assert migrating.returncode == 0, rest
    assert await rows(url, "SELECT version_num FROM alembic_version") == [("9999",)]


UNFIT = "ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0 STRATEGY FILE_COPY"


async def test_a_database_that_cannot_hold_every_event_is_refused(postgres: Postgres) -> None:
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"CREATE DATABASE latin {UNFIT}")
    try:
        environment = command_environment(postgres.dsn("latin"))
        commands = (("migrate",), ("work",), ("doctor",))
        ended = await asyncio.gather(*(run_command(*command, environment=environment) for command in commands))
    finally:
        await admin.execute("DROP DATABASE latin WITH (FORCE)")
        await admin.close()

    for one in ended:
        assert one.exit_code == 1
        assert "Its encoding is LATIN1" in one.stdout + one.stderr
        assert "UTF8" in one.stdout + one.stderr
        assert "Traceback" not in one.stderr


async def test_what_the_databases_encoding_lacks_is_no_fault_of_the_event(service: Service) -> None:
    await service.installed()
    await service.sql(
        """
        CREATE FUNCTION as_latin1() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM convert_to(NEW.data, 'LATIN1'); RETURN NEW; END $$
        """
    )
    await service.sql("CREATE TRIGGER latin1 BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION as_latin1()")
    body = {"event": "call.created", "token": service.webhook_token(), "data": {"text": "\N{GRINNING FACE}"}}
    sent = json.dumps(body, ensure_ascii=False).encode()

    lacking = await service.post_event(sent)
    await service.let_pass("as_latin1")
    again = await service.post_event(sent)

    assert [503, 200] == [lacking.status_code, again.status_code]


def test_squawk_has_no_complaint_about_the_migrations(tmp_path: Path) -> None:
    squawk = tool("squawk", found_in="the dev dependency group")
    config, sql = alembic_config(), tmp_path / "migrations.sql"
    config.output_buffer = io.StringIO()
    alembic.command.upgrade(config, "head", sql=True)
    printed, of_alembic = ALEMBICS_OWN_TABLE.subn("", config.output_buffer.getvalue())
    assert of_alembic == 1
    assert "CREATE TABLE installation" in printed
    sql.write_text(printed)

    said = run_program(squawk, f"--exclude={','.join(NOT_FOR_US)}", str(sql))

    assert "Found 0 issues in 1 file" in said


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    run_program(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    migrations = {path.name for path in (ROOT / "alembic" / "versions").glob("*.py")}
    assert migrations
    assert {f"aircall_oauth/_alembic/versions/{name}" for name in migrations} <= names
    assert {"aircall_oauth/_alembic/env.py", "aircall_oauth/_alembic/script.py.mako", "aircall_oauth/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests/")]


@pytest.mark.slow
async def test_the_wheel_migrates_a_database(wheel: Path, tmp_path: Path, empty_database: str) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # One more than the checkout has, to see which ones are run.
    extra = f'revision, down_revision = "9999", "{newest_schema_version()}"\ndef upgrade() -> None: ...\n'
    (tmp_path / "aircall_oauth/_alembic/versions/9999_one_more.py").write_text(extra)

    ended = await run_command(
        "migrate", environment=command_environment(empty_database) | {"PYTHONPATH": str(tmp_path)}
    )

    assert ended.exit_code == 0, ended.stderr
    assert await rows(empty_database, "SELECT version_num FROM alembic_version") == [("9999",)]


def run_program(*command: str) -> str:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
