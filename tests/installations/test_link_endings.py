"""A flow that began with an install link never goes on as one without, however it ends."""

import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stamina

from aircall_oauth.installations.attempts.recording import REFERENCE
from aircall_oauth.installations.oauth import flow, links, state
from aircall_oauth.sandbox.postgres import Postgres
from tests.support.fixtures import lasting_service
from tests.support.service import PUBLIC_URL, Service, run_service, settings_for

HOME = "https://app.example.com/aircall/connected"


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as running:
        yield running


@pytest.fixture(scope="module")
async def shared_service(postgres: Postgres) -> AsyncIterator[Service]:
    async with lasting_service(postgres, RETURN_URLS=HOME) as running:
        yield running


@dataclass(frozen=True)
class Begun:
    """A flow on its way: its link, the browser that opened it, and the state that Aircall sends back."""

    service: Service
    link: str
    browser: httpx.AsyncClient
    state: str

    async def comes_back(self, browser: httpx.AsyncClient | None = None, **query: str) -> httpx.Response:
        return await self.service.return_with(browser or self.browser, **{"state": self.state, **query})

    def code(self) -> str:
        return self.service.aircall.grant()


Ending = Callable[[Begun], Awaitable[httpx.Response]]


async def declined(begun: Begun) -> httpx.Response:
    return await begun.comes_back(error="access_denied")


async def declined_twice(begun: Begun) -> httpx.Response:
    await declined(begun)
    return await declined(begun)


async def in_another_browser(begun: Begun) -> httpx.Response:
    return await begun.comes_back(begun.service.new_browser(), code=begun.code())


async def in_another_browser_that_began_a_flow_without(begun: Begun) -> httpx.Response:
    browser = begun.service.new_browser()
    await begun.service.begin(browser)
    return await begun.comes_back(browser, code=begun.code())


async def after_ten_minutes(begun: Begun) -> httpx.Response:
    vault = begun.service.resources.vault
    opened = json.loads(vault.open_message(begun.state, state.PURPOSE))
    opened[1] = int(time.time()) - 605
    late = vault.seal_message(json.dumps(opened).encode(), state.PURPOSE)
    return await begun.comes_back(state=late, code=begun.code())


async def without_a_code(begun: Begun) -> httpx.Response:
    return await begun.comes_back()


async def with_a_code_that_cannot_be_one(begun: Begun) -> httpx.Response:
    return await begun.comes_back(code="c" * 4000)


async def with_two_codes(begun: Begun) -> httpx.Response:
    query = {"state": begun.state, "code": [begun.code(), begun.code()]}
    return await begun.browser.get("/aircall/oauth/callback", params=query)


async def with_a_damaged_state(begun: Begun) -> httpx.Response:
    return await begun.comes_back(state=begun.state[:-4], code=begun.code())


async def without_a_state(begun: Begun) -> httpx.Response:
    return await begun.browser.get("/aircall/oauth/callback", params={"code": begun.code()})


async def with_a_code_that_aircall_refuses(begun: Begun) -> httpx.Response:
    return await begun.comes_back(code="never-given")


async def with_a_refused_code_twice(begun: Begun) -> httpx.Response:
    await begun.comes_back(code="never-given")
    return await begun.comes_back(code="never-given")


async def with_aircall_away(begun: Begun) -> httpx.Response:
    begun.service.aircall.break_next("oauth/token", "error_500", times=10)
    return await begun.comes_back(code=begun.code())


async def with_aircall_away_after_the_exchange(begun: Begun) -> httpx.Response:
    begun.service.aircall.break_next("integrations/me", "error_500", times=10)
    return await begun.comes_back(code=begun.code())


async def cut_short(begun: Begun) -> httpx.Response:
    code = begun.code()
    await begun.comes_back(code=code)
    await begun.service.sql("UPDATE flow SET status = 'unknown', used_at = now() - $1::interval", flow.UNDER_WAY * 2)
    return await begun.comes_back(code=code)


async def with_the_database_away(begun: Begun) -> httpx.Response:
    async with begun.service.database_away():
        return await begun.comes_back(code=begun.code())


async def with_a_fault_of_ours(begun: Begun) -> httpx.Response:
    await begun.service.sql("ALTER TABLE flow RENAME TO gone")
    return await begun.comes_back(code=begun.code())


async def with_the_link_used_in_another_browser(begun: Begun) -> httpx.Response:
    other = begun.service.new_browser()
    departure = await other.get(begun.link)
    other_state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    await begun.service.return_with(other, state=other_state, code=begun.code())
    return await begun.comes_back(code=begun.code())


async def at_the_install_door_with_an_old_link(begun: Begun) -> httpx.Response:
    content = json.dumps([f"lnk_{'0' * 32}", "acme", int(time.time()) - 1, HOME]).encode()
    old = begun.service.resources.vault.seal_message(content, links.PURPOSE)
    return await begun.browser.get("/aircall/oauth/install", params={"link": old})


async def at_the_install_door_with_a_damaged_link(begun: Begun) -> httpx.Response:
    return await begun.browser.get(begun.link[:-4])


async def at_the_install_door_with_a_link_too_long(begun: Begun) -> httpx.Response:
    return await begun.browser.get(begun.link + "x" * 9000)


ENDINGS: list[Ending] = [
    declined,
    declined_twice,
    in_another_browser,
    in_another_browser_that_began_a_flow_without,
    after_ten_minutes,
    without_a_code,
    with_a_code_that_cannot_be_one,
    with_two_codes,
    with_a_damaged_state,
    without_a_state,
    with_a_code_that_aircall_refuses,
    with_a_refused_code_twice,
    with_the_link_used_in_another_browser,
    at_the_install_door_with_an_old_link,
    at_the_install_door_with_a_damaged_link,
    at_the_install_door_with_a_link_too_long,
]
# They break what others would go by.
BREAKING: list[Ending] = [
    with_aircall_away,
    with_aircall_away_after_the_exchange,
    cut_short,
    with_the_database_away,
    with_a_fault_of_ours,
]

SENT_HOME: dict[Ending, str] = {
    declined: "declined",
    declined_twice: "declined",
    after_ten_minutes: "state_expired",
    with_a_code_that_aircall_refuses: "code_refused",
    with_a_refused_code_twice: "code_refused",
    with_aircall_away: "aircall_away",
    with_aircall_away_after_the_exchange: "aircall_away",
    with_the_link_used_in_another_browser: "link_used",
    at_the_install_door_with_an_old_link: "link_expired",
}
# Pages with a button to go home: the browser may be the wrong one, or to reload may help.
SHOWN: dict[Ending, str] = {
    in_another_browser: "wrong_browser",
    in_another_browser_that_began_a_flow_without: "wrong_browser",
    without_a_code: "parameters_invalid",
    with_a_code_that_cannot_be_one: "parameters_invalid",
    with_two_codes: "parameters_invalid",
    cut_short: "flow_unknown",
    with_the_database_away: "try_again_later",
    with_a_fault_of_ours: "app_error",
}
# It is not known which link it was.
UNKNOWN_LINKS: set[Ending] = {
    with_a_damaged_state,
    without_a_state,
    at_the_install_door_with_a_damaged_link,
    at_the_install_door_with_a_link_too_long,
}


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda ending: ending.__name__)
async def test_no_ending_of_a_links_flow_leads_to_the_door_without_one(shared_service: Service, ending: Ending) -> None:
    await ends_as_it_should(shared_service, ending)


@pytest.mark.parametrize("ending", BREAKING, ids=lambda ending: ending.__name__)
async def test_no_ending_by_a_failure_leads_to_the_door_without_a_link(service: Service, ending: Ending) -> None:
    await ends_as_it_should(service, ending)


async def ends_as_it_should(service: Service, ending: Ending) -> None:
    link, browser = await service.link(), service.new_browser()
    departure = await browser.get(link)
    begun = Begun(service, link, browser, parse_qs(urlsplit(departure.headers["location"]).query)["state"][0])

    answer = await ending(begun)

    assert f"{PUBLIC_URL}/aircall/oauth/install" not in answer.text + str(answer.headers)
    if ending in SENT_HOME:
        assert answer.status_code == 303
        assert answer.headers["cache-control"] == "no-store"
        assert error_at_home(answer.headers["location"]) == SENT_HOME[ending]
        return
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    next_step = re.findall(r'<p class="next">(.*?)</p>', answer.text)
    offered = re.findall(r'href="(.*?)"', answer.text)
    if ending in UNKNOWN_LINKS:
        assert (offered, ["new link" in step for step in next_step]) == ([], [True]), answer.text
    else:
        assert [error_at_home(unescape(link)) for link in offered] == [SHOWN[ending]]
        assert ["go back" in step.lower() for step in next_step] == [True]


def error_at_home(address: str) -> str:
    """The error that an address of the partner's page tells, if it is one with an attempt's reference."""
    page, _, query = address.partition("?")
    told = parse_qs(query)
    assert (page, set(told)) == (HOME, {"error", "attempt"})
    assert re.fullmatch(REFERENCE, told["attempt"][0])
    return told["error"][0]


async def test_a_link_without_an_address_ends_on_a_page_that_asks_for_a_new_one(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        link, browser = await service.link(), service.new_browser()
        departure = await browser.get(link)
        begun = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]

        answer = await service.return_with(browser, state=begun, code="never-given")
        again = await browser.get(link)

    assert (answer.status_code, "href" in answer.text, "new link" in answer.text) == (400, False, True)
    assert (again.status_code, "href" in again.text, "was used before" in again.text) == (409, False, True)
    assert 'id="reference"' in answer.text


async def test_a_used_link_goes_home_before_consent(shared_service: Service) -> None:
    link, browser = await shared_service.link(), shared_service.new_browser()
    departure = await browser.get(link)
    begun = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    await shared_service.return_with(browser, state=begun, code=shared_service.aircall.grant())

    answer = await shared_service.new_browser().get(link)

    assert (answer.status_code, error_at_home(answer.headers["location"])) == (303, "link_used")
    assert "set-cookie" not in answer.headers


async def test_a_flow_without_a_link_may_start_again(shared_service: Service) -> None:
    begun = await shared_service.begin()

    answer = await shared_service.return_with(
        shared_service.new_browser(), state=begun, code=shared_service.aircall.grant()
    )

    assert 'id="start-again"' in answer.text
