"""Every form of the console acts once for each page it was shown on, and never without that page."""

import asyncio
import re
from collections.abc import Iterator
from html import escape
from urllib.parse import urlencode

import httpx
import pytest

from aircall_oauth.console import forms
from aircall_oauth.console.pages import PAGES
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.storage.stamps import new_id
from tests.support.consoles import FORM_TOKEN, Browser, Console, words
from tests.support.receivers import Partner, Receiver, receiver, subscribe, tell
from tests.support.service import Service

AWAY = "https://203.0.114.7/hook"
ONCE = "It was sent twice, and done once: this is what came of it."
WINDOW = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00"}
# What is filled in, in the order in which the acts are done: the last ones end what the others need.
ACTS: dict[str, dict[str, str]] = {
    "/destinations/new": {"name": "new", "url": AWAY, "order": "subject", "from": "now"},
    "/destinations/{subscription_id}/test": {},
    "/events/{event_id}/resend": {"subscription_id": "{subscription_id}"},
    "/destinations/{subscription_id}/edit": {"name": "renamed", "url": AWAY, "order": "none"},
    "/destinations/{subscription_id}/rotate-secret": {},
    "/destinations/{subscription_id}/retry": {},
    "/destinations/{subscription_id}/replay": WINDOW,
    "/destinations/{subscription_id}/replays/{replay_id}/stop": {},
    "/destinations/{subscription_id}/pause": {},
    "/destinations/{subscription_id}/resume": {},
    "/destinations/{subscription_id}/delete": {},
    "/keys/new": {"name": "crm", "scopes": "events:read"},
    "/keys/{key_id}/revoke": {},
    "/links/new": {"owner": "acme"},
    "/sessions/{session_id}/revoke": {},
    "/customers/{installation_id}/check": {},
    "/customers/{installation_id}/link": {"owner": "acme"},
    "/customers/{installation_id}/backfill": {"since": "{since}"},
    "/customers/{installation_id}/rotate": {},
    "/customers/{installation_id}/disconnect": {},
    "/vault/rotate": {},  # it goes on when its answer is there
}
# They make something with an id of the form's own, or a secret: a repeat shows the same, and keeps no secret.
MAKING = {
    *("/destinations/new", "/destinations/{subscription_id}/rotate-secret", "/destinations/{subscription_id}/replay"),
    *("/keys/new", "/links/new", "/customers/{installation_id}/link", "/customers/{installation_id}/backfill"),
}
# They change nothing but what their visitor sees.
OWN = {"/sign-in", "/sign-out", "/zone", "/events/{event_id}/reveal"}


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


def posts() -> Iterator[PageRoute]:
    for router in PAGES:
        for route in router.routes:
            assert isinstance(route, PageRoute)
            if "POST" in (route.methods or ()):
                yield route


def test_every_act_of_the_console_is_walked_here() -> None:
    assert {route.path for route in posts() if route.acts_once} == set(ACTS)
    assert {route.path for route in posts() if not route.acts_once} == OWN


async def known(service: Service, partner: Partner) -> dict[str, str]:
    """The names in addresses, and what they stand for."""
    (row,) = await service.sql(
        "SELECT i.id AS installation_id, e.id AS event_id, "
        "to_char(now() - interval '2 h', 'YYYY-MM-DD\"T\"HH24:MI') AS since FROM installation i, event e LIMIT 1"
    )
    return {**row, "subscription_id": partner.id}


async def newest(service: Service, kind: str, table: str) -> dict[str, str]:
    rows = await service.sql(f"SELECT id FROM {table} ORDER BY id DESC LIMIT 1")
    return {kind: rows[0]["id"]} if rows else {}


async def token_of(browser: Browser, address: str) -> str:
    page = await browser.get(address, params=WINDOW if address.endswith("/replay") else {})
    (found,) = FORM_TOKEN.findall(page.text)
    return str(found)


async def done(service: Service, to: Receiver) -> tuple[int, int]:
    """How many acts the audit has, and how many deliveries went out."""
    (row,) = await service.sql("SELECT count(*) FROM audit")
    return int(row["count"]), len(to.received)


def told(answer: httpx.Response) -> str:
    said = re.sub(r"link=\S+", "link=sealed anew", words(answer).replace(ONCE, ""))
    where: str = answer.headers.get("location", "")
    return where + " ".join(said.split())


async def test_every_act_is_done_once_by_its_own_page_only(console: Console) -> None:
    service = console.service
    await tell(service, 1)
    anna = await console.visitor("anna")
    await console.visitor("ben")
    async with receiver() as to:
        partner = await subscribe(service, to.url, name="crm")
        names = await known(service, partner)
        for path, form in ACTS.items():
            names |= await newest(service, "replay_id", "replay") | await newest(service, "key_id", "api_key")
            names |= await newest(service, "session_id", "console_session")
            address, filled = path.format(**names), {key: each.format(**names) for key, each in form.items()}
            token = await token_of(anna, address)
            before = await done(service, to)

            bare = await httpx.AsyncClient.post(anna, address, data=filled)
            after_bare = await done(service, to)
            first, again = [await anna.post(address, data=filled | {"form_token": token}) for _ in range(2)]

            assert bare.status_code == 422, path
            assert "This did not come from a page that asks for it: check it, and send it again." in words(bare), path
            counted_first = path.endswith("/replay")
            back = f"{address}?{urlencode(filled)}" if counted_first else address
            assert f'href="{escape(back)}">{"Go" if counted_first else "Do nothing, go"} back' in bare.text, path
            assert ("Send it</button>" in bare.text) != counted_first, path
            assert after_bare == before, path
            assert first.status_code in {200, 303}, (path, words(first))
            assert (first.status_code, told(first)) == (again.status_code, told(again)), path
            assert (ONCE in words(first), ONCE in words(again)) == (False, path not in MAKING), path
            assert max(after - was for was, after in zip(before, await done(service, to), strict=True)) <= 1, path


async def test_a_double_click_waits_for_what_the_first_comes_to(console: Console) -> None:
    anna = await console.visitor()
    async with receiver() as to:
        partner = await subscribe(console.service, to.url)
        address = f"/destinations/{partner.id}/test"
        form = {"form_token": await token_of(anna, address)}

        answers = await asyncio.gather(*(anna.post(address, data=form) for _ in range(4)))

    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({told(answer) for answer in answers}) == 1
    assert sum(ONCE in words(answer) for answer in answers) == 3
    assert len(to.received) == 1


async def test_what_was_refused_may_be_sent_again(console: Console) -> None:
    partner = await subscribe(console.service, AWAY)
    anna = await console.visitor()
    address = f"/destinations/{partner.id}/retry"
    form = {"form_token": await token_of(anna, address), "event_id": "evt_1"}

    wrong = [await anna.post(address, data=form) for _ in range(2)]
    gone = [await anna.post(f"/keys/{new_id('key')}/revoke") for _ in range(2)]

    assert [answer.status_code for answer in (*wrong, *gone)] == [422, 422, 404, 404]
    assert await console.service.sql("SELECT 1 FROM console_form") == []


async def test_what_is_not_known_to_have_ended_is_not_done_again(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "WAITS_SECONDS", 0.0)
    partner = await subscribe(console.service, AWAY)
    anna = await console.visitor()
    address = f"/destinations/{partner.id}/pause"
    form = {"form_token": await token_of(anna, address)}
    assert (await anna.post(address, data=form)).status_code == 200
    await partner.post("resume")
    await console.service.sql("UPDATE console_form SET answer = NULL")  # as of a process that ended meanwhile

    again = await anna.post(address, data=form)

    assert again.status_code == 409
    assert "This was sent before" in words(again)
    assert "It is not done a second time." in words(again)
    assert (await partner.shown())["status"] == "active"
