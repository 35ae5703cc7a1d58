"""The kill switch: everything ends, within Aircall's limits; killed, it goes on; what can't be undone is told."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.installations.disconnect import revoke_all
from aircall_oauth.installations.disconnect.revoke_all import Progress
from aircall_oauth.sandbox.aircall.companies import more_companies
from tests.support.processes import World, eventually, world
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

AT_ONCE = timedelta(seconds=60)
NOT_LONG = timedelta(seconds=2)


async def statuses(service: Service) -> Counter[str]:
    return Counter(row["status"] for row in await service.sql("SELECT status FROM installation"))


async def test_everything_ends_and_nothing_is_left_behind(database_url: str) -> None:
    async with run_service(settings_for(database_url, RETURN_URLS="https://app.example.com/")) as service:
        for company in service.aircall.companies[:2]:
            await service.install(company)
        claim = await service.install_by_link("acme", 70079)
        beside = await service.install_by_link("acme", 70077)
        told: list[Progress] = []

        report = await revoke_all.revoke_all(
            service.resources,
            give_up_after=AT_ONCE,
            on_progress=lambda progress: told.append(Progress(**vars(progress))),
        )

        assert (report.refused, report.waiting) == ([], [])
        assert told[0] == Progress(installations=3, ended=0, farewells=3, said=0)
        assert report.progress == told[-1] == Progress(installations=3, ended=3, farewells=3, said=3)
        assert await statuses(service) == {"removed": 3}
        for table in ("installation WHERE token_sealed IS NOT NULL", "claim", "farewell"):
            assert await service.sql(f"SELECT * FROM {table}") == [], table
        assert service.aircall.webhooks.all == []
        assert [company.integration.active for company in service.aircall.companies] == [False] * 3
        assert [(await service.claim(code)).status_code for code in (claim, beside)] == [404, 404]
        reasons = await service.sql("SELECT data FROM event WHERE type = 'installation.removed'")
        assert [row["data"] for row in reasons] == ['{"reason":"revoked"}'] * 2, (
            "of the unclaimed one nobody ever heard"
        )
        lines = await service.sql("SELECT actor, installation_id FROM audit WHERE action = 'all.revoked'")
        assert {line["actor"] for line in lines} == {"operator"}
        assert len(lines) == 3


async def test_what_could_not_be_undone_is_told_and_undone_by_the_next_run(service: Service) -> None:
    for company in service.aircall.companies:
        await service.install(company)
    service.aircall.grants.revoke_company(70078)
    service.aircall.break_next("POST integrations/disable", "error_500", times=1)

    first = await revoke_all.revoke_all(service.resources, give_up_after=NOT_LONG)
    (waiting,) = first.waiting
    (refused,) = first.refused
    await service.sql("UPDATE farewell SET due_at = now()")
    second = await revoke_all.revoke_all(service.resources, give_up_after=AT_ONCE)

    assert await statuses(service) == {"removed": 3}
    assert (refused.company_id, refused.why) == (70078, "Aircall refuses its token")
    assert (waiting.company_id, "500" in waiting.why) == (70077, True)
    assert (first.progress.ended, first.progress.said) == (3, 2)
    assert (second.progress.ended, second.progress.said, second.waiting) == (0, 1, [])
    assert service.aircall.companies[0].integration.active is False


async def test_aircalls_limit_is_kept(database_url: str) -> None:
    """Of ten a minute chores may use five: an installation took them, so the farewell must wait."""
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE="10")) as service:
        service.aircall.habits.rate_per_minute = 10
        await service.install()
        assert len(service.aircall.webhooks.all) == 1

        first = await revoke_all.revoke_all(service.resources, give_up_after=NOT_LONG)
        await service.sql("DELETE FROM budget")
        service.aircall.habits.rate_per_minute = 120
        await service.sql("UPDATE farewell SET due_at = now()")
        second = await revoke_all.revoke_all(service.resources, give_up_after=AT_ONCE)

        assert [len(first.waiting), len(second.waiting)] == [1, 0]
        assert "budget" in first.waiting[0].why
        assert 429 not in {request.status for request in service.aircall.requests}
        assert service.aircall.webhooks.all == []


async def test_with_nothing_to_do_it_is_done(service: Service) -> None:
    report = await revoke_all.revoke_all(service.resources, give_up_after=AT_ONCE)

    assert report.progress == Progress()


async def install(it: World, company: int) -> None:
    departure = await it.browser.get("/aircall/oauth/install")
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    code = (await it.control("grant", company=company))["code"]
    answer = await it.browser.get("/aircall/oauth/callback", params={"state": state, "code": code})
    assert answer.status_code == 303


async def disabled(it: World) -> int:
    return len(await it.asked("POST", "/v1/integrations/disable"))


@pytest.mark.slow
async def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path, database_url: str) -> None:
    companies = [company.id for company in more_companies(14)]
    async with world(tmp_path, database_url, more_companies=len(companies)) as it:
        service = await it.start_service()
        for company in companies:
            await install(it, company)
        await service.kill()
        await it.control("break", door="GET webhooks", how="slow", seconds=0.5, times=1000)

        first = await it.run("revoke-all", "--yes")
        await eventually(lambda: some(it))
        await first.kill()
        done_before = await disabled(it)
        (left,) = await it.sql("SELECT count(*) FROM farewell")
        # The killed process holds its lease of a farewell for a while; a test does not wait for that.
        await it.sql("UPDATE farewell SET due_at = now()")
        second = await run_command("revoke-all", "--yes", "--json", environment=it.environment)

        assert 0 < done_before < len(companies)
        assert left[0] > 0
        report = json.loads(second.stdout)
        assert (second.exit_code, report["refused"], report["waiting"]) == (0, [], []), second.stderr
        assert await it.sql("SELECT * FROM farewell") == []
        assert await it.sql("SELECT * FROM installation WHERE status <> 'removed'") == []
        state = (await it.aircall.get("/control/state")).json()["companies"]
        at_aircall = {one["id"]: (one["webhooks"], one["integration"]["active"]) for one in state}
        assert {company: at_aircall[company] for company in companies} == {c: ([], False) for c in companies}


async def some(it: World) -> bool:
    return await disabled(it) >= 3


async def test_nothing_is_revoked_that_was_not_confirmed(service: Service) -> None:
    await service.install()
    environment = _environment(service)

    ended = await run_command("revoke-all", environment=environment)

    assert ended.exit_code == 1
    assert await statuses(service) == {"active": 1}


@pytest.mark.slow
async def test_an_operator_is_told_what_could_not_be_reached(service: Service) -> None:
    """Aircall is nowhere for this process."""
    installation_id = await service.install()

    ended = await run_command("revoke-all", "--yes", "--give-up-after", "1s", environment=_environment(service))

    first, heading, line = ended.stdout.splitlines()
    assert ended.exit_code == 1
    assert first == "1 installations ended here, 0 of 1 undone at Aircall."
    assert heading.startswith("Could not be reached")
    assert (installation_id in line, "Northwind Demo Ltd" in line, "no connection" in line) == (True, True, True)


def _environment(service: Service) -> dict[str, str]:
    return command_environment(service.settings.database_url.get_secret_value())
