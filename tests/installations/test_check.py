"""`POST /v1/installations/{id}/check`: everything is looked at now, mended where it can be, and said."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stamina

from aircall_oauth.access.scopes import Scope
from aircall_oauth.installations.upkeep import check as checking
from aircall_oauth.sandbox.aircall.companies import Integration
from tests.support.service import Service, run_service, settings_for, until

COMPANY = 70077


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


async def check(service: Service, installation_id: str, *, owner: str | None = None) -> httpx.Response:
    partner = await service.partner(Scope.INSTALLATIONS_WRITE, owner=owner)
    return await partner.post(f"/v1/installations/{installation_id}/check")


def found(answer: httpx.Response) -> dict[str, bool]:
    assert answer.status_code == 200, answer.text
    return {finding["code"]: finding["mended"] for finding in answer.json()["found"]}


async def told(service: Service) -> list[str]:
    return [row["type"] for row in await service.sql("SELECT type FROM event ORDER BY position")]


async def test_where_all_is_well_nothing_is_found(service: Service) -> None:
    installation_id = await service.installed()

    answer = await check(service, installation_id)

    shown = (await (await service.partner()).get(f"/v1/installations/{installation_id}")).json()
    assert answer.json() == {"healthy": True, "token": "accepted", "found": [], "installation": shown}
    (line,) = await service.sql("SELECT action, outcome, installation_id FROM audit")
    assert tuple(line) == ("installation.checked", "done", installation_id)


@pytest.mark.slow
async def test_what_is_wrong_is_mended_and_said(service: Service) -> None:
    installation_id = await service.installed()
    (hook,) = service.aircall.webhooks.of(COMPANY)
    hook.switch(active=False)
    hook.events = ["call.ended"]
    company = service.aircall.companies[0]
    company.name, company.integration.active = "Northwind & Sons", False
    double = {"url": service.settings.webhook_url, "custom_name": service.settings.webhook_name}
    service.aircall.webhooks.create(COMPANY, double, 0.0)

    answer = await check(service, installation_id)
    again = await check(service, installation_id)

    wrong = ("facts_changed", "integration_off", "webhook_disabled", "webhook_changed", "webhook_doubled")
    assert found(answer) == dict.fromkeys(wrong, True)
    assert (answer.json()["healthy"], answer.json()["installation"]["company_name"]) == (True, "Northwind & Sons")
    assert answer.json()["installation"]["webhook"]["status"] == "active"
    assert (hook.active, company.integration.active) == (True, True)
    assert found(again) == {}
    assert await told(service) == [
        "installation.connected",
        *("installation.changed", "installation.changed"),
        *("webhook.disabled", "webhook.restored"),
    ]


@pytest.mark.slow
async def test_a_webhook_that_is_gone_is_made_again(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)

    answer = await check(service, installation_id)

    assert found(answer) == {"webhook_missing": True}
    assert len(service.aircall.webhooks.of(COMPANY)) == 1


@pytest.mark.slow
async def test_an_integration_without_numbers_is_for_an_admin_to_mend(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.companies[0].integration.number_ids = []

    answer = await check(service, installation_id)

    assert found(answer) == {"facts_changed": True, "no_numbers": False}
    assert (answer.json()["healthy"], answer.json()["installation"]["number_ids"]) == (False, [])


@pytest.mark.slow
async def test_a_dead_token_is_believed_at_the_second_refusal_and_told_once(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.grants.revoke_company(COMPANY)

    answers = await asyncio.gather(*(check(service, installation_id) for _ in range(5)))

    for answer in answers:
        assert found(answer) == {"token_refused": False}
        assert (answer.json()["token"], answer.json()["installation"]["status"]) == ("refused", "unauthorized")
    assert await told(service) == ["installation.connected", "installation.unauthorized"]


async def test_a_token_that_answers_for_another_is_not_used_any_further(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.companies[0].integration = Integration(400999, [55011])

    answer = await check(service, installation_id)

    assert found(answer) == {"token_foreign": False}
    assert (answer.json()["token"], answer.json()["installation"]["status"]) == ("foreign", "unauthorized")


async def test_a_token_that_is_taken_again_makes_the_installation_active_again(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE installation SET status = 'unauthorized'")

    answer = await check(service, installation_id)

    assert found(answer) == {"token_accepted_again": True}
    assert answer.json()["installation"]["status"] == "active"
    assert await told(service) == ["installation.connected"] * 2


@pytest.mark.slow
async def test_many_checks_at_once_tell_each_change_once(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)

    answers = await asyncio.gather(*(check(service, installation_id) for _ in range(5)))

    assert [answer.status_code for answer in answers] == [200] * 5
    assert sum("webhook_missing" in found(answer) for answer in answers) == 1
    assert await told(service) == ["installation.connected", "webhook.disabled", "webhook.restored"]
    assert len(service.aircall.webhooks.of(COMPANY)) == 1


async def test_who_is_in_the_middle_of_a_look_is_waited_for_and_no_longer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE webhook SET leased_until = now() + interval '1 minute'")
    waiting = asyncio.create_task(check(service, installation_id))
    await until(lambda: service.aircall.requests[-1].path == "/v1/company")
    await service.sql("UPDATE webhook SET leased_until = NULL")
    waited_for = await waiting

    monkeypatch.setattr(checking, "WAIT_SECONDS", 0.3)
    await service.sql("UPDATE webhook SET leased_until = now() + interval '1 minute'")
    refused = await check(service, installation_id)

    assert waited_for.status_code == 200
    assert (refused.status_code, refused.json()["code"]) == (409, "check_under_way")


async def test_where_aircall_is_away_nothing_is_said(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.break_next("all", "error_500", times=3)

    answer = await check(service, installation_id)

    assert (answer.status_code, answer.json()["code"]) == (502, "aircall_unavailable")
    assert answer.headers["content-type"] == "application/problem+json"


async def test_where_aircall_goes_away_in_the_middle_the_worker_goes_on(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)
    service.aircall.break_next("POST webhooks", "error_500")

    answer = await check(service, installation_id)

    (row,) = await service.sql("SELECT status, due_at - now() AS due_in, leased_until FROM webhook")
    assert answer.status_code == 502
    assert (row["status"], row["leased_until"]) == ("missing", None)
    assert row["due_in"].total_seconds() < 60


async def test_a_full_account_is_found_and_not_mended(service: Service) -> None:
    installation_id = await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)
    for number in range(100):
        service.aircall.webhooks.create(COMPANY, {"url": f"https://other.example.com/{number}"}, 0.0)

    answer = await check(service, installation_id)

    assert found(answer) == {"webhook_refused": False}
    assert answer.json()["healthy"] is False
    assert len(service.aircall.webhooks.of(COMPANY)) == 100


async def test_where_the_budget_is_spent_it_is_429_and_aircall_is_not_asked(database_url: str) -> None:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE="60")) as service:
        installation_id = await service.installed()
        await service.sql("UPDATE budget SET spent[1] = 60")
        asked = len(service.aircall.requests)

        answer = await check(service, installation_id)

        assert (answer.status_code, answer.json()["code"]) == (429, "budget_spent")
        assert 1 <= int(answer.headers["retry-after"]) <= 64
        assert len(service.aircall.requests) == asked


async def test_only_who_may_write_and_sees_it_checks_it(service: Service) -> None:
    installation_id = await service.installed()
    await service.sql("UPDATE installation SET owner = 'acme'")
    reader = await service.partner(Scope.INSTALLATIONS_READ)

    statuses: list[Any] = [
        (await check(service, installation_id, owner="globex")).status_code,
        (await reader.post(f"/v1/installations/{installation_id}/check")).status_code,
        (await service.browser.post(f"/v1/installations/{installation_id}/check")).status_code,
        (await check(service, f"ins_{'0' * 32}")).status_code,
        (await check(service, installation_id, owner="acme")).status_code,
    ]

    assert statuses == [404, 403, 401, 404, 200]


@pytest.mark.parametrize("status", ["unclaimed", "removed"])
async def test_what_nobody_has_is_not_checked(service: Service, status: str) -> None:
    installation_id = await service.installed()
    erased = ", token_sealed = NULL, token_fingerprint = NULL" if status == "removed" else ""
    await service.sql(f"UPDATE installation SET status = $1{erased}", status)

    answer = await check(service, installation_id)

    assert (answer.status_code, answer.json()["code"]) == (409, "installation_not_active")
