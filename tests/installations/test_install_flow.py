"""The install flow through its two doors, against the pretend Aircall, where it ends well."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import Morsel, SimpleCookie
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.aircall.companies import Integration
from tests.support.service import AIRCALL_URL, CLIENT_ID, PUBLIC_URL, Service, run_service, settings_for

HTTPS_URL = "https://connect.example.com"
RETURN_URL = "https://app.example.com/done?tab=phone"
INSTALL = "/aircall/oauth/install"
TABLES = ("installation", "webhook", "flow", "claim", "event", "event_fingerprint", "api_key", "audit")


@asynccontextmanager
async def running(database_url: str, **changes: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, **changes)) as service:
        yield service


def cookies_set(answer: httpx.Response) -> dict[str, "Morsel[str]"]:
    jar: SimpleCookie = SimpleCookie()
    for line in answer.headers.get_list("set-cookie"):
        jar.load(line)
    return dict(jar)


async def rows_of_all_tables(service: Service) -> dict[str, int]:
    return {table: (await service.sql(f"SELECT count(*) FROM {table}"))[0][0] for table in TABLES}


async def test_an_admin_who_authorizes_is_connected(service: Service) -> None:
    state = await service.begin()
    code = service.aircall.grant(state=state)

    answer = await service.return_with(state=state, code=code)

    assert answer.status_code == 303
    assert answer.headers["location"] == service.settings.success_url
    (installation,) = await service.sql("SELECT * FROM installation")
    assert installation["status"] == "active"
    (webhook,) = await service.sql("SELECT * FROM webhook")
    assert webhook["status"] == "active"


async def test_what_is_kept_is_what_aircall_told_and_the_log_says_so(service: Service) -> None:
    company = service.aircall.companies[0]

    await service.install()

    (kept,) = await service.sql("SELECT * FROM installation")
    told = (company.id, company.integration.id, company.name, company.integration.number_ids)
    assert told == (kept["company_id"], kept["integration_id"], kept["company_name"], kept["number_ids"])
    assert kept["owner"] is None
    (event,) = await service.sql("SELECT * FROM event")
    assert (event["type"], event["source"]) == ("installation.connected", "service")
    (webhook,) = await service.sql("SELECT * FROM webhook")
    assert [webhook["webhook_id"]] == [hook.webhook_id for hook in service.aircall.webhooks.of(company.id)]
    partner = await service.partner(Scope.TOKENS_READ)
    token = (await partner.get(f"/v1/installations/{kept['id']}/token")).json()["access_token"]
    assert service.aircall.tokens_of(company) == [token]


async def test_aircall_is_asked_in_this_order(service: Service) -> None:
    await service.install()

    asked = [f"{request.method} {request.path}" for request in service.aircall.requests]
    assert asked == [
        "POST /v1/oauth/token",
        "GET /v1/integrations/me",
        "GET /v1/company",
        "GET /v1/webhooks",
        "POST /v1/webhooks",
    ]


async def test_the_authorize_url_has_every_parameter_once_and_encoded(service: Service) -> None:
    answer = await service.browser.get(INSTALL)

    address, _, query = answer.headers["location"].partition("?")
    assert (303, f"{AIRCALL_URL}/oauth/authorize") == (answer.status_code, address)
    assert "redirect_uri=http%3A%2F%2Flocalhost%3A8000%2Faircall%2Foauth%2Fcallback" in query
    told = parse_qs(query, strict_parsing=True)
    (state,) = told.pop("state")
    assert re.fullmatch(r"[A-Za-z0-9._-]{100,1000}", state)
    assert told == {
        "client_id": [CLIENT_ID],
        "redirect_uri": [f"{PUBLIC_URL}/aircall/oauth/callback"],
        "response_type": ["code"],
        "scope": ["public_api"],
    }
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_query_in_the_authorize_url_is_kept(database_url: str) -> None:
    async with running(database_url, AUTHORIZE_URL=f"{AIRCALL_URL}/oauth/authorize?lang=fr") as service:
        answer = await service.browser.get(INSTALL)

    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert (query["lang"], query["client_id"]) == (["fr"], [CLIENT_ID])


async def test_the_cookie_over_https_is_pinned_to_this_host(database_url: str) -> None:
    async with running(database_url, PUBLIC_URL=HTTPS_URL) as service:
        answer = await service.browser.get(INSTALL)

    ((name, cookie),) = cookies_set(answer).items()
    assert re.fullmatch(r"__Host-aircall_oauth_[A-Za-z0-9_-]{22}", name)
    assert len(cookie.value) == 43
    attributes = {name: value for name, value in cookie.items() if value}
    assert attributes == {"path": "/", "max-age": "600", "secure": True, "httponly": True, "samesite": "lax"}


async def test_the_cookie_on_localhost_has_a_plain_name_and_is_not_secure(service: Service) -> None:
    answer = await service.browser.get(INSTALL)

    ((name, cookie),) = cookies_set(answer).items()
    assert name.startswith("aircall_oauth_")
    attributes = {name: value for name, value in cookie.items() if value}
    assert attributes == {"path": "/", "max-age": "600", "httponly": True, "samesite": "lax"}


async def test_the_whole_flow_works_over_https(database_url: str) -> None:
    async with running(database_url, PUBLIC_URL=HTTPS_URL) as service:
        await service.install()

        (hook,) = service.aircall.webhooks.of(service.aircall.companies[0].id)
        assert hook.url == f"{HTTPS_URL}/aircall/webhook"


async def test_the_install_door_writes_nothing(service: Service) -> None:
    before = await rows_of_all_tables(service)

    for _ in range(3):
        await service.begin()

    assert await rows_of_all_tables(service) == before


async def test_the_install_door_does_not_need_the_database(service: Service) -> None:
    async with service.database_away():
        state = await service.begin()

    answer = await service.return_with(state=state, code=service.aircall.grant())
    assert answer.status_code == 303


async def test_two_tabs_of_one_browser_both_succeed(service: Service) -> None:
    first, second = await service.begin(), await service.begin()

    answers = [
        await service.return_with(state=second, code=service.aircall.grant(70078)),
        await service.return_with(state=first, code=service.aircall.grant(70077)),
    ]

    assert [answer.status_code for answer in answers] == [303, 303]
    rows = await service.sql("SELECT company_id FROM installation ORDER BY company_id")
    assert [row["company_id"] for row in rows] == [70077, 70078]


async def test_a_browser_keeps_the_twenty_newest_flows(service: Service) -> None:
    states = [await service.begin() for _ in range(24)]

    assert len(service.browser.cookies) == 20
    oldest = await service.return_with(state=states[0], code=service.aircall.grant())
    assert (oldest.status_code, "in this browser" in oldest.text) == (400, True)
    for state in (states[4], states[-1]):
        answer = await service.return_with(state=state, code=service.aircall.grant())
        assert answer.status_code == 303


async def test_cookies_that_a_neighbour_set_in_our_name_break_nothing(service: Service) -> None:
    tossed = [f"aircall_oauth_({number})" for number in range(25)] + ["aircall_oauth_", "__Host-aircall_oauth_x=y"]

    answer = await service.new_browser().get("/aircall/oauth/install", headers={"cookie": "=1; ".join(tossed) + "=1"})

    assert answer.status_code == 303
    assert len(cookies_set(answer)) == 1


async def test_very_many_cookies_get_a_small_answer(service: Service) -> None:
    ours = "; ".join(f"aircall_oauth_{number:022}=1" for number in range(1500))

    answer = await service.new_browser().get("/aircall/oauth/install", headers={"cookie": ours})

    assert answer.status_code == 303
    assert sum(len(name) + len(value) for name, value in answer.headers.raw) < 16 * 1024


async def test_cookies_of_others_are_left_alone(service: Service) -> None:
    for number in range(30):
        service.browser.cookies.set(f"session_{number}", "theirs", domain="localhost.local")

    answer = await service.browser.get(INSTALL)

    assert len(cookies_set(answer)) == 1


async def test_pkce_is_sent_and_verified_where_it_is_on(database_url: str) -> None:
    async with running(database_url, PKCE="true") as service:
        departure = await service.browser.get(INSTALL)
        query = parse_qs(urlsplit(departure.headers["location"]).query)
        assert query["code_challenge_method"] == ["S256"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", query["code_challenge"][0])

        back = await service.decide(departure.headers["location"])

        assert (await service.browser.get(back)).headers["location"] == service.settings.success_url


async def test_pkce_of_another_flow_is_refused_by_aircall(database_url: str) -> None:
    async with running(database_url, PKCE="true") as service:
        one, other = [await service.browser.get(INSTALL) for _ in range(2)]
        code = parse_qs(urlsplit(await service.decide(one.headers["location"])).query)["code"][0]
        state = parse_qs(urlsplit(other.headers["location"]).query)["state"][0]

        answer = await service.return_with(state=state, code=code)

    assert (answer.status_code, "did not accept" in answer.text) == (400, True)


async def test_the_browser_ends_where_return_to_says(database_url: str) -> None:
    async with running(database_url, RETURN_URLS=f"https://other.example.com,{RETURN_URL}") as service:
        departure = await service.browser.get(INSTALL, params={"return_to": RETURN_URL})
        assert "app.example.com" not in departure.headers["location"], "the address is sealed in the state"

        answer = await service.browser.get(await service.decide(departure.headers["location"]))

        target, _, claim = answer.headers["location"].partition("&claim=")
        assert (answer.status_code, target) == (303, RETURN_URL)
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", claim)


async def test_a_return_address_must_be_on_the_list_exactly(database_url: str) -> None:
    others = [
        "https://evil.example.com/",
        "https://app.example.com/done",
        f"{RETURN_URL}&more=1",
        f"{RETURN_URL}/",
        f"{RETURN_URL}#x",
        f" {RETURN_URL}",
        RETURN_URL.upper(),
        RETURN_URL.replace("https:", "http:"),
        RETURN_URL.replace("https:", ""),
        "javascript:alert(1)",
        "",
        "x" * 2049,
    ]

    async with running(database_url, RETURN_URLS=RETURN_URL) as service:
        answers = {asked: await service.browser.get(INSTALL, params={"return_to": asked}) for asked in others}

    for asked, answer in answers.items():
        assert (answer.status_code, "<h1>This link is" in answer.text) == (400, True), asked
        assert "set-cookie" not in answer.headers
        assert "evil" not in answer.text
        assert "javascript" not in answer.text


async def test_a_return_address_given_twice_is_refused(database_url: str) -> None:
    async with running(database_url, RETURN_URLS=RETURN_URL) as service:
        answer = await service.browser.get(INSTALL, params={"return_to": [RETURN_URL, "https://evil.example.com"]})

    assert answer.status_code == 400


async def test_no_return_address_is_allowed_where_none_is_configured(service: Service) -> None:
    answer = await service.browser.get(INSTALL, params={"return_to": RETURN_URL})

    assert answer.status_code == 400


async def test_the_browser_ends_on_our_own_page_where_no_other_is_configured(database_url: str) -> None:
    async with running(database_url, SUCCESS_URL="") as service:
        service.aircall.companies[0].name = "<b>Bäcker & Söhne</b>"
        state = await service.begin()

        answer = await service.return_with(state=state, code=service.aircall.grant())

    assert answer.status_code == 200
    assert "<h1>Connected</h1>" in answer.text
    assert "&lt;b&gt;Bäcker &amp; Söhne&lt;/b&gt; is now connected." in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_nothing_is_taken_from_the_host_or_forwarded_headers(service: Service) -> None:
    lies = {
        "host": "evil.example.com",
        "forwarded": "host=evil.example.com;proto=https",
        "x-forwarded-host": "evil.example.com",
        "x-forwarded-proto": "https",
        "x-forwarded-prefix": "/evil",
    }

    departure = await service.browser.get(INSTALL, headers=lies)
    ending = await service.browser.get("/aircall/oauth/callback", headers=lies)
    service.browser.cookies = httpx.Cookies(departure.cookies)
    (cookie,) = cookies_set(departure)
    answer = await service.browser.get(
        await service.decide(departure.headers["location"]),
        headers={**lies, "cookie": f"{cookie}={cookies_set(departure)[cookie].value}"},
    )

    assert (303, service.settings.success_url) == (answer.status_code, answer.headers["location"])
    told = f"{departure.headers} {ending.headers} {ending.text} {answer.headers}"
    assert "evil" not in told
    assert not cookie.startswith("__Host-")
    assert f'href="{PUBLIC_URL}/aircall/oauth/install"' in ending.text
    (hook,) = service.aircall.webhooks.of(service.aircall.companies[0].id)
    assert hook.url == f"{PUBLIC_URL}/aircall/webhook"


async def test_an_installation_that_must_be_claimed_is_only_kept(database_url: str) -> None:
    async with running(database_url, CLAIM="required") as service:
        installation_id = await service.install()
        await schedule.reconcile_webhooks(service.resources)

        (kept,) = await service.sql("SELECT * FROM installation")
        assert (kept["status"], kept["owner"]) == ("unclaimed", None)
        assert service.aircall.webhooks.of(kept["company_id"]) == []
        partner = await service.partner(Scope.TOKENS_READ)
        answer = await partner.get(f"/v1/installations/{installation_id}/token")
        assert (answer.status_code, answer.json()["code"]) == (409, "installation_not_active")


async def test_a_claimed_installation_stays_claimed_when_installed_again(database_url: str) -> None:
    async with running(database_url, CLAIM="required") as service:
        installation_id = await service.install()
        await service.sql("UPDATE installation SET owner = 'acme', status = 'active'")

        again = await service.install()

        (kept,) = await service.sql("SELECT * FROM installation")
        assert (installation_id, "active", "acme") == (again, kept["status"], kept["owner"])
        assert len(service.aircall.webhooks.of(kept["company_id"])) == 1


async def test_installing_again_renews_the_token_of_the_same_installation(service: Service) -> None:
    first = await service.install()
    (before,) = await service.sql("SELECT * FROM installation")
    await service.sql("UPDATE installation SET owner = 'acme'")

    again = await service.install()

    (after,) = await service.sql("SELECT * FROM installation")
    assert (first, "acme") == (again, after["owner"])
    assert before["token_sealed"] != after["token_sealed"]
    partner = await service.partner(Scope.TOKENS_READ)
    token = (await partner.get(f"/v1/installations/{first}/token")).json()["access_token"]
    assert service.aircall.tokens_of()[-1] == token
    (hook,) = service.aircall.webhooks.of(after["company_id"])
    (webhook,) = await service.sql("SELECT * FROM webhook")
    assert ("active", hook.webhook_id) == (webhook["status"], webhook["webhook_id"])


@pytest.mark.parametrize("broken", ["removed", "unauthorized"])
async def test_installing_again_heals(service: Service, broken: str) -> None:
    first = await service.install()
    service.aircall.grants.revoke_company(70077)
    service.aircall.webhooks.delete_company(70077)
    erased = ", token_sealed = NULL, token_fingerprint = NULL" if broken == "removed" else ""
    await service.sql(f"UPDATE installation SET status = $1{erased}", broken)

    again = await service.install()

    assert first == again
    (kept,) = await service.sql("SELECT * FROM installation")
    assert kept["status"] == "active"
    (hook,) = service.aircall.webhooks.of(70077)
    await service.aircall.place_call()
    await service.aircall.settle()
    (webhook,) = await service.sql("SELECT * FROM webhook")
    assert ("active", hook.webhook_id) == (webhook["status"], webhook["webhook_id"])
    (calls,) = await service.sql("SELECT count(*) FROM event WHERE type LIKE 'call.%'")
    assert calls[0] == 5


async def test_an_installation_is_recognised_though_its_integration_id_comes_later(service: Service) -> None:
    service.aircall.habits.hide_integration_id = True
    first = await service.install()
    (unknown,) = await service.sql("SELECT * FROM installation")
    service.aircall.habits.hide_integration_id = False

    second = await service.install()
    (known,) = await service.sql("SELECT * FROM installation")
    service.aircall.habits.hide_integration_id = True
    third = await service.install()

    (kept,) = await service.sql("SELECT * FROM installation")
    assert first == second == third
    assert (unknown["integration_id"], known["integration_id"], kept["integration_id"]) == (None, 400123, 400123)


async def test_two_integrations_of_one_company_are_two_installations(service: Service) -> None:
    first = await service.install()
    service.aircall.companies[0].integration = Integration(400999, [55011])

    second = await service.install()

    rows = await service.sql("SELECT id, integration_id FROM installation ORDER BY integration_id")
    assert [(first, 400123), (second, 400999)] == [(row["id"], row["integration_id"]) for row in rows]
