"""The webhook of an installation: exists once, asks for the right events, and is finished later where it must be."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import stamina

from aircall_oauth.aircall import client
from aircall_oauth.aircall.payloads import UNINSTALLED
from aircall_oauth.installations.upkeep import leases, schedule
from aircall_oauth.sandbox.aircall import EVENT_NAMES, Webhook
from aircall_oauth.sandbox.aircall.companies import Integration
from aircall_oauth.sandbox.aircall.faults import How
from tests.support.service import Service, run_service, settings_for, until

COMPANY = 70077
MAKE_DUE = "UPDATE webhook SET due_at = now(), leased_until = NULL"


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@asynccontextmanager
async def running(database_url: str, **changes: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, **changes)) as service:
        yield service


def at_aircall(service: Service) -> list[Webhook]:
    return service.aircall.webhooks.of(COMPANY)


def created(service: Service) -> int:
    return sum((request.method, request.path) == ("POST", "/v1/webhooks") for request in service.aircall.requests)


async def kept(service: Service) -> Any:
    (row,) = await service.sql("SELECT *, due_at - now() AS due_in, leased_until - now() AS lease FROM webhook")
    return row


async def finish(service: Service) -> Any:
    """The worker's chore, with the webhook due and Aircall's minute past; what is kept after it."""
    await service.sql(MAKE_DUE)
    await service.sql("DELETE FROM budget")
    await schedule.reconcile_webhooks(service.resources)
    return await kept(service)


def already_there(service: Service, **changes: Any) -> Webhook:
    """A webhook with our URL that was made at Aircall before."""
    request = {"url": service.settings.webhook_url, **changes}
    return service.aircall.webhooks.create(COMPANY, request, service.aircall.clock())


async def test_the_webhook_asks_for_everything_and_bears_our_name(database_url: str) -> None:
    async with running(database_url, WEBHOOK_NAME="Acme calls") as service:
        await service.install()

        (hook,) = at_aircall(service)
        assert (service.settings.webhook_url, "Acme calls", True) == (hook.url, hook.custom_name, hook.active)
        assert set(hook.events) == set(EVENT_NAMES)


async def test_configured_events_are_asked_for_and_the_uninstall_always(database_url: str) -> None:
    async with running(database_url, WEBHOOK_EVENTS="call.ended,call.created") as service:
        await service.install()

        (hook,) = at_aircall(service)
        assert {"call.ended", "call.created", UNINSTALLED} == set(hook.events)


async def test_the_uninstall_is_not_asked_for_twice(database_url: str) -> None:
    async with running(database_url, WEBHOOK_EVENTS=f"{UNINSTALLED},call.ended") as service:
        await service.install()

        (hook,) = at_aircall(service)
        assert sorted([UNINSTALLED, "call.ended"]) == sorted(hook.events)


async def test_what_is_registered_is_kept_without_its_token(service: Service) -> None:
    await service.install()

    row = await kept(service)
    (hook,) = at_aircall(service)
    assert ("active", hook.webhook_id, 0, None) == (
        row["status"],
        row["webhook_id"],
        row["attempts"],
        row["last_error"],
    )
    assert row["leased_until"] is None
    assert timedelta(minutes=5) < row["due_in"] < timedelta(minutes=15)
    assert row["checked_at"] is not None
    assert hook.token not in str(dict(row))


@pytest.mark.parametrize("how", ["drop_reply", "slow"])
async def test_a_webhook_whose_creation_answer_got_lost_is_found_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, how: How
) -> None:
    if how == "slow":
        # The answer comes after we have gone; the work is done all the same.
        monkeypatch.setattr(client, "TOTAL_SECONDS", 0.5)
        service.aircall.break_next("POST webhooks", "slow_reply", seconds=3.0)
    else:
        service.aircall.break_next("POST webhooks", how)

    await service.install()
    pending = await kept(service)
    row = await finish(service)

    assert (pending["status"], pending["webhook_id"], pending["token_fingerprint"]) == ("pending", None, None)
    (hook,) = at_aircall(service)
    assert ("active", hook.webhook_id) == (row["status"], row["webhook_id"])
    assert created(service) == 1
    assert (await service.post_event(event(hook.token))).status_code == 200


def event(token: str) -> bytes:
    return b'{"resource":"call","event":"call.created","timestamp":1767261600,"token":"%s","data":{}}' % token.encode()


@pytest.mark.parametrize("how", ["drop_reply", "error_500", "html", "status_429"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_installation_stays_though_its_webhook_could_not_be_made(
    service: Service, method: str, how: How
) -> None:
    service.aircall.break_next(f"{method} webhooks", how, times=3)

    await service.install()
    pending = await kept(service)
    service.aircall.heal()
    row = await finish(service)

    (installation,) = await service.sql("SELECT status FROM installation")
    assert installation["status"] == "active"
    assert (pending["status"], pending["attempts"], pending["leased_until"]) == ("pending", 1, None)
    assert pending["due_in"] > timedelta(seconds=5)
    assert pending["last_error"]
    assert (row["status"], row["attempts"], row["last_error"]) == ("active", 0, None)
    assert len(at_aircall(service)) == 1


async def test_the_pauses_grow_to_an_hour_and_no_further(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=1000)
    await service.install()

    pauses = []
    for _ in range(14):
        row = await finish(service)
        pauses.append(row["due_in"].total_seconds())
        assert row["attempts"] == len(pauses) + 1

    for attempts, pause in enumerate(pauses, start=2):
        expected = min(10 * 2 ** (attempts - 1), 3600)
        assert 0.75 * expected < pause <= 1.2 * expected, (attempts, pause)


async def test_a_webhook_is_left_alone_until_it_is_due(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    before = len(service.aircall.requests)

    await schedule.reconcile_webhooks(service.resources)

    assert len(service.aircall.requests) == before
    assert (await kept(service))["status"] == "pending"


class SayingWhen(httpx.AsyncBaseTransport):
    """Aircall's edge, saying when to come back."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.asked = 0
        self._headers = headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        return httpx.Response(429, headers=self._headers, json={"message": "Too Many Requests"})


async def told_to_wait(service: Service, **headers: str) -> tuple[Any, int]:
    """The row after Aircall answered 429 with these headers, and how often it was asked."""
    saying = SayingWhen({name.replace("_", "-"): value for name, value in headers.items()})
    async with httpx.AsyncClient(transport=saying) as http:
        whole, service.resources.aircall._http = service.resources.aircall._http, http
        row = await finish(service)
        service.resources.aircall._http = whole
    return row, saying.asked


async def test_retry_after_is_obeyed(service: Service) -> None:
    await service.install()

    row, asked = await told_to_wait(service, retry_after="600")

    assert timedelta(seconds=590) < row["due_in"] <= timedelta(seconds=600)
    assert asked == 1, "not asked again at once by somebody who was told when"


async def test_aircalls_own_reset_header_is_obeyed(service: Service) -> None:
    await service.install()

    reset_at = int(service.aircall.clock()) + 300
    row, asked = await told_to_wait(service, x_aircallapi_reset=str(reset_at), x_aircallapi_remaining="0")

    assert timedelta(seconds=285) < row["due_in"] <= timedelta(seconds=301)
    assert asked == 1


@pytest.mark.parametrize("value", ["999999999", "9" * 400, "-5", "soon", "", "1e9"])
async def test_an_odd_retry_after_never_means_longer_than_an_hour(service: Service, value: str) -> None:
    await service.install()

    row, _ = await told_to_wait(service, retry_after=value)

    assert timedelta(seconds=5) < row["due_in"] <= timedelta(hours=1)


async def test_a_full_account_is_waited_for_with_the_reason(service: Service) -> None:
    for number in range(100):
        service.aircall.webhooks.create(COMPANY, {"url": f"https://other.example.com/{number}"}, 0.0)

    await service.install()
    pending = await kept(service)
    service.aircall.webhooks.delete(COMPANY, at_aircall(service)[0].webhook_id)
    row = await finish(service)

    assert pending["status"] == "pending"
    assert "400" in pending["last_error"]
    assert row["status"] == "active"


async def test_a_webhook_of_another_address_is_never_touched(service: Service) -> None:
    others = [
        already_there(service, url=f"{service.settings.webhook_url}{tail}", custom_name="theirs", events=["call.ended"])
        for tail in ("/", "?x=1", "2")
    ]
    others[0].switch(active=False)
    before = [dict(vars(hook)) for hook in others]

    await service.install()

    assert [dict(vars(hook)) for hook in others] == before
    assert len(at_aircall(service)) == 4
    assert (await kept(service))["webhook_id"] == at_aircall(service)[-1].webhook_id


async def test_a_webhook_already_there_is_adopted(service: Service) -> None:
    hook = already_there(service)

    await service.install()

    assert (await kept(service))["webhook_id"] == hook.webhook_id
    assert (created(service), len(at_aircall(service))) == (0, 1)
    assert (await service.post_event(event(hook.token))).status_code == 200


async def test_a_webhook_on_a_later_page_is_found(service: Service) -> None:
    for number in range(60):
        service.aircall.webhooks.create(COMPANY, {"url": f"https://other.example.com/{number}"}, 0.0)
    hook = already_there(service)

    await service.install()

    assert ((await kept(service))["webhook_id"], 0) == (hook.webhook_id, created(service))


async def test_an_adopted_webhook_that_is_off_is_switched_on_and_brought_to_all_events(service: Service) -> None:
    hook = already_there(service, events=["call.ended", UNINSTALLED])
    hook.switch(active=False)

    await service.install()

    assert (hook.active, set(hook.events)) == (True, set(EVENT_NAMES))
    assert ((await kept(service))["status"], created(service)) == ("active", 0)


async def test_an_adopted_webhook_is_brought_to_the_configured_events(database_url: str) -> None:
    async with running(database_url, WEBHOOK_EVENTS="call.ended") as service:
        hook = already_there(service)
        hook.switch(active=False)

        await service.install()

        assert (True, {"call.ended", UNINSTALLED}) == (hook.active, set(hook.events))


async def test_installing_again_keeps_the_webhook_it_goes_by(service: Service) -> None:
    await service.install()
    (ours,) = at_aircall(service)
    double = already_there(service)
    service.aircall.webhooks.all.reverse()

    await service.install()

    assert ours.webhook_id == (await kept(service))["webhook_id"] != double.webhook_id


async def test_a_webhook_that_another_installation_goes_by_is_not_taken_from_it(service: Service) -> None:
    first = await service.install()
    service.aircall.companies[0].integration = Integration(400999, [55011])

    second = await service.install()

    rows = await service.sql("SELECT installation_id, webhook_id, status FROM webhook ORDER BY id")
    assert [first, second] == [row["installation_id"] for row in rows]
    assert {hook.webhook_id for hook in at_aircall(service)} == {row["webhook_id"] for row in rows}
    assert [row["status"] for row in rows] == ["active", "active"]


async def test_who_looks_after_a_webhook_has_it_alone(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    service.aircall.break_next("POST webhooks", "slow", seconds=0.5)
    await service.sql(MAKE_DUE)

    at_it = asyncio.create_task(schedule.reconcile_webhooks(service.resources))
    await until(lambda: created(service) == 1)
    during = await kept(service)
    asked = len(service.aircall.requests)
    await schedule.reconcile_webhooks(service.resources)
    nobody_else_asked = len(service.aircall.requests) == asked
    await at_it

    assert nobody_else_asked
    assert timedelta(seconds=60) < during["lease"] <= leases.LEASE
    assert ((await kept(service))["status"], created(service)) == ("active", 1)


async def test_who_comes_back_after_the_lease_changes_nothing(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    service.aircall.break_next("GET webhooks", "slow", seconds=2.0)
    await service.sql(MAKE_DUE)
    asked = len(service.aircall.requests)

    late = asyncio.create_task(schedule.reconcile_webhooks(service.resources))
    await until(lambda: len(service.aircall.requests) > asked)
    taken_over = await finish(service)
    service.aircall.break_next("webhooks", "error_500", times=3)
    await late

    passing = {"due_in": None, "lease": None}
    assert dict(await kept(service)) | passing == dict(taken_over) | passing
    assert len(at_aircall(service)) == 1


async def test_a_lease_outlives_the_work_it_covers() -> None:
    assert leases.LEASE.total_seconds() > schedule.RECONCILE_SECONDS * 2


async def test_a_webhook_is_finished_when_the_database_was_away_at_the_end(service: Service) -> None:
    service.aircall.break_next("POST webhooks", "slow", seconds=1.0)
    state, code = await service.begin(), service.aircall.grant()
    arriving = asyncio.create_task(service.return_with(state=state, code=code))
    await until(lambda: created(service) == 1)
    async with service.database_away():
        answer = await arriving
    row = await finish(service)

    assert answer.status_code == 303
    assert (row["status"], created(service), len(at_aircall(service))) == ("active", 1, 1)


async def test_a_dead_token_is_no_reason_to_stop_the_chore(service: Service) -> None:
    for company in service.aircall.companies:
        await service.install(company)
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.webhooks.all.clear()

    await service.sql(MAKE_DUE)
    await schedule.reconcile_webhooks(service.resources)

    rows = await service.sql("SELECT last_error FROM webhook ORDER BY id")
    assert [row["last_error"] for row in rows] == ["Aircall answered 403: Forbidden", None, None]
    assert [len(service.aircall.webhooks.of(company.id)) for company in service.aircall.companies] == [0, 1, 1]


@pytest.mark.parametrize("status", ["unclaimed", "removed"])
async def test_only_an_active_installation_gets_a_webhook(service: Service, status: str) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    erased = ", token_sealed = NULL, token_fingerprint = NULL" if status == "removed" else ""
    await service.sql(f"UPDATE installation SET status = $1{erased}", status)
    asked = len(service.aircall.requests)

    row = await finish(service)

    assert ("pending", asked, []) == (row["status"], len(service.aircall.requests), at_aircall(service))
