"""The pretend Aircall's consent page and its token door."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aircall_oauth.sandbox.aircall import PretendAircall, create_app, read

REDIRECT_URI = "https://partner.example.com/aircall/oauth/callback"
CONSENT = {
    "client_id": "demo-client",
    "redirect_uri": REDIRECT_URI,
    "response_type": "code",
    "scope": "public_api",
    "state": "a state/with?signs&more=ü",
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aircall(clock: Clock) -> PretendAircall:
    return PretendAircall(
        client_id="demo-client", client_secret="demo-secret", redirect_uris=[REDIRECT_URI], clock=clock
    )


@pytest.fixture
async def browser(aircall: PretendAircall) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(aircall))
    async with httpx.AsyncClient(transport=transport, base_url="http://aircall.test") as client:
        yield client
    await aircall.close()


def exchange_of(code: str, **changes: str) -> dict[str, str]:
    return {
        "client_id": "demo-client",
        "client_secret": "demo-secret",
        "redirect_uri": REDIRECT_URI,
        "grant_type": "authorization_code",
        "code": code,
        **changes,
    }


def returned(response: httpx.Response) -> dict[str, list[str]]:
    assert response.status_code == 303
    assert response.headers["location"].startswith(f"{REDIRECT_URI}?")
    return parse_qs(urlsplit(response.headers["location"]).query)


async def decide(browser: httpx.AsyncClient, decision: str, **form: str) -> httpx.Response:
    return await browser.post("/oauth/authorize", params=CONSENT, data={"decision": decision, **form})


async def test_consent_page_has_a_form_with_an_authorize_and_a_deny_button(
    browser: httpx.AsyncClient,
) -> None:
    page = await browser.get("/oauth/authorize", params=CONSENT)

    assert page.status_code == 200
    assert re.search(r'<form [^>]*method="post"', page.text)
    for button in ("authorize", "deny", "not-admin"):
        assert f'<button id="{button}"' in page.text


async def test_authorizing_returns_a_code_and_the_state_unchanged(browser: httpx.AsyncClient) -> None:
    answer = returned(await decide(browser, "authorize"))

    assert [CONSENT["state"]] == answer["state"]
    exchanged = await browser.post("/v1/oauth/token", json=exchange_of(answer["code"][0]))
    assert exchanged.status_code == 200


async def test_the_pages_own_form_leads_back_with_the_state(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/oauth/authorize", params=CONSENT)
    action = re.search(r'action="([^"]*)"', page.text)
    assert action

    response = await browser.post("/oauth/authorize" + action[1].replace("&amp;", "&"), data={"decision": "authorize"})

    assert [CONSENT["state"]] == returned(response)["state"]


async def test_denying_returns_access_denied_and_no_code(browser: httpx.AsyncClient) -> None:
    answer = returned(await decide(browser, "deny"))

    assert answer == {"error": ["access_denied"], "state": [CONSENT["state"]]}


async def test_a_non_admin_ends_on_a_download_page(browser: httpx.AsyncClient) -> None:
    response = await decide(browser, "not_admin")

    assert response.headers["location"] == "/download"
    assert "Download" in (await browser.get("/download")).text


async def test_consent_is_for_the_chosen_company(browser: httpx.AsyncClient, aircall: PretendAircall) -> None:
    code = returned(await decide(browser, "authorize", company="70078"))["code"][0]

    token = (await browser.post("/v1/oauth/token", json=exchange_of(code))).json()["access_token"]

    assert [token] == aircall.tokens_of(70078)


@pytest.mark.parametrize("company", ["1", "x"])
async def test_an_unknown_company_is_an_error_page(browser: httpx.AsyncClient, company: str) -> None:
    assert (await decide(browser, "authorize", company=company)).status_code == 400


@pytest.mark.parametrize(
    "change",
    [{"redirect_uri": "https://elsewhere.example.com/"}, {"redirect_uri": ""}, {"state": ["one", "two"]}],
)
async def test_who_is_not_known_to_be_ours_gets_a_page_and_no_redirect(
    browser: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    page = await browser.get("/oauth/authorize", params={**CONSENT, **change})

    assert page.status_code == 400
    assert "text/html" in page.headers["content-type"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_id": "someone-else"}, "invalid_client"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"code_challenge": "abc", "code_challenge_method": "plain"}, "invalid_request"),
    ],
)
async def test_a_wrong_question_is_answered_at_the_redirect_uri(
    browser: httpx.AsyncClient, change: dict[str, str], error: str
) -> None:
    answer = returned(await browser.get("/oauth/authorize", params={**CONSENT, **change}))

    assert answer == {"error": [error], "state": [CONSENT["state"]]}


async def test_token_has_aircalls_shape(browser: httpx.AsyncClient, aircall: PretendAircall) -> None:
    response = await browser.post("/v1/oauth/token", json=exchange_of(aircall.grant()))

    token = response.json()
    assert token.keys() == read("rest.oauth-token.200").keys()
    assert re.fullmatch(r"[0-9a-f]{40}", token["access_token"])
    assert (token["token_type"], token["created_at"]) == ("Bearer", 1_800_000_000)


async def test_a_code_shown_twice_takes_back_the_token_it_gave(
    browser: httpx.AsyncClient, aircall: PretendAircall
) -> None:
    request = exchange_of(aircall.grant())
    token = (await browser.post("/v1/oauth/token", json=request)).json()["access_token"]

    second = await browser.post("/v1/oauth/token", json=request)

    assert (second.status_code, second.json()["error"]) == (400, "invalid_grant")
    ping = await browser.get("/v1/ping", headers={"authorization": f"Bearer {token}"})
    assert ping.status_code == 403


async def test_a_code_lives_ten_minutes(browser: httpx.AsyncClient, aircall: PretendAircall, clock: Clock) -> None:
    in_time, too_late = aircall.grant(), aircall.grant()

    clock.now += 600
    first = await browser.post("/v1/oauth/token", json=exchange_of(in_time))
    clock.now += 1
    second = await browser.post("/v1/oauth/token", json=exchange_of(too_late))

    assert (first.status_code, second.status_code) == (200, 400)


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "guessed"}, 401, "invalid_client"),
        ({"client_id": "someone-else"}, 401, "invalid_client"),
        ({"redirect_uri": "https://elsewhere.example.com/"}, 400, "invalid_grant"),
        ({"code": "never-given"}, 400, "invalid_grant"),
        ({"grant_type": "refresh_token"}, 400, "unsupported_grant_type"),
    ],
)
async def test_exchange_refuses_what_does_not_fit(
    browser: httpx.AsyncClient, aircall: PretendAircall, change: dict[str, str], status: int, error: str
) -> None:
    response = await browser.post("/v1/oauth/token", json={**exchange_of(aircall.grant()), **change})

    assert (response.status_code, response.json()["error"]) == (status, error)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 5000])
async def test_exchange_takes_json_objects_only(browser: httpx.AsyncClient, body: bytes) -> None:
    response = await browser.post("/v1/oauth/token", content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400


async def test_a_form_is_not_json(browser: httpx.AsyncClient, aircall: PretendAircall) -> None:
    response = await browser.post("/v1/oauth/token", data=exchange_of(aircall.grant()))

    assert response.status_code == 400


async def test_a_challenge_is_verified_at_the_exchange(browser: httpx.AsyncClient, aircall: PretendAircall) -> None:
    verifier = "correct-horse-battery-staple-correct-horse-battery"
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    pkce = {**CONSENT, "code_challenge": challenge, "code_challenge_method": "S256"}
    response = await browser.post("/oauth/authorize", params=pkce, data={"decision": "authorize"})
    code = returned(response)["code"][0]

    without = await browser.post("/v1/oauth/token", json=exchange_of(code))
    wrong = await browser.post("/v1/oauth/token", json=exchange_of(code, code_verifier="guessed"))
    right = await browser.post("/v1/oauth/token", json=exchange_of(code, code_verifier=verifier))

    assert (without.status_code, wrong.status_code, right.status_code) == (400, 400, 200)


async def test_success_page_tells_what_comes_next(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/oauth/success")

    assert "numbers" in page.text
