"""A pooler between us and PostgreSQL: in session mode it is not noticed, in transaction mode it is refused at start."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import text

from aircall_oauth.errors import DirectElsewhere, PoolerRefused
from aircall_oauth.events.notify import open_notifier, wait_for
from aircall_oauth.operations.doctor import Level, connection_findings
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.storage import database, migrations
from aircall_oauth.storage.hosts import Route
from aircall_oauth.storage.poolers import Sessions, sessions_behind
from tests.support.poolers import pgbouncer
from tests.support.processes import eventually, world
from tests.support.service import SECRET_KEY, command_environment, run_command, run_service, settings_for

PORT = str(free_port())
WEBHOOK = "/aircall/webhook"
EVENTS = 200
NEW_KEY = base64.b64encode(b"n" * 32).decode()


@pytest.mark.parametrize("round_robin", [0, 1])
@pytest.mark.parametrize("command", [("serve", "--port", PORT), ("work",), ("migrate",), ("doctor",)])
async def test_a_pooler_in_transaction_mode_is_refused_in_one_line(
    command: tuple[str, ...], round_robin: int, database_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", round_robin=round_robin) as url:
        async with asyncio.timeout(30):
            ended = await run_command(*command, environment=command_environment(url))

    told = ended.stdout + ended.stderr
    assert ended.exit_code != 0
    assert "pool_mode=session" in told
    assert "AIRCALL_OAUTH_DATABASE_DIRECT_URL" in told
    assert "Traceback" not in told


async def test_through_a_pooler_in_session_mode_everything_works(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="session") as url:
        await migrations.migrate(url)
        async with run_service(settings_for(url)) as service:
            installation_id = await service.install()
            answer = await service.post_event(_event(service.webhook_token()))
            ready = await service.browser.get("/readyz")
            async with open_notifier(service.resources.database) as notifier:
                # It polls every second as well; growth that was notified, not polled, comes sooner or later.
                async def rings() -> bool:
                    growth = notifier.next_growth()
                    await service.sql("NOTIFY aircall_oauth_log")
                    return await wait_for(growth, 0.5)

                await eventually(rings)
            partner = await service.partner()
            deleted = await partner.delete(f"/v1/installations/{installation_id}")

    assert (answer.status_code, ready.status_code, deleted.status_code) == (200, 200, 204)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "round_robin"), [("transaction", 0), ("transaction", 1), ("session", 0)])
async def test_a_pooler_with_a_direct_url_beside_it_passes_the_acceptance_run(
    empty_database: str, tmp_path: Path, mode: str, round_robin: int
) -> None:
    async with (
        pgbouncer(empty_database, tmp_path, mode=mode, round_robin=round_robin) as url,
        world(tmp_path, url, DATABASE_DIRECT_URL=empty_database, METRICS_PORT="0") as it,
    ):
        migrated = [await run_command("migrate", environment=it.environment) for _ in range(2)]
        process = await it.start_service("--with-worker")
        callback = await it.browser.get(await it.consent())
        token, partner = await it.webhook_token(), await it.partner()
        end = (await partner.get("/v1/events")).json()["next"]
        waiting = asyncio.create_task(partner.get("/v1/events", params={"wait": 20, "after": end}))
        answers = await asyncio.gather(*(it.browser.post(WEBHOOK, content=_event(token, n)) for n in range(EVENTS)))
        woken = await waiting
        it.environment["AIRCALL_OAUTH_SECRET_KEYS"] = f"k2:{NEW_KEY},k1:{SECRET_KEY}"
        rotated = await run_command("secrets", "rotate", environment=it.environment)
        doctor = await run_command("doctor", "--json", environment=it.environment)
        seen = {finding["check"]: finding for finding in json.loads(doctor.stdout)}
        kept = await it.sql("SELECT count(*) AS n FROM event WHERE type = 'call.created'")
        await partner.aclose()

    assert [ended.exit_code for ended in migrated] == [0, 0], migrated
    assert callback.status_code == 303
    assert {answer.status_code for answer in answers} == {200}
    assert (kept[0]["n"], woken.status_code, bool(woken.json()["events"])) == (EVENTS, 200, True)
    assert rotated.exit_code == 0, rotated.stderr
    assert mode in seen["pooler"]["seen"]
    assert (seen["database"]["level"], seen["connections"]["level"]) == ("ok", "ok")
    assert "error" not in {json.loads(line)["level"] for line in process.said().splitlines()}


@pytest.mark.parametrize(
    ("mode", "has_direct", "pooled", "at_postgresql"),
    [
        ("session", False, "18 connections by a web process at most, 16 by a worker, 24", "18 at most, a worker 16"),
        ("session", True, "15 connections by a web process at most, 10 by a worker, 15", "18 at most, a worker 16"),
        ("transaction", True, "15 connections by a web process at most, 10 by a worker, 15", "3 at most, a worker 6"),
    ],
)
async def test_the_doctor_says_what_a_pooler_is_given_and_what_postgresql(
    mode: str, has_direct: bool, pooled: str, at_postgresql: str, database_url: str, tmp_path: Path
) -> None:
    direct = {"DATABASE_DIRECT_URL": database_url} if has_direct else {}
    async with (
        pgbouncer(database_url, tmp_path, mode=mode) as url,
        run_service(settings_for(url, **direct)) as service,
    ):
        pooler, found = await connection_findings(service.resources)
        await service.sql("ALTER DATABASE test CONNECTION LIMIT 8")
        _, crowded = await connection_findings(service.resources)

    assert (pooler.level, found.level, crowded.level) == (Level.OK, Level.OK, Level.WARNING)
    assert f"in {mode} mode" in pooler.seen
    assert pooled in pooler.seen
    assert ("default_pool_size must allow their sum" in pooler.seen) == (mode == "session")
    assert f"a web process opens {at_postgresql}" in found.seen
    assert "default_pool_size" in str(crowded.advice)


async def test_a_pooler_that_takes_no_more_clients_is_told_as_such(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="session", clients=1) as url:

        async def take_the_only_place() -> asyncpg.Connection | None:
            # What looked whether it listens may have it still.
            with suppress(asyncpg.ProtocolViolationError):
                return await asyncpg.connect(url)
            return None

        only = await eventually(take_the_only_place)
        ended = await run_command("keys", "list", environment=command_environment(url))
        await only.close()

    assert "(max_client_conn). Raise this setting of the pooler's" in ended.stderr


async def test_growth_is_notified_past_a_pooler_in_transaction_mode(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction") as url:
        opened = database.Database(url, direct=Route(database_url))
        await opened.require_own_sessions()
        async with open_notifier(opened) as notifier, opened.driver_connection() as connection:

            async def rings() -> bool:
                growth = notifier.next_growth()
                await connection.execute("NOTIFY aircall_oauth_log")
                return await wait_for(growth, 0.5)

            await eventually(rings)
        await opened.close()


async def test_each_transaction_of_a_lent_session_is_told_what_holds_for_ours(
    database_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", round_robin=1) as url:
        opened = database.Database(url, direct=Route(database_url))
        async with opened.driver_connection() as connection:
            # A session that this connection was never told anything in, as one that another client opened.
            await connection.execute("RESET ALL")
            async with connection.transaction():
                of_driver = await connection.fetchval("SHOW idle_in_transaction_session_timeout")
        async with opened.session() as session:
            of_session = await (await session.connection()).scalar(text("SHOW idle_in_transaction_session_timeout"))
        await opened.close()

    assert (of_driver, of_session) == ("5s", "5s")


async def test_a_direct_url_that_leads_through_the_pooler_too_is_refused(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction") as url:
        opened = database.Database(url, direct=Route(url))
        with pytest.raises(PoolerRefused, match=r"^AIRCALL_OAUTH_DATABASE_DIRECT_URL .*Lead it past the pooler"):
            await opened.require_own_sessions()
        await opened.close()


async def test_a_direct_url_of_another_database_is_refused(database_url: str, empty_database: str) -> None:
    opened = database.Database(database_url, direct=Route(empty_database))
    with pytest.raises(DirectElsewhere):
        await opened.require_own_sessions()
    await opened.close()


async def test_a_busy_pooler_in_transaction_mode_is_recognised_each_time(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", size=4, round_robin=1) as url:
        opened = database.Database(url, direct=Route(database_url))

        async def be_busy() -> None:
            async with opened.driver_connection() as connection:
                while True:
                    await connection.fetchval("SELECT 1")

        busy = [asyncio.create_task(be_busy()) for _ in range(4)]
        seen = [await opened.pooled_sessions() for _ in range(8)]
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await opened.close()

    assert set(seen) == {Sessions.LENT}


class _Lender:
    """Lends two sessions, one for each transaction: the one that came back last, or first."""

    def __init__(self, *, gives_last: bool, order_at_connect: int) -> None:
        self._idle, self._gives_last, self._order_at_connect = [1, 2], gives_last, order_at_connect

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["_Borrower"]:
        # In another order where another client had one for a moment.
        self._idle = self._idle[:: self._order_at_connect]
        yield _Borrower(self)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[int]:
        session = self._idle.pop(0)
        yield session
        self._idle.insert(0 if self._gives_last else len(self._idle), session)


class _Borrower:
    def __init__(self, lender: _Lender) -> None:
        self._lender, self._session = lender, 0

    def get_server_pid(self) -> int:
        return 99

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self._session:
            yield
        else:
            async with self._lender.lend() as self._session:
                yield
            self._session = 0

    async def fetchval(self, _query: str) -> int:
        return self._session


@pytest.mark.parametrize("gives_last", [True, False])
@pytest.mark.parametrize("order_at_connect", [1, -1])
async def test_a_pooler_that_would_give_both_connections_the_same_again_is_recognised(
    gives_last: bool, order_at_connect: int
) -> None:
    lender = _Lender(gives_last=gives_last, order_at_connect=order_at_connect)

    assert await sessions_behind(cast("Any", lender.connect)) is Sessions.LENT


async def test_postgresql_itself_is_taken_for_no_pooler(database_url: str) -> None:
    opened = database.Database(database_url)

    await opened.require_own_sessions()

    await opened.close()


async def test_a_pooler_with_a_single_session_is_recognised(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, mode="transaction", size=1) as url:
        opened = database.Database(url)
        with pytest.raises(PoolerRefused):
            await opened.require_own_sessions()
        await opened.close()


def _event(token: str, number: int = 1) -> bytes:
    data = f'{{"id":{number}}}'
    return f'{{"event":"call.created","timestamp":1767261600,"token":"{token}","data":{data}}}'.encode()
