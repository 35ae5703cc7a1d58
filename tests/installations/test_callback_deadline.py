"""A browser has its answer in time whatever Aircall does, and what was granted meanwhile is not lost."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest
import stamina

from aircall_oauth.installations.oauth import flow, grant, saving
from aircall_oauth.sandbox.aircall.faults import How
from tests.support.processes import eventually
from tests.support.service import Service, until

SOON = 1.5
REAL_ANSWER_SECONDS: float = getattr(flow, "ANSWER_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(flow, "ANSWER_SECONDS", SOON, raising=False)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


class Slow(httpx.AsyncBaseTransport):
    """Holds back what is asked of Aircall at these paths until it may go on."""

    def __init__(self, service: Service, *paths: str) -> None:
        self.go_on = asyncio.Event()
        self._paths = paths
        http = service.resources.aircall._http
        self._transport, http._transport = http._transport, self

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path in self._paths:
            await self.go_on.wait()
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def flows(service: Service) -> list[str]:
    return [row["status"] for row in await service.sql("SELECT status FROM flow")]


@pytest.mark.parametrize("path", ["/v1/oauth/token", "/v1/integrations/me", "/v1/company"])
async def test_an_install_goes_on_when_its_browser_has_its_answer(service: Service, path: str) -> None:
    slow = Slow(service, path)
    begun, code = await service.begin(), service.aircall.grant()

    answer = await asyncio.wait_for(service.return_with(state=begun, code=code), 60)
    slow.go_on.set()

    async def reloaded() -> httpx.Response | None:
        again = await service.return_with(state=begun, code=code)
        return None if again.status_code == 409 else again

    again = await eventually(reloaded)
    assert (answer.status_code, "Reload this page" in answer.text) == (409, True)
    assert again.status_code == 303
    assert await flows(service) == ["connected"]
    assert sum(request.path == "/v1/oauth/token" for request in service.aircall.requests) == 1
    (kept,) = await service.sql("SELECT status FROM installation")
    assert kept["status"] == "active"


@pytest.mark.slow
async def test_a_webhook_that_takes_long_keeps_no_browser_waiting(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "ANSWER_SECONDS", 4 * SOON, raising=False)
    slow = Slow(service, "/v1/webhooks")
    begun = await service.begin()

    answer = await asyncio.wait_for(service.return_with(state=begun, code=service.aircall.grant()), 60)
    before = service.aircall.webhooks.of(service.aircall.companies[0].id)
    slow.go_on.set()
    await until(lambda: bool(service.aircall.webhooks.of(service.aircall.companies[0].id)))

    assert (answer.status_code, before) == (303, [])


async def test_what_fails_after_the_saving_is_no_failed_install(service: Service) -> None:
    await service.sql("ALTER TABLE webhook ALTER leased_until TYPE text USING NULL")

    answer = await service.return_with(state=await service.begin(), code=service.aircall.grant())

    assert answer.status_code == 303


def test_every_ending_comes_within_fifteen_seconds() -> None:
    assert REAL_ANSWER_SECONDS < 15
    assert flow.WAIT_FOR_FIRST_SECONDS < REAL_ANSWER_SECONDS
    assert flow.UNDER_WAY.total_seconds() > 2 * grant.STEP_SECONDS + saving.SAVE_SECONDS + 10


@pytest.mark.slow
@pytest.mark.parametrize("door", ["oauth/token", "integrations/me"])
async def test_what_aircall_asks_to_repeat_is_repeated_in_time(
    service: Service, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(flow, "ANSWER_SECONDS", 30.0, raising=False)
    how: How = "status_429"
    service.aircall.break_next(door, how, times=2, seconds=1.0)

    answer = await service.return_with(state=await service.begin(), code=service.aircall.grant())

    assert answer.status_code == 303
    assert sum(request.path == f"/v1/{door}" for request in service.aircall.requests) == 3


async def test_a_pause_longer_than_the_browser_waits_is_an_ending_at_once(service: Service) -> None:
    service.aircall.break_next("oauth/token", "status_429", seconds=60.0)

    answer = await service.return_with(state=await service.begin(), code=service.aircall.grant())

    assert (answer.status_code, "Aircall could not be reached" in answer.text) == (502, True)
