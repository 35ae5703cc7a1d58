"""The budget: no minute holds more calls than it allows, with any number of callers and processes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from aircall_oauth.aircall import budget
from aircall_oauth.aircall.budget import SECONDS, Told
from aircall_oauth.errors import BudgetSpent, DatabaseAway
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage.database import Database
from tests.support.databases import migrated_database
from tests.support.processes import World, world
from tests.support.service import Service, database_away, run_service, settings_for

COMPANY = 70077
LIMIT = 60


@pytest.fixture(scope="module")
async def lasting(postgres: Postgres) -> AsyncIterator[Database]:
    async with migrated_database(postgres, "budget") as url:
        opened = Database(url)
        yield opened
        await opened.close()


@pytest.fixture
async def database(lasting: Database) -> Database:
    """A database in which nothing was spent."""
    await sql(lasting, "DELETE FROM budget")
    return lasting


async def drawn(database: Database, times: int, *, chore: bool = False, calls: int = 1, limit: int = LIMIT) -> int:
    """How many of so many draws at once were granted."""
    draws = (budget.draw(database, COMPANY, per_minute=limit, chore=chore, calls=calls) for _ in range(times))
    outcomes = await asyncio.gather(*draws, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, BudgetSpent) for outcome in outcomes), outcomes
    return outcomes.count(None)


async def wait_told(database: Database, **options: Any) -> int:
    """The seconds that a refused draw is told to wait."""
    with pytest.raises(BudgetSpent) as spent:
        await budget.draw(database, COMPANY, per_minute=LIMIT, **options)
    return spent.value.retry_after_seconds


async def sql(database: Database, statement: str) -> Any:
    async with database.driver_connection() as connection:
        return await connection.fetchval(statement)


async def past(database: Database, seconds: int) -> None:
    """So much time goes by."""
    await sql(database, f"UPDATE budget SET second = second - {seconds}")
    await sql(database, f"UPDATE budget SET closed_until = closed_until - interval '{seconds} seconds'")


async def correct(database: Database, told: Told | None) -> None:
    await budget.correct(database, COMPANY, told, per_minute=LIMIT)


async def test_no_more_is_granted_than_the_budget_has(database: Database) -> None:
    assert await drawn(database, 3 * LIMIT) == LIMIT
    assert await drawn(database, 1) == 0


async def test_each_company_has_a_budget_of_its_own(database: Database) -> None:
    assert await drawn(database, LIMIT + 1) == LIMIT

    await budget.draw(database, COMPANY + 1, per_minute=LIMIT)


async def test_what_was_spent_comes_back_after_the_minute_and_not_before(database: Database) -> None:
    assert await drawn(database, 40) == 40
    await past(database, 30)
    assert await drawn(database, LIMIT) == LIMIT - 40

    await past(database, 30)
    assert await drawn(database, 1) == 0, "a minute after the first draws"
    await past(database, SECONDS - 60)
    assert await drawn(database, LIMIT) == 40

    await past(database, 10 * SECONDS)
    assert await drawn(database, LIMIT + 1) == LIMIT


async def test_no_minute_holds_more_than_the_budget_wherever_it_begins(database: Database) -> None:
    grants: list[int] = []  # by second

    for _ in range(3 * SECONDS):
        grants.append(await drawn(database, 3))
        await past(database, 1)

    assert max(sum(grants[start : start + 60]) for start in range(len(grants))) <= LIMIT
    assert sum(grants) >= 2 * LIMIT


async def test_who_is_refused_is_told_when_to_come_back(database: Database) -> None:
    await drawn(database, 20)
    await past(database, 30)
    await drawn(database, LIMIT)

    wait = await wait_told(database)

    assert SECONDS - 30 - 15 < wait <= SECONDS - 30
    await past(database, wait)
    await budget.draw(database, COMPANY, per_minute=LIMIT)


@pytest.mark.parametrize("calls", [1, LIMIT])
async def test_nobody_is_told_to_wait_longer_than_the_minute(database: Database, calls: int) -> None:
    await drawn(database, LIMIT)

    with pytest.raises(BudgetSpent) as refused:
        await budget.draw(database, COMPANY, per_minute=LIMIT, calls=calls)

    assert 50 < refused.value.retry_after_seconds <= 60


async def test_chores_leave_callers_half_of_the_budget(database: Database) -> None:
    assert await drawn(database, LIMIT, chore=True) == LIMIT // 2
    assert await drawn(database, LIMIT) == LIMIT // 2

    await past(database, SECONDS)
    assert await drawn(database, LIMIT // 2) == LIMIT // 2
    assert await drawn(database, 1, chore=True) == 0


async def test_a_draw_of_several_calls_is_granted_whole_or_not_at_all(database: Database) -> None:
    assert await drawn(database, LIMIT, calls=7) == LIMIT // 7
    assert await drawn(database, LIMIT) == LIMIT % 7


async def test_work_larger_than_the_budget_takes_all_of_it(database: Database) -> None:
    for limit in (1, 2, 3, 5):
        await past(database, SECONDS)
        assert await drawn(database, 3, chore=True, calls=3, limit=limit) == 1


async def test_aircalls_429_closes_the_budget_until_aircall_says(database: Database) -> None:
    await drawn(database, 1)

    await correct(database, Told(0, 20))

    assert 10 < await wait_told(database) <= 20
    assert 10 < await wait_told(database, chore=True) <= 20
    await past(database, 20)
    assert await drawn(database, 1) == 1


async def test_a_company_never_drawn_for_can_be_closed(database: Database) -> None:
    await correct(database, Told(0))

    assert 50 < await wait_told(database) <= 60


@pytest.mark.parametrize(("until", "least", "most"), [(None, 50, 60), (0, 1, 1), (1e9, 1, 1), (10**11, 110, 120)])
async def test_a_closing_is_never_longer_than_two_minutes(
    database: Database, until: float | None, least: int, most: int
) -> None:
    """1e9 is long past, 10**11 in three thousand years."""
    await correct(database, Told(0, until))

    async with database.driver_connection() as connection:
        seconds = await connection.fetchval("SELECT extract(epoch FROM closed_until - clock_timestamp()) FROM budget")
    assert least - 10 < seconds <= most


async def test_aircalls_reset_is_judged_by_the_databases_clock(database: Database) -> None:
    reset_at = await sql(database, "SELECT extract(epoch FROM clock_timestamp())::bigint + 30")

    await correct(database, budget.told(429, {"x-aircallapi-reset": str(reset_at * 1000)}))

    assert 20 < await wait_told(database) <= 31


async def test_what_others_spent_of_aircalls_limit_is_believed(database: Database) -> None:
    await drawn(database, 10)

    await correct(database, Told(5))

    assert await drawn(database, LIMIT) == 5


async def test_aircall_saying_that_more_is_left_gives_no_more(database: Database) -> None:
    await drawn(database, 50)

    await correct(database, Told(110))
    await correct(database, None)

    assert await drawn(database, LIMIT) == 10


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, None),
        (200, {"x-aircallapi-remaining": "7", "x-aircallapi-reset": "1767261600"}, Told(7, 1767261600)),
        (200, {"x-aircallapi-remaining": "0", "x-aircallapi-reset": "1767261600000"}, Told(0, 1767261600)),
        (200, {"x-aircallapi-remaining": "-1", "x-aircallapi-reset": "x"}, None),
        (200, {"retry-after": "7"}, None),
        (429, {}, Told(0)),
        (429, {"retry-after": "7", "x-aircallapi-reset": "1767261600"}, Told(0, 7)),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "x-aircallapi-remaining": "9" * 400}, Told(0)),
    ],
)
def test_what_an_answer_says_of_aircalls_count(status: int, headers: Mapping[str, str], expected: Told | None) -> None:
    assert budget.told(status, headers) == expected


@pytest.mark.parametrize("back", [4, 3600, 10**8])
async def test_a_clock_set_back_locks_nobody_out_for_long(database: Database, back: int) -> None:
    """A clock set back is a row that is so much ahead."""
    await drawn(database, LIMIT)
    await correct(database, Told(0, 90))
    await past(database, -back)

    first = await drawn(database, 1)
    await past(database, budget.LONGEST_CLOSED_SECONDS)

    assert first == 0, "what was spent before is not forgotten"
    assert await drawn(database, LIMIT + 1) == LIMIT


async def test_a_row_a_little_ahead_forgets_nothing(database: Database) -> None:
    """Two processes may look at the clock in one order and draw in the other."""
    await drawn(database, LIMIT)
    for _ in range(2 * SECONDS):
        await sql(database, "UPDATE budget SET second = floor(extract(epoch FROM clock_timestamp())) + 2")
        assert await drawn(database, 1) == 0


async def test_what_an_install_asks_is_counted(service: Service) -> None:
    await service.installed()

    of_company = [request for request in service.aircall.requests if request.company_id == COMPANY]
    assert len(of_company) <= await sql(service.resources.database, "SELECT sum(n) FROM budget, unnest(spent) AS n")


async def test_what_a_chore_asks_again_because_aircall_failed_is_counted(service: Service) -> None:
    await service.installed()
    await service.sql("UPDATE webhook SET due_at = now()")
    await service.sql("DELETE FROM budget")
    asked = len(service.aircall.requests)
    service.aircall.break_next("GET webhooks", "error_500", times=2)

    await schedule.reconcile_webhooks(service.resources)

    asked = len(service.aircall.requests) - asked
    assert asked > 2
    assert asked == await sql(service.resources.database, "SELECT sum(n) FROM budget, unnest(spent) AS n")


async def test_without_a_database_nothing_is_granted(database_url: str) -> None:
    database = Database(database_url)
    async with database_away(database_url):
        with pytest.raises(DatabaseAway):
            await budget.draw(database, COMPANY, per_minute=LIMIT)
    await database.close()


async def test_a_chore_that_finds_the_budget_spent_asks_nothing_and_comes_back(database_url: str) -> None:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE=str(LIMIT))) as service:
        await service.installed()
        await service.sql("UPDATE webhook SET status = 'pending', due_at = now()")
        await drawn(service.resources.database, LIMIT)
        asked = len(service.aircall.requests)

        await schedule.reconcile_webhooks(service.resources)

        (row,) = await service.sql("SELECT status, extract(epoch FROM due_at - now()) AS seconds FROM webhook")
        assert asked == len(service.aircall.requests)
        assert row["status"] == "pending"
        assert 30 < row["seconds"] <= SECONDS


async def test_a_429_met_by_a_chore_closes_the_budget_for_all(service: Service) -> None:
    service.aircall.break_next("webhooks", "status_429")

    await service.install()

    with pytest.raises(BudgetSpent):
        await budget.draw(service.resources.database, COMPANY, per_minute=LIMIT)


@pytest.mark.slow
async def test_four_processes_with_five_hundred_calls_do_not_over_ask(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url, AIRCALL_RATE_PER_MINUTE=str(LIMIT)) as it:
        await it.start_service()
        urls = [it.service_url, *[await another_web_process(it) for _ in range(3)]]
        assert (await it.browser.get(await it.consent())).status_code == 303
        (installation,) = await it.sql("SELECT id FROM installation")

        async def ask_in_turn(url: str) -> list[httpx.Response]:
            return [await partner.get(f"{url}/v1/installations/{installation['id']}/aircall/ping") for _ in range(25)]

        async with await it.partner("aircall:call") as partner:
            answers = [answer for asker in await asyncio.gather(*map(ask_in_turn, urls * 5)) for answer in asker]
        rows = (await it.aircall.get("/control/ledger")).json()["requests"]

    assert len(answers) == 500
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(1 <= int(each.headers["retry-after"]) <= SECONDS for each in answers if each.status_code == 429)
    asked = [row for row in rows if row["company_id"] == COMPANY]
    assert {row["status"] for row in asked} <= {200, 201}
    assert len(asked) >= LIMIT - 2, "what an install asks is counted a little dearer"
    moments = sorted(row["at"] for row in asked)
    assert max(sum(start <= moment < start + 60 for moment in moments) for start in moments) <= LIMIT


async def another_web_process(it: World) -> str:
    """Its address."""
    port = free_port()
    process, url = await it.run("serve", "--port", str(port)), f"http://localhost:{port}"
    await it.answering(process, f"{url}/readyz")
    return url
