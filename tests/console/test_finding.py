"""Owners are found by how they begin, attempts by their known endings, and no link leads to a missing page."""

import html
import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.console import words as said
from aircall_oauth.console.pages.attempts import _sentence
from aircall_oauth.deliveries import telling
from aircall_oauth.errors import FlowError
from aircall_oauth.events.store import NO_INSTALLATION
from aircall_oauth.installations.attempts.views import Funnel
from tests.support.consoles import Console, words
from tests.support.receivers import subscribe
from tests.support.service import Service, run_service, settings_for

AWAY = "https://203.0.114.7/hook"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url)) as running:
        yield running


async def unclaimed(service: Service, owner: str) -> str:
    """An install by a link that its owner has not claimed: the installation's id."""
    visitor = service.new_browser()
    departure = await visitor.get(await service.link(owner))
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    assert (await service.return_with(visitor, state=state, code=service.aircall.grant(state=state))).status_code == 200
    (row,) = await service.sql("SELECT id FROM installation")
    found: str = row["id"]
    return found


async def test_an_unclaimed_customer_shows_the_owner_of_its_link(console: Console) -> None:
    installation = await unclaimed(console.service, "acme")
    anna = await console.visitor()

    listed, one = await anna.get("/customers"), await anna.get(f"/customers/{installation}")

    assert "acme by its link, not claimed" in words(listed)
    assert "Owner acme by its link, not claimed yet" in words(one)
    assert 'href="/attempts?owner=acme"' in one.text


async def test_an_owner_with_attempts_only_leads_to_them(console: Console) -> None:
    for owner in ("Acme-North", "Acme-South"):
        await console.service.link(owner)
    anna = await console.visitor()

    exactly = await anna.get("/search", params={"q": "Acme-North"})
    beginning = await anna.get("/search", params={"q": "acme"})

    assert (exactly.status_code, exactly.headers["location"]) == (303, "/attempts?owner=Acme-North")
    assert re.findall(r'href="(/attempts[^"]+)"', beginning.text) == [
        "/attempts?owner=Acme-North",
        "/attempts?owner=Acme-South",
    ]
    assert "acme_" not in (await anna.get("/search", params={"q": "acme%"})).text
    assert "Nothing is called" in words(await anna.get("/search", params={"q": "cme-north"}))


async def test_customers_are_found_by_the_beginning_of_their_owner(console: Console) -> None:
    service = console.service
    installation = await service.installed()
    await service.sql("UPDATE installation SET owner = 'Acme-North'")
    anna = await console.visitor()

    assert installation in (await anna.get("/customers", params={"q": "acme-n"})).text
    assert installation not in (await anna.get("/customers", params={"q": "north-"})).text


async def test_the_search_box_is_completed_and_works_without(console: Console) -> None:
    service = console.service
    await service.installed()
    await service.sql("UPDATE installation SET owner = 'north<b>'")
    await service.link("northern")
    await subscribe(service, AWAY, name="Northern CRM")
    anna = await console.visitor()

    found = await anna.get("/search/suggestions", params={"q": "nor"})

    offered = re.findall(r'<option value="([^"]*)">', found.text)
    assert [html.unescape(one) for one in offered] == ["Northwind Demo Ltd", "northern", "Northern CRM"]
    assert "<b>" not in found.text
    assert "<html" not in found.text
    for query in ("n", "", "x" * 200, "evt_" + "0" * 32):
        assert "<option" not in (await anna.get("/search/suggestions", params={"q": query})).text
    page = await anna.get("/")
    assert 'list="suggestions"' in page.text
    assert 'action="/search" method="get"' in page.text
    stranger = await console.stranger().get("/search/suggestions", params={"q": "nor"})
    assert "Northwind" not in stranger.text


async def test_suggestions_are_few_however_much_there_is(console: Console) -> None:
    service = console.service
    await service.link("owner")
    await service.sql("""
        INSERT INTO install_attempt SELECT (jsonb_populate_record(install_attempt, jsonb_build_object(
            'id', 'att_' || md5(n::text), 'reference', upper(md5(n::text)), 'owner', 'owner-' || n))).*
        FROM install_attempt, generate_series(1, 300) AS n
    """)
    anna = await console.visitor()

    assert (await anna.get("/search/suggestions", params={"q": "OWN"})).text.count("<option") == 8


async def test_endings_are_chosen_from_those_that_are_known(console: Console) -> None:
    service = console.service
    await service.return_with(state=await service.begin(), error="access_denied")
    await service.install()
    await service.link("acme")
    anna = await console.visitor()

    page = await anna.get("/attempts")
    declined = await anna.get("/attempts", params={"ending": "declined"})
    acme = await anna.get("/attempts", params={"owner": "acme"})

    assert '<option value="declined"' in page.text
    assert (await anna.get("/attempts", params={"ending": "no_such_thing"})).status_code == 422
    said_of = "0 of 1 attempt like that within a week ended with a connection; of the others 1 ended as “declined”."
    assert said_of in words(declined)
    assert "Endings: declined 1." in words(declined)
    assert "like that within a week ended with a connection; of the others 1 is under way." in words(acme)
    assert "Endings: under way 1." in words(acme)
    assert "/attempts?ending=declined&amp;days=7" in page.text


def test_every_ending_of_a_flow_is_known_to_the_console() -> None:
    def below(kind: type[FlowError]) -> list[type[FlowError]]:
        return [kind, *(each for sub in kind.__subclasses__() for each in below(sub))]

    missing = {each.code() for each in below(FlowError)[1:]} - set(said.ENDINGS)

    assert missing == set()


async def test_events_that_belong_to_no_customer_are_shown_so(console: Console) -> None:
    service = console.service
    partner = await subscribe(service, AWAY, name="crm")
    await service.sql("UPDATE subscription SET health = 'down', last_error = 'timeout'")
    await telling.tell_of_destinations(service.resources)
    (event,) = await service.sql("SELECT id FROM event")
    anna = await console.visitor()

    for path in ("/events", f"/events/{event['id']}"):
        page = await anna.get(path)
        assert "no customer" in words(page), path
        assert "company 0" not in words(page), path
        assert f"/customers/{NO_INSTALLATION}" not in page.text, path
        assert f'href="/destinations/{partner.id}"' in page.text, path
    for address in set(re.findall(r'href="(/[^"]*)"', (await anna.get("/events")).text)):
        assert (await anna.get(html.unescape(address), follow_redirects=True)).status_code == 200, address


def test_the_sentence_says_what_the_others_are() -> None:
    def said_of(under_way: int = 0, **endings: int) -> str:
        return _sentence(Funnel({"made": 20, "connected": 1}, endings, under_way), "a week", is_filtered=False)

    begun = "1 of 20 attempts within a week ended with a connection"
    assert said_of(connected=1, declined=5) == f"{begun}; of the others 5 ended as “declined”."
    assert said_of(3, connected=1, declined=2, link_used=4) == (
        f"{begun}; of the others 4 ended as “link used”, 2 ended as “declined”, 3 are under way."
    )
    assert said_of(declined=5, link_used=4, link_expired=3, code_refused=2, aircall_away=1) == (
        f"{begun}; of the others 5 ended as “declined”, 4 ended as “link used”, 3 ended as “link expired”, "
        "3 in other ways."
    )
    assert said_of(connected=1) == f"{begun}."
    without_links = Funnel({"made": 4, "connected": 2}, {"connected": 2}, 4)
    assert _sentence(without_links, "a week", is_filtered=False).startswith("2 of 6 attempts")


@pytest.mark.parametrize("asked", ["under_way", "under way"])
async def test_attempts_that_are_under_way_are_found_on_the_page_and_by_the_api(console: Console, asked: str) -> None:
    service = console.service
    visitor = service.new_browser()
    departure = await visitor.get(await service.link("beta"))
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    await service.return_with(visitor, state=state, error="access_denied")
    await service.link("acme")
    anna, partner = await console.visitor(), await service.partner()

    page = await anna.get("/attempts", params={"ending": asked})
    (listed,) = (await partner.get("/v1/install-attempts", params={"ending": "under_way"})).json()["items"]

    assert re.findall(r'href="/attempts/(\w+)"', page.text) == [listed["reference"]]
    assert (listed["owner"], listed["ending"]) == ("acme", None)
    assert '<option value="under_way" selected>' in page.text
    assert "/attempts?ending=under_way&amp;days=7" in (await anna.get("/attempts")).text
