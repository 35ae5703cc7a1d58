"""OAuth session fixation, tried over real HTTP against the partner's page of `docs/security.md`, run as it stands."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException
from fastapi.responses import RedirectResponse

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import World, a_client, eventually, world

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
CODE = re.compile(r"<!-- partner -->\n```python\n(.*?)```", re.DOTALL)
HOME = "/aircall/connected"


def logged_in_owner(login: Annotated[str | None, Cookie()] = None) -> str:
    """The partner's login: here a cookie that says who it is, in earnest a session."""
    if login is None:
        raise HTTPException(401)
    return login


@asynccontextmanager
async def partners_page(it: World, port: int) -> AsyncIterator[str]:
    """The documented page, served; its address."""
    client = await it.partner("installations:write,installations:read")
    names: dict[str, Any] = {
        "SERVICE_URL": it.service_url,
        "API_KEY": client.headers["authorization"].removeprefix("Bearer "),
        "logged_in_owner": logged_in_owner,
        "Annotated": Annotated,
        "Depends": Depends,
        "FastAPI": FastAPI,
        "HTTPException": HTTPException,
        "RedirectResponse": RedirectResponse,
        "httpx": httpx,
    }
    found = CODE.search(PAGE.read_text())
    assert found
    exec(found[1], names)
    server = uvicorn.Server(uvicorn.Config(names["app"], port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        await eventually(lambda: _started(server))
        yield f"http://localhost:{port}"
    finally:
        server.should_exit = True
        await serving
        await names["service"].aclose()
        await client.aclose()


async def _started(server: uvicorn.Server) -> bool:
    return server.started


@asynccontextmanager
async def a_partner_with_two_customers(
    folder: Path, database_url: str
) -> AsyncIterator[tuple[World, httpx.AsyncClient, httpx.AsyncClient]]:
    """Everything up; Alice's browser and Mallory's, each logged in at the partner's page."""
    port = free_port()
    async with world(folder, database_url, RETURN_URLS=f"http://localhost:{port}{HOME}") as it:
        await it.start_service()
        async with partners_page(it, port) as page, a_client(page) as alice, a_client(page) as mallory:
            alice.cookies.set("login", "alice", domain="localhost.local")
            mallory.cookies.set("login", "mallory", domain="localhost.local")
            yield it, alice, mallory


async def the_link(browser: httpx.AsyncClient) -> str:
    answer = await browser.get("/aircall/connect")
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def consent(browser: httpx.AsyncClient, link: str) -> str:
    """Open a link and press Authorize; the way back to the service, not yet gone."""
    departure = await browser.get(link)
    page = await browser.get(departure.headers["location"])
    form = re.search(r'<form [^>]*method="post" action="([^"]+)"', page.text)
    assert form, page.text
    target = urljoin(str(page.url), form[1].replace("&amp;", "&"))
    return str((await browser.post(target, data={"decision": "authorize"})).headers["location"])


@pytest.mark.slow
async def test_a_customer_connects_through_the_documented_page(tmp_path: Path, database_url: str) -> None:
    async with a_partner_with_two_customers(tmp_path, database_url) as (it, alice, _):
        back = await alice.get(await consent(alice, await the_link(alice)))
        home = await alice.get(back.headers["location"])

        assert (home.status_code, home.json()) == (200, "Northwind Demo Ltd is connected.")
        (installation,) = await it.sql("SELECT status, owner FROM installation")
        assert tuple(installation) == ("active", "alice")
        assert len(await it.webhooks()) == 1


@pytest.mark.slow
async def test_the_documented_page_can_be_reloaded_and_gone_back_to(tmp_path: Path, database_url: str) -> None:
    async with a_partner_with_two_customers(tmp_path, database_url) as (it, alice, _):
        link = await the_link(alice)
        callback = await consent(alice, link)
        home = (await alice.get(callback)).headers["location"]
        # The service claims it, and the answer is lost on its way to the partner's page.
        partner = await it.partner("installations:write,installations:read")
        claim = parse_qs(urlsplit(home).query)["claim"][0]
        lost = await partner.post("/v1/claims", json={"claim": claim, "owner": "alice"})

        reloads = [await alice.get(home) for _ in range(3)]
        back_to_the_callback = await alice.get((await alice.get(callback)).headers["location"])
        away = (await alice.get(link)).headers["location"]
        back_to_the_link = await alice.get(away)
        await it.sql("UPDATE claim SET expires_at = now()")
        an_hour_later = await alice.get(home)

        assert lost.status_code == 200
        for answer in (*reloads, back_to_the_callback, an_hour_later):
            assert (answer.status_code, answer.json()) == (200, "Northwind Demo Ltd is connected.")
        reference = parse_qs(urlsplit(away).query)["attempt"][0]
        assert back_to_the_link.status_code == 409
        assert "link_used" in back_to_the_link.text
        assert reference in back_to_the_link.text
        found = await partner.get("/v1/install-attempts", params={"reference": reference})
        (attempt,) = found.json()["items"]
        assert (attempt["ending"], attempt["shown"], attempt["owner"]) == ("claimed", "return_to:link_used", "alice")
        assert len(await it.sql("SELECT * FROM event WHERE type = 'installation.claimed'")) == 1
        await partner.aclose()


@pytest.mark.slow
async def test_a_link_sent_to_an_admin_brings_its_sender_nothing(tmp_path: Path, database_url: str) -> None:
    async with a_partner_with_two_customers(tmp_path, database_url) as (it, alice, mallory):
        link = await the_link(mallory)

        # Alice consents to what Mallory began: the browser of Alice has the cookie and brings the claim home.
        back = await alice.get(await consent(alice, link))
        home = await alice.get(back.headers["location"])
        # Mallory tries what is left: the same link again, and the partner's page without a claim.
        again = await mallory.get(link)
        empty_handed = [await mallory.get(HOME), await mallory.get(HOME, params={"claim": "A" * 43})]

        assert home.status_code == 409
        assert again.headers["location"].partition("?")[2].startswith("error=link_used&attempt=")
        assert [answer.status_code for answer in empty_handed] == [409, 409]
        (installation,) = await it.sql("SELECT id, status, owner FROM installation")
        assert tuple(installation)[1:] == ("unclaimed", None)
        assert await it.webhooks() == []
        reader = await it.partner("tokens:read,installations:read")
        assert (await reader.get(f"/v1/installations/{installation['id']}/token")).status_code == 409
        await reader.aclose()
        assert await it.sql("SELECT * FROM event") == []

        # An hour later nothing is left, here or at Aircall.
        await it.sql("UPDATE claim SET expires_at = now()")
        await it.run("work")
        await eventually(lambda: it.sql("SELECT 1 FROM installation WHERE status = 'removed'"), seconds=30)
        await eventually(lambda: it.asked("POST", "/v1/integrations/disable"))
        (erased,) = await it.sql("SELECT token_sealed FROM installation")
        assert erased["token_sealed"] is None


@pytest.mark.slow
async def test_a_callback_made_for_one_browser_is_no_good_in_another(tmp_path: Path, database_url: str) -> None:
    """Login CSRF: Mallory consents for the company of Mallory and lets Alice's browser bring it home."""
    async with a_partner_with_two_customers(tmp_path, database_url) as (it, alice, mallory):
        back = await consent(mallory, await the_link(mallory))

        in_her_browser = await alice.get(back)
        his = await mallory.get(back)
        his_claim_in_her_session = await alice.get(his.headers["location"])

        assert in_her_browser.status_code == 400
        assert his_claim_in_her_session.status_code == 409
        (installation,) = await it.sql("SELECT status, owner FROM installation")
        assert tuple(installation) == ("unclaimed", None)
