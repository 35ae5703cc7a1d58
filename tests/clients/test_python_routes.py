"""The ready routes of the Python client, in each framework, with the real service behind them."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aircall_oauth_client import AsyncClient, Client, ConnectionLost, Event, starlette
from fastapi import FastAPI, HTTPException

from tests.clients.conftest import HOME, Reachable
from tests.clients.test_python_inbox import its_own_tests
from tests.support.tools import CI_GROUP, miss

tests_of_the_inbox = its_own_tests("test_inbox")
SECRET = tests_of_the_inbox.SECRET
Answered = tuple[int, Mapping[str, str], str]
Ask = Callable[..., Awaitable[Answered]]


@dataclass
class App:
    """A partner's app: `acme` is logged in unless a test says otherwise."""

    ask: Ask
    events: list[str] = field(default_factory=list)


OWNER = {"name": "acme"}


def _raising(error: Exception) -> Callable[[Event], None]:
    def handler(_event: Event) -> None:
        raise error

    return handler


@asynccontextmanager
async def fastapi_app(it: Reachable, seen: str, events: list[str]) -> AsyncIterator[Ask]:
    async def on_ended(event: Event) -> None:
        events.append(event["id"])

    async with AsyncClient(it.url, it.api_key) as client:
        app = FastAPI()
        app.router.routes.extend(starlette.connect_routes(client, owner=lambda _request: OWNER["name"], return_to=HOME))
        on = {"call.ended": on_ended, "call.hungup": _raising(HTTPException(410))}
        app.router.routes.append(starlette.receiver(SECRET, on=on, seen=seen))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example.com") as browser:

            async def ask(
                path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None
            ) -> Answered:
                method = "GET" if content is None else "POST"
                answer = await browser.request(method, path, content=content, headers=headers)
                return answer.status_code, answer.headers, answer.text

            yield ask


@asynccontextmanager
async def flask_app(it: Reachable, seen: str, events: list[str]) -> AsyncIterator[Ask]:
    try:
        import flask
        from aircall_oauth_client import flask as routes
    except ImportError:
        miss(f"flask is not installed (it is in {CI_GROUP})")
    with Client(it.url, it.api_key) as client:
        app = flask.Flask("partner")
        app.register_blueprint(routes.connect_routes(client, owner=lambda: OWNER["name"], return_to=HOME))
        on = {"call.ended": lambda event: events.append(event["id"]), "call.hungup": lambda _event: flask.abort(410)}
        app.register_blueprint(routes.receiver(SECRET, on=on, seen=seen))

        def asked(path: str, content: bytes | None, headers: Mapping[str, str] | None) -> Answered:
            browser = app.test_client()
            answer = browser.get(path) if content is None else browser.post(path, data=content, headers=headers)
            return answer.status_code, answer.headers, answer.text

        async def ask(path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answered:
            return await asyncio.to_thread(asked, path, content, headers)

        yield ask


@asynccontextmanager
async def django_app(it: Reachable, seen: str, events: list[str]) -> AsyncIterator[Ask]:
    try:
        import django
        from django.conf import settings
    except ImportError:
        miss(f"django is not installed (it is in {CI_GROUP})")
    if not settings.configured:
        settings.configure(ROOT_URLCONF="partner_urls", ALLOWED_HOSTS=["*"], SECRET_KEY="test")
        django.setup()
    from aircall_oauth_client import django as routes
    from django.core.exceptions import PermissionDenied
    from django.test import Client as Browser
    from django.urls import clear_url_caches

    with Client(it.url, it.api_key) as client:
        module: Any = ModuleType("partner_urls")
        on = {"call.ended": lambda event: events.append(event["id"]), "call.hungup": _raising(PermissionDenied())}
        module.urlpatterns = [
            *routes.connect_routes(client, owner=lambda _request: OWNER["name"], return_to=HOME),
            routes.receiver(SECRET, on=on, seen=seen),
        ]
        sys.modules["partner_urls"] = module
        clear_url_caches()

        def asked(path: str, content: bytes | None, headers: Mapping[str, str] | None) -> Answered:
            browser = Browser(raise_request_exception=False)
            if content is None:
                answer = browser.get(path)
            else:
                answer = browser.post(path, data=content, content_type="application/json", headers=headers)
            return answer.status_code, answer.headers, answer.content.decode()

        async def ask(path: str, content: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answered:
            return await asyncio.to_thread(asked, path, content, headers)

        yield ask


APPS = {"fastapi": fastapi_app, "flask": flask_app, "django": django_app}


@pytest.fixture(params=APPS)
async def app(request: pytest.FixtureRequest, reachable: Reachable, tmp_path: Any) -> AsyncIterator[App]:
    events: list[str] = []
    OWNER["name"] = "acme"
    async with APPS[request.param](reachable, str(tmp_path / "seen.sqlite"), events) as ask:
        yield App(ask, events)


async def connect(it: Reachable, app: App) -> str:
    status, headers, _ = await app.ask("/aircall/connect")
    assert (status, headers["cache-control"]) == (303, "no-store")
    browser = it.service.new_browser()
    departure = await browser.get(headers["location"])
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    answer = await it.service.return_with(browser, state=state, code=it.service.aircall.grant(None, state=state))
    assert answer.headers["location"].startswith(HOME)
    return urlsplit(str(answer.headers["location"])).query


async def test_a_customer_connects_and_a_reload_is_right(reachable: Reachable, app: App) -> None:
    query = await connect(reachable, app)

    first, again = [await app.ask(f"/aircall/connected?{query}") for _ in range(2)]
    reloaded = await app.ask("/aircall/connected")

    # The claim is out of the address bar, and repeating it is right too.
    assert (first[0], urlsplit(first[1]["location"]).query) == (303, "")
    assert (again[0], reloaded[0]) == (303, 200)
    assert "Northwind Demo Ltd is connected to Aircall." in reloaded[2]
    assert reloaded[1]["referrer-policy"] == "no-referrer"


async def test_another_owners_browser_gets_nothing_with_the_claim(reachable: Reachable, app: App) -> None:
    query = await connect(reachable, app)
    OWNER["name"] = "globex"

    status, _, page = await app.ask(f"/aircall/connected?{query}")

    assert (status, "claim_of_another" in page) == (409, True)
    assert (await app.ask("/aircall/connected"))[0] == 409


async def test_an_ending_without_a_claim_is_told_with_its_reference(app: App) -> None:
    status, _, page = await app.ask("/aircall/connected?error=declined&attempt=7KQ2MXNP")
    _, _, odd = await app.ask("/aircall/connected?error=<script>alert(1)</script>&attempt=%3Cb%3E")

    assert status == 409
    assert "was declined" in page
    assert "7KQ2MXNP" in page
    assert "<script>" not in odd
    assert "<b>" not in odd


async def test_an_outage_asks_for_a_reload(reachable: Reachable, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: object, *_request: object) -> None:
        raise ConnectionLost("away")

    def blocking_away(self: object, *_request: object) -> None:
        raise ConnectionLost("away")

    monkeypatch.setattr(AsyncClient, "ask", away)
    monkeypatch.setattr(Client, "ask", blocking_away)

    status, _, page = await app.ask("/aircall/connected?claim=x")

    assert (status, "reload this page" in page) == (503, True)


async def test_deliveries_are_taken_once_and_only_if_signed(app: App) -> None:
    headers, body = tests_of_the_inbox.delivery(7)

    first, again = [(await app.ask("/aircall/events", body, headers))[0] for _ in range(2)]
    forged = await app.ask("/aircall/events", json.dumps({"id": "evt_7"}).encode(), headers)
    large = await app.ask("/aircall/events", b"x" * (2 * 1024 * 1024 + 1), headers)

    assert (first, again, forged[0]) == (204, 204, 401)
    assert large[0] in {400, 413}
    assert app.events == ["evt_7"]


async def test_what_a_function_raises_is_a_500_whatever_the_framework_makes_of_it(app: App) -> None:
    headers, body = tests_of_the_inbox.delivery(8, "call.hungup")

    status, _, _ = await app.ask("/aircall/events", body, headers)

    assert status == 500
