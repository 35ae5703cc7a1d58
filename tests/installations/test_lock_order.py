"""Lock order: reconciling an installation, and ending, claiming or renewing it, wait for each other at its row."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from aircall_oauth.installations.upkeep import schedule
from tests.support.relay import pass_on
from tests.support.scenes import COMPANY, OTHER_COMPANY, another, ours
from tests.support.service import Service, run_service, settings_for, tcp_door

HOME = "https://app.example.com/aircall/connected"

# Every SQLSTATE that says "not now": deadlock, serialization, a full disk and its kind, an operator's intervention.
NOT_NOW = ("40P01", "40001", "53100", "53200", "53400", "57P01", "57P02", "57P03", "57014", "55P03")


@dataclass
class Pause:
    """Holds back the connection that is about to say this, once, until it may go on."""

    before: str = "-"
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def between(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        await asyncio.gather(self._pass_on(reader, server_writer), pass_on(server_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                if self.before.encode() in chunk and not self.reached.is_set():
                    self.reached.set()
                    await self.go_on.wait()
                writer.write(chunk)
                await writer.drain()
        finally:
            writer.close()


@dataclass(frozen=True)
class Slow:
    """A service that is held in the middle of a reconciliation's transaction."""

    service: Service
    pause: Pause

    async def deadlocks(self) -> int:
        (row,) = await self.service.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        count: int = row["deadlocks"]
        return count

    async def until_one_waits(self, task: asyncio.Task[int]) -> None:
        """Until a session waits for a lock, or the task has done without."""
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        async with asyncio.timeout(20):
            while True:
                if task.done() or await self.service.sql(waiting):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def slow(database_url: str) -> AsyncIterator[Slow]:
    pause = Pause()
    async with tcp_door(database_url, between=pause.between) as port:
        through_the_door = database_url.partition("?")[0].replace("@/", f"@127.0.0.1:{port}/")
        async with run_service(settings_for(through_the_door, RETURN_URLS=HOME)) as service:
            yield Slow(service, pause)


async def a_webhook_off(service: Service) -> None:
    ours(service).switch(active=False)


async def a_webhook_doubled(service: Service) -> None:
    another(service)


async def aircall_away(service: Service) -> None:
    await service.sql("UPDATE webhook SET webhook_id = NULL, status = 'pending'")
    service.aircall.break_next("webhooks", "error_500", times=10)


Door = Callable[[Service, str], Coroutine[Any, Any, int]]


async def disconnecting(service: Service, installation_id: str) -> int:
    partner = await service.partner()
    return (await partner.delete(f"/v1/installations/{installation_id}")).status_code


async def claiming(service: Service, installation_id: str) -> int:
    return (await service.claim(await service.install_by_link("acme"), "acme")).status_code


async def installing_again(service: Service, installation_id: str) -> int:
    state = await service.begin()
    return (await service.return_with(state=state, code=service.aircall.grant())).status_code


DOORS: dict[Door, int] = {disconnecting: 204, claiming: 200, installing_again: 303}


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize(
    ("what", "before"),
    [
        (a_webhook_off, "INSERT INTO gap"),
        (a_webhook_doubled, "INSERT INTO retired_webhook"),
        (aircall_away, "INSERT INTO gap"),
    ],
    ids=lambda what: getattr(what, "__name__", ""),
)
async def test_a_look_and_who_ends_or_renews_wait_for_each_other_in_turn(
    database_url: str, door: Door, what: Callable[[Service], Awaitable[None]], before: str
) -> None:
    async with slow(database_url) as it:
        service = it.service
        installation_id = await service.install()
        await what(service)
        await service.sql("UPDATE webhook SET due_at = now(), thorough_at = NULL")
        it.pause.before = before
        look = asyncio.create_task(schedule.reconcile_webhooks(service.resources))
        await asyncio.wait_for(it.pause.reached.wait(), 20)
        service.aircall.heal()

        meanwhile = asyncio.create_task(door(service, installation_id))
        await it.until_one_waits(meanwhile)
        it.pause.go_on.set()
        status = await asyncio.wait_for(meanwhile, 30)
        await asyncio.wait_for(look, 30)

        assert status == DOORS[door]
        assert await it.deadlocks() == 0


FAIL = (
    "CREATE SEQUENCE tries",
    """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON installation FOR EACH ROW EXECUTE FUNCTION fail()",
)
FOR_EVER = 1_000_000


async def let_changes_fail(service: Service, *, state: str, times: int) -> None:
    """The next changes of an installation end with this SQLSTATE."""
    for statement in FAIL:
        await service.sql(statement.format(times=times, state=state))


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("state", NOT_NOW)
async def test_what_the_database_cannot_do_now_is_try_again_at_every_door(service: Service, state: str) -> None:
    installation_id = await service.install()
    claim = await service.install_by_link("acme", OTHER_COMPANY)
    partner = await service.partner()
    await let_changes_fail(service, state=state, times=FOR_EVER)

    ended = await partner.delete(f"/v1/installations/{installation_id}")
    claimed = await service.claim(claim, "acme", partner)

    for answer in (ended, claimed):
        assert (answer.status_code, answer.json()["code"]) == (503, "database_away")
        assert int(answer.headers["retry-after"]) >= 1
    await service.let_pass("fail")
    assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
    assert (await service.claim(claim, "acme", partner)).status_code == 200


@pytest.mark.parametrize("state", ["40P01", "40001"])
async def test_what_was_undone_for_another_is_done_again(service: Service, state: str) -> None:
    installation_id = await service.install()
    claim = await service.install_by_link("acme", OTHER_COMPANY)
    partner = await service.partner()
    await let_changes_fail(service, state=state, times=1)

    ended = await partner.delete(f"/v1/installations/{installation_id}")
    await service.sql("ALTER SEQUENCE tries RESTART")
    claimed = await service.claim(claim, "acme", partner)

    assert (ended.status_code, claimed.status_code) == (204, 200)


@pytest.mark.parametrize("state", ["40P01", "53100", "57P01"])
async def test_a_spent_code_is_saved_once_the_database_can(service: Service, state: str) -> None:
    await let_changes_fail(service, state=state, times=2)

    begun = await service.begin()
    answer = await service.return_with(state=begun, code=service.aircall.grant())

    assert answer.status_code == 303
    (kept,) = await service.sql("SELECT status, company_id FROM installation")
    assert tuple(kept) == ("active", COMPANY)


async def test_a_browser_is_told_when_to_try_again(service: Service) -> None:
    begun = await service.begin()

    async with service.database_away():
        answer = await service.return_with(state=begun, code=service.aircall.grant())

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
