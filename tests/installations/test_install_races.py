"""Several at once: one flow is exchanged once, one company gets one installation and one webhook."""

import asyncio
from collections import Counter

import httpx

from aircall_oauth.installations.upkeep import schedule
from tests.support.service import Service, until


def asked(service: Service, method: str, path: str) -> int:
    return sum((request.method, request.path) == (method, path) for request in service.aircall.requests)


async def start_of_another_browser(service: Service, company: int | None = None) -> tuple[httpx.AsyncClient, str, str]:
    browser = service.new_browser()
    return browser, await service.begin(browser), service.aircall.grant(company)


async def test_five_callbacks_of_one_flow_at_once_exchange_once_and_all_end_well(service: Service) -> None:
    state, code = await service.begin(), service.aircall.grant()

    answers = await asyncio.gather(*(service.return_with(state=state, code=code) for _ in range(5)))

    assert {(303, service.settings.success_url)} == {(a.status_code, a.headers.get("location")) for a in answers}
    assert asked(service, "POST", "/v1/oauth/token") == 1
    (count,) = await service.sql("SELECT count(*) FROM installation")
    assert count[0] == 1
    assert len(service.aircall.webhooks.of(70077)) == 1
    assert len(service.aircall.tokens_of()) == 1, "a code shown twice would have taken its token back"


async def test_five_callbacks_of_a_flow_that_aircall_refuses_all_say_so(service: Service) -> None:
    state = await service.begin()

    answers = await asyncio.gather(*(service.return_with(state=state, code="never-given") for _ in range(5)))

    assert Counter({400: 5}) == Counter(answer.status_code for answer in answers)
    assert all("Aircall did not accept the authorization" in answer.text for answer in answers)
    assert asked(service, "POST", "/v1/oauth/token") == 1


async def test_a_yes_and_a_no_of_one_flow_at_once_are_one_ending_for_both(service: Service) -> None:
    state, code = await service.begin(), service.aircall.grant()

    yes, no = await asyncio.gather(
        service.return_with(state=state, code=code), service.return_with(state=state, error="access_denied")
    )

    assert yes.status_code == no.status_code
    assert yes.headers.get("location") == no.headers.get("location")
    (flow,) = await service.sql("SELECT status FROM flow")
    assert (303 if flow["status"] == "connected" else 200) == yes.status_code


async def test_ten_installs_of_one_company_at_once_are_one_installation_with_one_webhook(service: Service) -> None:
    flows = [await start_of_another_browser(service) for _ in range(10)]

    answers = await asyncio.gather(
        *(service.return_with(browser, state=state, code=code) for browser, state, code in flows)
    )
    await schedule.reconcile_webhooks(service.resources)

    assert {303} == {answer.status_code for answer in answers}
    (installation,) = await service.sql("SELECT * FROM installation")
    (webhook,) = await service.sql("SELECT * FROM webhook")
    (at_aircall,) = service.aircall.webhooks.of(70077)
    assert asked(service, "POST", "/v1/webhooks") == 1
    assert ("active", at_aircall.webhook_id) == (webhook["status"], webhook["webhook_id"])
    assert installation["status"] == "active"


async def test_installs_of_different_companies_at_once_do_not_meet(service: Service) -> None:
    companies = [company.id for company in service.aircall.companies]
    flows = [await start_of_another_browser(service, company) for company in companies]

    answers = await asyncio.gather(
        *(service.return_with(browser, state=state, code=code) for browser, state, code in flows)
    )

    assert {303} == {answer.status_code for answer in answers}
    assert [len(service.aircall.webhooks.of(company)) for company in companies] == [1, 1, 1]
    rows = await service.sql("SELECT status FROM webhook")
    assert [row["status"] for row in rows] == ["active"] * 3


async def test_the_worker_at_the_same_moment_makes_no_second_webhook(service: Service) -> None:
    flows = [await start_of_another_browser(service, company.id) for company in service.aircall.companies]
    arriving = asyncio.gather(*(service.return_with(browser, state=state, code=code) for browser, state, code in flows))

    while not arriving.done():
        await schedule.reconcile_webhooks(service.resources)
    await schedule.reconcile_webhooks(service.resources)

    assert {303} == {answer.status_code for answer in await arriving}
    assert [len(service.aircall.webhooks.of(company.id)) for company in service.aircall.companies] == [1, 1, 1]
    rows = await service.sql("SELECT status FROM webhook")
    assert [row["status"] for row in rows] == ["active"] * 3


async def test_an_install_while_the_webhook_is_being_made_does_not_make_another(service: Service) -> None:
    service.aircall.break_next("POST webhooks", "slow", seconds=0.5)
    first = asyncio.create_task(service.install())
    await until(lambda: asked(service, "POST", "/v1/webhooks") == 1)

    browser, state, code = await start_of_another_browser(service)
    answer = await service.return_with(browser, state=state, code=code)
    (meanwhile,) = await service.sql("SELECT status FROM webhook")
    await first

    assert (answer.status_code, meanwhile["status"]) == (303, "pending")
    assert len(service.aircall.webhooks.of(70077)) == 1
    # The second install brought another token, so the worker looks once more, and finds all well.
    looks = len(service.aircall.requests)
    await schedule.reconcile_webhooks(service.resources)
    assert len(service.aircall.requests) == looks + 1
    (webhook,) = await service.sql("SELECT status, due_at > now() AS later FROM webhook")
    assert tuple(webhook) == ("active", True)
    assert len(service.aircall.webhooks.of(70077)) == 1
