"""Brake: flows without an installation are slowed down before they cost a row or a call; finished installs are not."""

from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aircall_oauth.errors import TooManyFailedInstalls
from aircall_oauth.installations.oauth import brake
from aircall_oauth.installations.oauth.brake import Brake
from tests.support.service import Service, run_service, settings_for

HOME = "https://app.example.com/aircall/connected"
MANY = 60


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service with its brake's clock stopped."""
    async with run_service(settings_for(database_url, RETURN_URLS=HOME, AIRCALL_RATE_PER_MINUTE="1000")) as running:
        running.aircall.habits.rate_per_minute = 100_000
        running.app.state.brake = Brake(Clock())
        yield running


def from_address(service: Service, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(service.app, client=(address, 12345))
    return httpx.AsyncClient(transport=transport, base_url=service.settings.public_url)


async def come(service: Service, browser: httpx.AsyncClient, **query: str) -> httpx.Response:
    return await service.return_with(browser, state=await service.begin(browser), **query)


async def rows(service: Service) -> int:
    (counted,) = await service.sql("SELECT count(*) FROM flow")
    found: int = counted[0]
    return found


def exchanges(service: Service) -> int:
    return sum(request.path == "/v1/oauth/token" for request in service.aircall.requests)


@pytest.mark.parametrize(("address", "most"), [("8.8.8.8", brake.PER_ADDRESS), ("127.0.0.1", brake.OF_ALL)])
async def test_a_flood_of_made_up_codes_makes_few_rows_and_few_calls(service: Service, address: str, most: int) -> None:
    async with from_address(service, address) as stranger:
        answers = [
            await come(service, stranger, **({"code": f"made-up-{n}"} if n % 2 else {"error": "access_denied"}))
            for n in range(MANY)
        ]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(answers) - len(refused) == most
    assert (await rows(service), exchanges(service)) == (most, most // 2)
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "<h1>Please wait a minute</h1>" in answer.text


async def test_what_carries_no_state_of_ours_makes_no_row_and_no_call(service: Service) -> None:
    answers = [await service.return_with(state=f"v1.k1.{n}", code="made-up") for n in range(MANY)]

    assert Counter(answer.status_code for answer in answers) == {400: MANY}
    assert (await rows(service), service.aircall.requests) == (0, [])


@pytest.mark.slow
async def test_installs_that_succeed_are_never_slowed_down(service: Service) -> None:
    async with from_address(service, "8.8.8.8") as office:
        for _ in range(brake.OF_ALL + 3):
            state = await service.begin(office)
            answer = await service.return_with(office, state=state, code=service.aircall.grant(state=state))
            assert answer.status_code == 303


async def test_one_strangers_flood_does_not_slow_down_another_address_nor_a_link(service: Service) -> None:
    async with from_address(service, "8.8.8.8") as stranger, from_address(service, "9.9.9.9") as admin:
        for n in range(brake.PER_ADDRESS + 3):
            await come(service, stranger, code=f"made-up-{n}")
        elsewhere = await come(service, admin, code=service.aircall.grant())
        departure = await stranger.get(await service.link())
        state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
        by_link = await service.return_with(stranger, state=state, code=service.aircall.grant())

    assert (elsewhere.status_code, by_link.status_code) == (303, 303)


async def test_a_flow_that_was_refused_for_the_flood_is_good_afterwards(service: Service) -> None:
    async with from_address(service, "8.8.8.8") as browser:
        state, code = await service.begin(browser), service.aircall.grant()
        for n in range(brake.PER_ADDRESS + 3):
            await come(service, browser, code=f"made-up-{n}")
        refused = await service.return_with(browser, state=state, code=code)
        service.app.state.brake = Brake()
        later = await service.return_with(browser, state=state, code=code)

    assert (refused.status_code, later.status_code) == (429, 303)


async def test_a_header_makes_no_other_address(service: Service) -> None:
    async with from_address(service, "8.8.8.8") as stranger:
        statuses = Counter[int]()
        for n in range(brake.PER_ADDRESS + 3):
            stranger.headers["x-forwarded-for"] = f"9.9.9.{n}"
            statuses[(await come(service, stranger, code=f"made-up-{n}")).status_code] += 1

    assert statuses == {400: brake.PER_ADDRESS, 429: 3}


def places(brake: Brake, address: str | None, *, most: int = 1000) -> int:
    for taken in range(most):
        try:
            brake.take(address)
        except TooManyFailedInstalls:
            return taken
    return most


def test_places_come_back_within_a_minute() -> None:
    clock = Clock()
    it = Brake(clock)

    first = places(it, "8.8.8.8")
    clock.seconds += 6
    second = places(it, "8.8.8.8")
    clock.seconds += 600

    assert (first, second, places(it, "8.8.8.8")) == (brake.PER_ADDRESS, 1, brake.PER_ADDRESS)


def test_a_turn_given_back_twice_is_given_back_once() -> None:
    it = Brake(Clock())
    turn = it.take("8.8.8.8")
    places(it, "8.8.8.8")

    turn.give_back()
    turn.give_back()

    assert places(it, "8.8.8.8") == 1


@pytest.mark.parametrize(("one", "other"), [("2606:4700::1", "2606:4700::ffff:1"), ("8.8.8.8", "::ffff:8.8.8.8")])
def test_addresses_of_one_visitor_are_counted_together(one: str, other: str) -> None:
    it = Brake(Clock())

    places(it, one)

    assert places(it, other) == 0


def test_the_memory_for_addresses_is_bounded() -> None:
    clock = Clock()
    it = Brake(clock)

    for number in range(2 * brake.MOST_ADDRESSES):
        clock.seconds += 60
        it.take(f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    assert len(it._by_network) == brake.MOST_ADDRESSES
