"""One statement finds which chores have work; each of them runs beside the others, and fails by itself."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy import text

from aircall_oauth.errors import DatabaseAway
from aircall_oauth.resources import Resources
from aircall_oauth.server import chores
from aircall_oauth.server.chores import Chore, Look, begin
from aircall_oauth.server.worker import CHORES
from tests.support.processes import eventually
from tests.support.scenes import SCENES, Scene
from tests.support.service import Service, run_service, settings_for, until

ASKED = [chore for chore in CHORES if chore.has_work is not None]
WITH_WORK = [scene for scene in SCENES if scene.changes and scene.chore in {chore.name for chore in ASKED}]
OF_SESSIONS = "end silent sessions"


async def found(service: Service) -> set[str]:
    return await Look(ASKED).with_work(service.resources, [chore.name for chore in ASKED])


async def do_all(service: Service) -> None:
    for chore in ASKED:
        await chore.work(service.resources)


def runs(service: Service, chore: str, outcome: str) -> float:
    labels = {"chore": chore, "outcome": outcome}
    return service.resources.metrics.registry.get_sample_value("aircall_oauth_chore_runs_total", labels) or 0.0


async def run_until(service: Service, them: list[Chore], reached: Callable[[], bool]) -> None:
    tasks = begin(them, service.resources)
    try:
        await until(reached)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def chore(name: str, work: Callable[[Resources], Awaitable[None]], has_work: str = "true") -> Chore:
    return Chore(name, work, timedelta(milliseconds=10), text(has_work))


@pytest.fixture
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "LOOK_SECONDS", 0.01)


@pytest.mark.parametrize("scene", WITH_WORK, ids=str)
async def test_the_look_finds_the_work_that_a_chore_has(scene: Scene, database_url: str) -> None:
    async with run_service(settings_for(database_url, **scene.settings)) as service:
        await scene.arrange(service)

        assert scene.chore in await found(service)


async def test_the_look_finds_sessions_that_wait_in_a_transaction(service: Service, database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings={"application_name": "aircall-oauth"})
    await connection.execute("BEGIN; SELECT 1")
    try:
        assert OF_SESSIONS in await found(service)
    finally:
        await connection.close()


def test_every_chore_that_is_asked_has_a_scene_with_work() -> None:
    assert {scene.chore for scene in WITH_WORK} | {OF_SESSIONS} == {chore.name for chore in ASKED}


async def test_the_look_finds_nothing_once_all_is_done(service: Service) -> None:
    await service.installed()
    await do_all(service)

    async def nothing_is_found() -> bool:
        return not await found(service)

    # A session of the service may be in a transaction for a moment.
    await eventually(nothing_is_found)


async def test_only_chores_that_are_asked_are_looked_into(service: Service) -> None:
    async def work(_resources: Resources) -> None: ...

    look = Look([chore("well", work), chore("broken", work, has_work="1 / (SELECT 0) = 1")])

    assert await look.with_work(service.resources, ["well"]) == {"well"}
    with pytest.raises(asyncpg.DivisionByZeroError):
        await look.with_work(service.resources, ["well", "broken"])


@pytest.mark.usefixtures("_quick_looks")
async def test_a_chore_without_work_is_not_run_and_counts_as_done(service: Service) -> None:
    ran: list[str] = []

    def noting(name: str, has_work: str) -> Chore:
        async def work(_resources: Resources) -> None:
            ran.append(name)

        return chore(name, work, has_work)

    them = [noting("busy", "true"), noting("idle", "false")]
    await run_until(service, them, lambda: runs(service, "idle", "done") > 1 and runs(service, "busy", "done") > 1)

    assert set(ran) == {"busy"}


@pytest.mark.usefixtures("_quick_looks")
async def test_a_slow_chore_is_begun_once_and_holds_up_no_other(service: Service) -> None:
    begun: list[str] = []

    async def hang(_resources: Resources) -> None:
        begun.append("slow")
        await asyncio.Event().wait()

    async def work(_resources: Resources) -> None:
        begun.append("quick")

    await run_until(service, [chore("slow", hang), chore("quick", work)], lambda: begun.count("quick") > 2)

    assert begun.count("slow") == 1


@pytest.mark.usefixtures("_quick_looks")
@pytest.mark.parametrize("condition", ["EXISTS (SELECT FROM nowhere)", "(SELECT pg_sleep(60)) IS NULL"])
async def test_chores_find_out_for_themselves_where_the_look_fails(
    service: Service, condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "ANSWER_SECONDS", 0.1)

    async def put_off(_resources: Resources) -> None:
        raise DatabaseAway

    async def work(_resources: Resources) -> None: ...

    them = [chore("away", put_off, "false"), chore("well", work, "false"), chore("broken", work, condition)]
    await run_until(service, them, lambda: runs(service, "well", "done") > 1 and runs(service, "away", "put_off") > 1)

    assert runs(service, "away", "done") == 0


async def test_a_look_that_waits_for_a_lock_has_no_other_connection_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "ANSWER_SECONDS", 0.1)
    database = service.resources.database
    async with database.session() as session, database.driver_connection() as other:
        backend = other.get_server_pid()
        await (await session.connection()).execute(text("LOCK TABLE webhook"))
        with pytest.raises(DatabaseAway):
            await found(service)

    async with database.driver_connection() as lent:
        assert lent.get_server_pid() == backend
