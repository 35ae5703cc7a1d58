"""A database that cannot be used is one line: what, and what to do; a fault that lasts is told from an outage."""

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from sqlmodel import select

from aircall_oauth.errors import AppError, DatabaseAway
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import database as storage_database
from aircall_oauth.storage import epochs
from aircall_oauth.storage.away import database_errors, reason
from aircall_oauth.storage.database import Database
from tests.support.brokers import Certificate
from tests.support.odd_servers import refusing_postgres, silent_postgres, tls_door
from tests.support.processes import eventually
from tests.support.service import Service, command_environment, run_command, start_command, tcp_door

SETTING = "AIRCALL_OAUTH_DATABASE_URL"
# Whatever asks the database, each in its own way; a process takes seconds to start, so not every one meets every case.
MIGRATE, KEYS, DOCTOR = ("migrate",), ("keys", "list"), ("doctor", "--json")
LASTING = [
    (MIGRATE, "28P01", 'password authentication failed for user "shop"', "password"),
    (KEYS, "28P01", 'password authentication failed for user "shop"', "password"),
    (
        DOCTOR,
        "28000",
        'no pg_hba.conf entry for host "10.1.2.3", user "shop", database "log", no encryption',
        "pg_hba.conf",
    ),
    (MIGRATE, "3D000", 'database "log" does not exist', "Create the database"),
    (KEYS, "53300", "sorry, too many clients already", "max_connections"),
    (DOCTOR, "08P01", "unsupported startup parameter: options", "ALTER ROLE"),
    (DOCTOR, "08P01", "SASL authentication failed", "the password in AIRCALL_OAUTH_DATABASE_URL"),
    (MIGRATE, "08P01", "no such database: log", "the pooler's own list"),
    (KEYS, "08P01", "no more connections allowed (max_client_conn)", "Raise this setting of the pooler's"),
    (KEYS, "08P01", "something else", "AIRCALL_OAUTH_DATABASE_DIRECT_URL"),
]


def a_url(port: int, query: str = "") -> str:
    # Patient, for a busy machine.
    parameters = "&".join(part for part in ("connect_timeout=60", query) if part)
    return f"postgresql://shop:c4n4ry@127.0.0.1:{port}/log?{parameters}"


async def line_of(*command: str, url: str, **environment: str) -> str:
    """What a command that can't be done says, in its one line."""
    ended = await run_command(*command, environment=command_environment(url) | environment)
    assert ended.exit_code == 1, ended.stderr
    assert "c4n4ry" not in ended.stdout + ended.stderr
    if command[0] == "doctor":
        found = json.loads(ended.stdout)[-1]
        assert (found["check"], found["level"]) == ("database", "problem")
        return f"{found['seen']}. {found['advice']}"
    ours = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    (line,) = ours
    assert line.startswith("aircall-oauth: ")
    return line


@pytest.mark.parametrize(("command", "sqlstate", "words", "advice"), LASTING)
async def test_a_refusal_is_told_in_postgresqls_words_with_what_to_do(
    command: tuple[str, ...], sqlstate: str, words: str, advice: str
) -> None:
    async with refusing_postgres(sqlstate, words) as port:
        line = await line_of(*command, url=a_url(port, "sslmode=disable"))

    assert words in line
    assert advice in line
    assert "try again" not in line


async def test_a_refusal_at_the_direct_url_names_its_setting(database_url: str) -> None:
    words = 'password authentication failed for user "shop"'
    async with refusing_postgres("28P01", words) as port:
        direct = {"AIRCALL_OAUTH_DATABASE_DIRECT_URL": a_url(port, "sslmode=disable")}
        said = [await line_of(*command, url=database_url, **direct) for command in (DOCTOR, MIGRATE)]

    for line in said:
        assert words in line
        assert "the password in AIRCALL_OAUTH_DATABASE_DIRECT_URL" in line


async def test_a_direct_url_that_leads_elsewhere_is_a_finding(database_url: str, empty_database: str) -> None:
    environment = command_environment(database_url) | {"AIRCALL_OAUTH_DATABASE_DIRECT_URL": empty_database}
    ended = await run_command(*DOCTOR, environment=environment)
    found = json.loads(ended.stdout)[-1]

    assert (found["check"], found["level"]) == ("pooler", "problem")
    assert found["seen"].startswith("AIRCALL_OAUTH_DATABASE_DIRECT_URL leads to another database")


async def test_an_outage_is_told_as_one_that_passes() -> None:
    async with refusing_postgres("57P03", "the database system is starting up") as port:
        starting = await line_of("migrate", url=a_url(port))
    async with refusing_postgres("08P01", "query_wait_timeout") as port:
        no_session = await line_of("doctor", "--json", url=a_url(port))
    nobody = await line_of("migrate", url=a_url(free_port()))

    assert "the database system is starting up" in starting
    assert "default_pool_size" in no_session
    assert "refused" in nobody
    assert "try again" in starting
    assert "try again" in nobody


@pytest.mark.parametrize("command", [("serve", "--port", "{port}"), ("work",)], ids=["serve", "work"])
async def test_a_process_that_waits_for_its_database_says_why_in_its_log(command: tuple[str, ...]) -> None:
    words = 'password authentication failed for user "shop"'
    arguments = [word.format(port=free_port()) for word in command]
    async with refusing_postgres("28P01", words) as port:
        process = await start_command(*arguments, environment=command_environment(a_url(port, "sslmode=disable")))
        try:
            async with asyncio.timeout(30):
                told = list[dict[str, str]]()
                while not any(
                    words in line["reason"] and SETTING in line["reason"] for line in told if "reason" in line
                ):
                    assert process.stderr is not None
                    line = await process.stderr.readline()
                    assert line, told
                    told.append(json.loads(line))
            process.terminate()
            _, rest = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert b"c4n4ry" not in rest
    assert "c4n4ry" not in json.dumps(told)


@asynccontextmanager
async def role(server: Postgres, *databases: str) -> AsyncIterator[str]:
    """A user of PostgreSQL's that owns nothing."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("CREATE ROLE shop LOGIN")
    try:
        yield "shop"
    finally:
        for database in databases:
            inside = await asyncpg.connect(server.dsn(database))
            await inside.execute("DROP OWNED BY shop")
            await inside.close()
        await admin.execute("DROP ROLE shop")
        await admin.close()


async def test_a_user_who_may_not_create_is_told_so(postgres: Postgres, empty_database: str) -> None:
    async with role(postgres, "empty") as user:
        url = empty_database.replace("postgres@", f"{user}@")
        said = [await line_of(*command, url=url) for command in (MIGRATE, DOCTOR)]
        serving = await line_of("serve", "--port", str(free_port()), url=url)

    for line in [*said, serving]:
        assert "'shop' may not create tables in the schema 'public'" in line
        assert "GRANT" in line


async def test_a_user_who_may_only_change_rows_is_told_so(postgres: Postgres, service: Service) -> None:
    async with role(postgres, "test") as user:
        await service.sql("GRANT ALL ON SCHEMA public TO shop")
        await service.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO shop")
        await service.sql("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO shop")
        url = service.settings.database_url.get_secret_value().replace("postgres@", f"{user}@")
        said = [await line_of(*command, url=url) for command in (MIGRATE, KEYS)]
        working = await line_of("work", url=url)

    for line in [*said, working]:
        assert "'shop' does not own its tables (alembic_version, event)" in line
        assert "owner" in line
    # All that it lacks is to make and drop days.
    assert "lacks EXECUTE on make_log_days(integer), EXECUTE on drop_log_day(date)." in said[1]


async def test_an_error_nobody_thought_of_is_one_line_too(service: Service) -> None:
    url = service.settings.database_url.get_secret_value()
    await service.sql("ALTER TABLE api_key RENAME COLUMN owner TO elsewhere")

    line = await line_of("keys", "list", url=url)

    assert "owner" in line
    assert "migrate" in line


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate.make(tmp_path)


async def test_what_is_wrong_with_tls_is_told(database_url: str, certificate: Certificate, tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    async with tls_door(database_url, certificate) as encrypted, tcp_door(database_url) as plain:
        cases = {
            a_url(encrypted, "sslmode=verify-full&sslrootcert=system"): "the server's certificate is not trusted",
            a_url(encrypted, f"sslmode=verify-full&sslrootcert={missing}"): str(missing),
            a_url(encrypted, "sslmode=verify-ca"): "root.crt",
            a_url(plain, f"sslmode=verify-full&sslrootcert={certificate.certificate}"): "does not speak TLS",
        }
        said = await asyncio.gather(*(line_of("migrate", url=url, HOME=str(tmp_path)) for url in cases))

    for line, words in zip(said, cases.values(), strict=True):
        assert words in line
        assert SETTING in line
        assert "try again" not in line


async def test_the_machines_own_certificates_are_trusted_where_told(
    database_url: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    async with tls_door(database_url, certificate) as port:
        database = Database(f"postgresql://postgres@127.0.0.1:{port}/test?sslmode=verify-full&sslrootcert=system")
        connection = await database.connect()
        try:
            assert await connection.fetchval("SELECT 1") == 1
        finally:
            await connection.close()
            await database.close()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_home_that_cannot_be_read_is_named(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0)
    monkeypatch.setenv("HOME", str(home))
    async with tcp_door(database_url) as port:
        database = Database(f"postgresql://postgres@127.0.0.1:{port}/test")
        with as_nobody(), pytest.raises(DatabaseAway) as away:
            await database.connect()
        await database.close()

    assert "Permission denied" in reason(away.value)
    assert "HOME" in reason(away.value)


# As process 1 of a container is: for it, SIGTERM has no default action.
LIKE_PROCESS_ONE = 'trap "" TERM; exec "$@"'


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [("serve", "--port", "{port}"), ("work",), ("keys", "list")], ids=["serve", "work", "keys"]
)
async def test_a_command_that_waits_ends_on_sigterm(command: tuple[str, ...]) -> None:
    arguments = [word.format(port=free_port()) for word in command]
    async with silent_postgres() as (port, came):
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", LIKE_PROCESS_ONE, "sh", sys.executable, "-m", "aircall_oauth", *arguments),
            env=command_environment(a_url(port)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(30):
            await came.wait()
        process.terminate()
        try:
            async with asyncio.timeout(30):
                assert await process.wait() == 128 + signal.SIGTERM
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.slow
async def test_a_migration_that_waits_for_another_one_ends_on_sigterm(empty_database: str) -> None:
    holder = await asyncpg.connect(empty_database)
    await holder.execute("SELECT pg_advisory_lock(x'61697263616C6C'::bigint)")
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", LIKE_PROCESS_ONE, "sh", sys.executable, "-m", "aircall_oauth", "migrate"),
        env=command_environment(empty_database),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(30):
            said = await process.stderr.readline()
            process.terminate()
            _, more = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await holder.close()

    assert process.returncode == 128 + signal.SIGTERM
    assert (said, more) == (b"Another migration is under way; waiting for it.\n", b"")


@pytest.mark.parametrize("how", ["driver_connection", "session", "connect", "while it connects"])
async def test_a_cancelled_task_ends_although_its_rollback_fails(
    service: Service, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, begun = service.resources.database, asyncio.Event()

    async def lose(connection: asyncpg.Connection) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            connection.terminate()

    async def work() -> None:
        match how:
            case "driver_connection":
                async with database.driver_connection() as connection, connection.transaction():
                    await lose(connection)
            case "session":
                async with database.session() as session:
                    await session.exec(select(1))
                    raw = await (await session.connection()).get_raw_connection()
                    await lose(raw.driver_connection)
            case "connect":
                with database_errors():
                    connection = await database.connect()
                    async with connection.transaction():
                        await lose(connection)
            case "while it connects":
                monkeypatch.setattr(epochs, "notice", lose_in_transaction)
                await database.connect()

    async def lose_in_transaction(connection: asyncpg.Connection) -> None:
        if asyncio.current_task() is task:
            async with connection.transaction():
                await lose(connection)

    async def work_on() -> None:
        while True:
            with suppress(AppError):
                await work()

    task = asyncio.create_task(work_on())
    async with asyncio.timeout(20):
        await begun.wait()
        task.cancel()
        await asyncio.wait([task])

    assert task.cancelled()


async def test_a_connection_whose_opening_is_cancelled_is_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_database, "NEVER_OFF", "SELECT pg_sleep(60)")
    opened, looking = Database(database_url), await asyncpg.connect(database_url)

    async def borrow() -> None:
        async with opened.driver_connection():
            raise AssertionError("it was lent")

    borrowing = asyncio.create_task(borrow())
    try:
        await eventually(lambda: looking.fetch("SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"))
        borrowing.cancel()
        with suppress(asyncio.CancelledError):
            await borrowing
    finally:
        await opened.close()
        await looking.close()
    # What is left open is told by the garbage collector, as an error of the test.
    gc.collect()
