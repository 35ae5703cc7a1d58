"""Claims: the right owner claims an installation once, in time; until then it is not used."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from dirty_equals import IsStr

from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import DatabaseAway
from aircall_oauth.installations.oauth import claims, links
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage.models.installations import Claim
from tests.support.fixtures import lasting_service
from tests.support.service import PUBLIC_URL, Service, run_service, settings_for

HOME = "https://app.example.com/aircall/connected"
OTHER_HOME = "https://app.example.com/other?tab=phone&empty="
COMPANY = 70077
MAKE_LATE = "UPDATE claim SET expires_at = now()"


@asynccontextmanager
async def running(database_url: str, **changes: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, **{"RETURN_URLS": f"{HOME},{OTHER_HOME}", **changes})) as it:
        yield it


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with running(database_url) as it:
        yield it


@pytest.fixture(scope="module")
async def shared_service(postgres: Postgres) -> AsyncIterator[Service]:
    async with lasting_service(postgres, RETURN_URLS=f"{HOME},{OTHER_HOME}") as it:
        yield it


async def the_installation(service: Service) -> dict[str, Any]:
    (row,) = await service.sql("SELECT * FROM installation")
    return dict(row)


async def events(service: Service) -> list[tuple[str, str | None]]:
    return [tuple(row) for row in await service.sql("SELECT type, owner FROM event ORDER BY position")]


async def token_as_read(service: Service, installation_id: str) -> httpx.Response:
    return await (await service.partner(Scope.TOKENS_READ)).get(f"/v1/installations/{installation_id}/token")


def asked(service: Service, method: str, path: str) -> int:
    return sum((request.method, request.path) == (method, path) for request in service.aircall.requests)


async def come_back(service: Service, link: str, browser: httpx.AsyncClient, **query: str) -> httpx.Response:
    departure = await browser.get(link)
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]
    return await service.return_with(browser, state=state, **query)


async def test_a_link_is_made_for_an_owner(service: Service) -> None:
    partner = await service.partner(Scope.INSTALLATIONS_WRITE)

    answer = await partner.post("/v1/install-links", json={"owner": "acme", "return_to": OTHER_HOME})

    link = answer.json()
    assert answer.status_code == 201
    assert link == {
        "url": IsStr(regex=rf"{PUBLIC_URL}/aircall/oauth/install\?link=[A-Za-z0-9._-]+"),
        "expires_at": IsStr(regex=r"20.*Z"),
        "attempt_id": IsStr(regex=r"att_[0-9a-f]{32}"),
        "reference": IsStr(regex=r"[2-9A-Z]{8}"),
    }
    assert "acme" not in link["url"]
    (line,) = await service.sql("SELECT action, actor FROM audit WHERE action NOT LIKE 'api_key.%'")
    assert (line["action"], line["actor"][:4]) == ("install_link.made", "key_")


async def test_what_comes_of_a_link_waits_and_nothing_of_it_is_used(service: Service) -> None:
    await service.install_by_link("acme")

    kept = await the_installation(service)
    partner = await service.partner()
    shown = (await partner.get(f"/v1/installations/{kept['id']}")).json()
    token = await token_as_read(service, kept["id"])
    assert (shown["status"], shown["owner"], shown["company_id"]) == ("unclaimed", None, COMPANY)
    assert shown["webhook"] == {"status": "pending", "webhook_id": None, "checked_at": None}
    assert (token.status_code, token.json()["code"]) == (409, "installation_not_active")
    assert await service.sql("SELECT * FROM webhook") == []
    assert service.aircall.webhooks.of(COMPANY) == []
    assert await events(service) == []
    assert (await (await service.partner(owner="acme")).get("/v1/installations")).json()["items"] == []


async def test_a_claim_makes_it_the_owners_and_puts_it_to_use(service: Service) -> None:
    claim = await service.install_by_link("acme")

    answer = await service.claim(claim, "acme")

    claimed = answer.json()
    assert (answer.status_code, claimed["status"], claimed["owner"]) == (200, "active", "acme")
    assert claimed["webhook"]["status"] == "active"
    assert len(service.aircall.webhooks.of(COMPANY)) == 1
    token = await token_as_read(service, claimed["id"])
    assert token.json()["access_token"] == service.aircall.tokens_of()[-1]
    assert await events(service) == [("installation.connected", "acme"), ("installation.claimed", "acme")]
    told = await service.sql(
        "SELECT action, outcome, installation_id FROM audit WHERE action NOT LIKE 'api_key.%' "
        "ORDER BY at OFFSET 1 LIMIT 1"
    )
    assert told == [("installation.claimed", "done", claimed["id"])]


async def test_a_claim_sent_again_by_the_same_owner_is_the_same_installation(service: Service) -> None:
    """A page reloaded, an answer that got lost."""
    claim = await service.install_by_link("acme")
    first = await service.claim(claim, "acme")
    before = await the_installation(service), await events(service)

    again = await service.claim(claim, "acme")
    with_a_key_of_its_own = await service.claim(claim, "acme", await service.partner(owner="acme"))
    of_another = await service.claim(claim, "globex")
    of_anothers_key = await service.claim(claim, "acme", await service.partner(owner="globex"))

    assert [answer.status_code for answer in (first, again, with_a_key_of_its_own)] == [200] * 3
    assert again.json() == with_a_key_of_its_own.json()
    assert (again.json()["id"], again.json()["owner"]) == (first.json()["id"], "acme")
    assert (of_another.status_code, of_another.json()["code"]) == (404, "claim_not_found")
    assert (of_anothers_key.status_code, of_anothers_key.json()["code"]) == (403, "owner_not_allowed")
    assert (await the_installation(service), await events(service)) == before
    assert asked(service, "POST", "/v1/webhooks") == 1


async def test_a_used_claim_keeps_no_token_and_is_forgotten_with_its_hour(service: Service) -> None:
    await service.claim(await service.install_by_link("acme"), "acme")
    renewal = await service.install_by_link("acme")
    await service.claim(renewal, "acme")
    kept = await service.sql("SELECT token_sealed, token_fingerprint FROM claim")

    await service.sql(MAKE_LATE)
    late = await service.claim(renewal, "acme")
    await claims.expire(service.resources)

    assert [tuple(row) for row in kept] == [(None, None)] * 2
    assert (late.status_code, late.json()["code"]) == (404, "claim_not_found")
    assert await service.sql("SELECT * FROM claim") == []
    assert (await the_installation(service))["status"] == "active"


async def test_a_used_claim_is_no_good_once_its_owner_has_left(service: Service) -> None:
    claim = await service.install_by_link("acme")
    installation_id = (await service.claim(claim, "acme")).json()["id"]
    partner = await service.partner()
    assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204

    answers = [await service.claim(claim, "acme")]
    await service.install()
    answers.append(await service.claim(claim, "acme"))

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "claim_not_found")] * 2
    assert (await the_installation(service))["owner"] is None


async def test_a_claim_is_used_once_however_many_come_at_once(service: Service) -> None:
    claim = await service.install_by_link("acme")
    partner = await service.partner(Scope.INSTALLATIONS_WRITE)

    answers = await asyncio.gather(*(service.claim(claim, "acme", partner) for _ in range(12)))

    assert Counter(answer.status_code for answer in answers) == {200: 12}
    assert Counter(type_ for type_, _ in await events(service)) == {
        "installation.connected": 1,
        "installation.claimed": 1,
    }
    assert asked(service, "POST", "/v1/webhooks") == 1


async def test_of_many_owners_at_once_one_gets_it(service: Service) -> None:
    """Without a link the code alone decides, and it is still good for one of them only."""
    state = await service.begin(return_to=HOME)
    home = await service.return_with(state=state, code=service.aircall.grant())
    claim = parse_qs(urlsplit(home.headers["location"]).query)["claim"][0]
    partner = await service.partner(Scope.INSTALLATIONS_WRITE)

    answers = await asyncio.gather(*(service.claim(claim, f"owner-{n}", partner) for n in range(12)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 404: 11}
    (winner,) = [answer.json()["owner"] for answer in answers if answer.status_code == 200]
    assert (await the_installation(service))["owner"] == winner


async def test_another_owners_claim_changes_nothing(service: Service) -> None:
    claim = await service.install_by_link("acme")
    before = await the_installation(service)

    answer = await service.claim(claim, "globex")

    assert (answer.status_code, answer.json()["code"]) == (403, "claim_of_another")
    assert await the_installation(service) == before
    assert await events(service) == []
    (refused,) = await service.sql("SELECT * FROM audit WHERE outcome = 'refused'")
    assert (refused["action"], refused["installation_id"]) == ("installation.claimed", before["id"])
    assert (await service.claim(claim, "acme")).status_code == 200, "the right one still may"


async def test_a_claim_that_comes_too_late_is_refused(service: Service) -> None:
    claim = await service.install_by_link("acme")
    await service.sql(MAKE_LATE)

    answer = await service.claim(claim, "acme")

    assert (answer.status_code, answer.json()["code"]) == (404, "claim_not_found")
    assert (await the_installation(service))["status"] == "unclaimed"


@pytest.mark.parametrize("claim", ["x", "A" * 43, "aok_nothing", "ä" * 255])
async def test_a_claim_that_was_never_given_is_refused(shared_service: Service, claim: str) -> None:
    await shared_service.install_by_link("acme")

    answer = await shared_service.claim(claim, "acme")

    assert (answer.status_code, answer.json()["code"]) == (404, "claim_not_found")
    assert claim not in answer.text


@pytest.mark.parametrize(
    "body",
    [{}, {"claim": "x"}, {"owner": "x"}, {"claim": "", "owner": "a"}, {"claim": "x", "owner": ""}]
    + [{"claim": "x", "owner": owner} for owner in ("a\0b", "o" * 256, None, 1, ["a"], "\ud800")],
)
async def test_a_claim_that_cannot_be_one_is_refused(shared_service: Service, body: dict[str, Any]) -> None:
    partner = await shared_service.partner()

    answer = await partner.post("/v1/claims", content=json.dumps(body), headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_an_owners_own_key_acts_for_that_owner_only(shared_service: Service) -> None:
    claim = await shared_service.install_by_link("acme")
    partner = await shared_service.partner(owner="globex")

    link = await partner.post("/v1/install-links", json={"owner": "acme"})
    own_link = await partner.post("/v1/install-links", json={"owner": "globex"})
    foreign = await shared_service.claim(claim, "acme", partner)
    in_own_name = await shared_service.claim(claim, "globex", partner)
    own = await shared_service.claim(claim, "acme", await shared_service.partner(owner="acme"))

    assert [(answer.status_code, answer.json()["code"]) for answer in (link, foreign)] == [
        (403, "owner_not_allowed")
    ] * 2
    assert own_link.status_code == 201
    assert (in_own_name.status_code, in_own_name.json()["code"]) == (403, "claim_of_another")
    assert (own.status_code, own.json()["owner"]) == (200, "acme")


async def test_the_doors_need_the_scope_to_write(shared_service: Service) -> None:
    reader = await shared_service.partner(*(scope for scope in Scope if scope != Scope.INSTALLATIONS_WRITE))

    for door, body in {"install-links": {"owner": "a"}, "claims": {"claim": "x", "owner": "a"}}.items():
        assert (await reader.post(f"/v1/{door}", json=body)).status_code == 403
        assert (await shared_service.browser.post(f"/v1/{door}", json=body)).status_code == 401


async def test_opening_a_link_writes_nothing_and_needs_no_database(service: Service) -> None:
    link = await service.link()

    async with service.database_away():
        answers = [await service.new_browser().get(link) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [303] * 3
    for table in ("flow", "claim", "installation"):
        assert await service.sql(f"SELECT * FROM {table}") == []


async def test_of_two_browsers_with_one_link_the_first_to_come_back_has_it(service: Service) -> None:
    link, first, second = await service.link(), service.new_browser(), service.new_browser()

    begun = [parse_qs(urlsplit((await browser.get(link)).headers["location"]).query) for browser in (first, second)]
    states = [query["state"][0] for query in begun]

    await service.return_with(first, state=states[0], code=service.aircall.grant())
    lost = await service.return_with(second, state=states[1], code=service.aircall.grant(70078))
    again = await service.new_browser().get(link)

    for refused in (lost, again):
        assert (refused.status_code, refused.headers["location"].split("&")[0]) == (303, f"{HOME}?error=link_used")
    assert asked(service, "POST", "/v1/oauth/token") == 1
    assert [row["company_id"] for row in await service.sql("SELECT company_id FROM installation")] == [COMPANY]


async def test_of_many_browsers_with_one_link_at_once_one_has_it(service: Service) -> None:
    link, browsers = await service.link(), [service.new_browser() for _ in range(8)]
    begun = [parse_qs(urlsplit((await browser.get(link)).headers["location"]).query) for browser in browsers]

    answers = await asyncio.gather(
        *(
            service.return_with(browser, state=query["state"][0], code=service.aircall.grant())
            for browser, query in zip(browsers, begun, strict=True)
        )
    )

    brought = Counter(next(iter(parse_qs(urlsplit(answer.headers["location"]).query))) for answer in answers)
    assert brought == {"claim": 1, "error": 7}
    assert asked(service, "POST", "/v1/oauth/token") == 1
    assert len(await service.sql("SELECT * FROM claim WHERE claimed_at IS NULL")) == 1


async def test_a_repeated_callback_brings_the_same_claim_home_until_it_is_used(shared_service: Service) -> None:
    link, browser, code = await shared_service.link(), shared_service.new_browser(), shared_service.aircall.grant()
    departure = await browser.get(link)
    state = parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]

    answers = await asyncio.gather(*(shared_service.return_with(browser, state=state, code=code) for _ in range(5)))
    (home,) = {answer.headers["location"] for answer in answers}
    await shared_service.claim(parse_qs(urlsplit(home).query)["claim"][0], "acme")
    afterwards = await shared_service.return_with(browser, state=state, code=code)

    assert home.startswith(f"{HOME}?claim=")
    assert afterwards.headers["location"] == HOME


async def test_a_link_is_still_good_after_an_admin_declined(shared_service: Service) -> None:
    link, browser = await shared_service.link(), shared_service.new_browser()

    declined = await come_back(shared_service, link, browser, error="access_denied")
    accepted = await come_back(shared_service, link, browser, code=shared_service.aircall.grant())

    assert declined.headers["location"].startswith(f"{HOME}?error=declined&attempt=")
    assert accepted.headers["location"].startswith(f"{HOME}?claim=")


def links_to_the_plain_door(answer: httpx.Response) -> bool:
    return f'href="{PUBLIC_URL}/aircall/oauth/install"' in answer.text


async def test_a_link_that_is_no_good_is_told_so(shared_service: Service) -> None:
    good = (await shared_service.link()).partition("link=")[2]
    vault = shared_service.resources.vault

    def sealed(content: Any, purpose: str = links.PURPOSE) -> str:
        return vault.seal_message(msgspec.json.encode(content), purpose)

    soon = int(time.time()) + 60
    wrong = {
        "This link is not valid": [
            *(good[:-1], f"{good}x", "x", "v1.k1.AAAA", sealed({"owner": "acme"})),
            sealed([f"lnk_{'0' * 32}", "acme", soon, HOME], "oauth-state"),
            sealed([f"lnk_{'0' * 32}", "acme", soon, "https://evil.example.com"]),
        ],
        "This link is incomplete": ["", "x" * 9000, "a b", f"{good}&return_to={HOME}", f"{good}&link={good}"],
    }

    for title, given in wrong.items():
        for link in given:
            answer = await shared_service.browser.get(f"/aircall/oauth/install?link={link}")

            assert (answer.status_code, f"<h1>{title}</h1>" in answer.text) == (400, True), (title, link)
            assert "set-cookie" not in answer.headers
            assert not links_to_the_plain_door(answer)
            assert "evil" not in answer.text


async def test_a_link_that_is_too_old_goes_home(shared_service: Service) -> None:
    past = msgspec.json.encode([f"lnk_{'0' * 32}", "acme", int(time.time()) - 1, HOME])

    answer = await shared_service.browser.get(
        "/aircall/oauth/install", params={"link": shared_service.resources.vault.seal_message(past, links.PURPOSE)}
    )

    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{HOME}?error=link_expired&attempt=")
    assert "set-cookie" not in answer.headers


async def test_a_link_leads_to_an_address_on_the_list_only(shared_service: Service) -> None:
    partner = await shared_service.partner()

    for address in ("https://evil.example.com", f"{HOME}/", HOME.upper(), "", "javascript:alert(1)"):
        answer = await partner.post("/v1/install-links", json={"owner": "acme", "return_to": address})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), address

    browser = shared_service.new_browser()
    link = await shared_service.link(return_to=OTHER_HOME)
    home = await come_back(shared_service, link, browser, code=shared_service.aircall.grant())
    assert re.fullmatch(re.escape(OTHER_HOME) + r"&claim=[A-Za-z0-9_-]{43}", home.headers["location"])


async def test_without_an_address_the_code_is_shown_to_be_carried_by_hand(database_url: str) -> None:
    async with running(database_url, RETURN_URLS="") as service:
        answer = await come_back(service, await service.link(), service.browser, code=service.aircall.grant())
        code = re.search(r'<code id="claim">([A-Za-z0-9_-]{43})</code>', answer.text)

        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        assert "<h1>One more step</h1>" in answer.text
        assert code
        assert (await service.claim(code[1], "acme")).json()["status"] == "active"


@pytest.mark.parametrize("held", [False, True])
async def test_a_flow_is_kept_again_where_the_answer_of_its_commit_got_lost(service: Service, held: bool) -> None:
    """The driver says "connection lost" when the commit is long done; what the second try meets is its own work."""
    if held:
        await service.claim(await service.install_by_link("acme"), "acme")
    connection_lost = iter([True])

    @asynccontextmanager
    async def session() -> AsyncIterator[Any]:
        async with whole() as opened:
            yield opened
            saved = any(isinstance(one, Claim) for one in opened.identity_map.values())
        if saved and next(connection_lost, False):
            raise DatabaseAway

    whole, service.resources.database.session = service.resources.database.session, session  # type: ignore[method-assign]
    claim = await service.install_by_link("acme")
    service.resources.database.session = whole  # type: ignore[method-assign]

    assert next(connection_lost, None) is None, "it was lost once"
    assert len(await service.sql("SELECT * FROM claim WHERE claimed_at IS NULL")) == 1
    assert (await service.claim(claim, "acme")).json()["status"] == "active"


async def test_another_owners_flow_does_not_disturb_who_has_it(service: Service) -> None:
    await service.claim(await service.install_by_link("acme"), "acme")
    held = await the_installation(service), await service.sql("SELECT * FROM webhook"), await events(service)
    (hook,) = service.aircall.webhooks.of(COMPANY)

    claim = await service.install_by_link("globex")
    refused = await service.claim(claim, "globex")
    await service.sql(MAKE_LATE)
    await claims.expire(service.resources)

    assert (refused.status_code, refused.json()["code"]) == (409, "installation_held")
    now_held = await the_installation(service), await service.sql("SELECT * FROM webhook"), await events(service)
    assert now_held == held
    assert await service.sql("SELECT * FROM claim") == []
    assert [hook] == service.aircall.webhooks.of(COMPANY)
    assert asked(service, "POST", "/v1/integrations/disable") == 0
    assert (await token_as_read(service, held[0]["id"])).status_code == 200


async def test_the_same_owner_renews_the_token_by_claiming_again(service: Service) -> None:
    first = (await service.claim(await service.install_by_link("acme"), "acme")).json()
    old = service.aircall.tokens_of()[-1]

    claim = await service.install_by_link("acme")
    meanwhile = (await token_as_read(service, first["id"])).json()["access_token"]
    again = (await service.claim(claim, "acme")).json()

    assert meanwhile == old, "the new token waits beside the installation"
    assert (again["id"], again["status"], again["owner"]) == (first["id"], "active", "acme")
    assert (await token_as_read(service, first["id"])).json()["access_token"] == service.aircall.tokens_of()[-1] != old
    assert len(service.aircall.webhooks.of(COMPANY)) == 1


async def test_an_installation_of_no_owner_becomes_its_first_claimers(service: Service) -> None:
    installation_id = await service.install()
    before = await the_installation(service)

    claim = await service.install_by_link("acme")
    undisturbed = await the_installation(service)
    answer = await service.claim(claim, "acme")

    assert undisturbed == before
    assert (answer.json()["id"], answer.json()["owner"]) == (installation_id, "acme")


async def test_of_two_owners_who_wait_for_one_company_the_first_to_claim_has_it(service: Service) -> None:
    of_acme, of_globex = await service.install_by_link("acme"), await service.install_by_link("globex")

    won, lost = await service.claim(of_globex, "globex"), await service.claim(of_acme, "acme")

    assert (won.status_code, won.json()["owner"]) == (200, "globex")
    assert (lost.status_code, lost.json()["code"]) == (409, "installation_held")


async def test_what_nobody_claims_within_an_hour_is_erased(service: Service) -> None:
    claim = await service.install_by_link("acme")
    await claims.expire(service.resources)
    waiting = await the_installation(service)

    await service.sql(MAKE_LATE)
    await claims.expire(service.resources)

    erased = await the_installation(service)
    assert waiting["status"] == "unclaimed"
    assert (erased["status"], erased["token_sealed"], erased["token_fingerprint"]) == ("removed", None, None)
    assert await service.sql("SELECT * FROM claim") == []
    assert service.aircall.companies[0].integration.active is False
    assert await events(service) == [], "nobody ever heard of it"
    assert (await service.claim(claim, "acme")).status_code == 404


async def test_what_nobody_claims_is_erased_though_aircall_is_away(service: Service) -> None:
    await service.install_by_link("acme")
    service.aircall.break_next("integrations/disable", "error_500", times=5)
    await service.sql(MAKE_LATE)

    await claims.expire(service.resources)

    assert (await the_installation(service))["token_sealed"] is None


async def test_what_nobody_claims_is_erased_though_its_token_does_not_open(service: Service) -> None:
    for company in (COMPANY, 70078):
        await service.install_by_link("acme", company)
    await service.sql("UPDATE installation SET token_sealed = token_sealed || 'x' WHERE company_id = $1", COMPANY)
    await service.sql(MAKE_LATE)

    await claims.expire(service.resources)

    assert [row["status"] for row in await service.sql("SELECT status FROM installation")] == ["removed"] * 2
    assert [company.integration.active for company in service.aircall.companies[:2]] == [True, False]


async def test_what_was_erased_can_be_connected_again_and_is_switched_on(service: Service) -> None:
    await service.install_by_link("acme")
    erased = await the_installation(service)
    await service.sql(MAKE_LATE)
    await claims.expire(service.resources)

    answer = await service.claim(await service.install_by_link("globex"), "globex")

    assert (answer.json()["id"], answer.json()["owner"], answer.json()["status"]) == (erased["id"], "globex", "active")
    assert service.aircall.companies[0].integration.active is True


async def test_a_claim_still_good_keeps_what_another_let_lapse(service: Service) -> None:
    await service.install_by_link("globex")
    await service.sql(MAKE_LATE)
    claim = await service.install_by_link("acme")

    await claims.expire(service.resources)

    assert (await the_installation(service))["status"] == "unclaimed"
    assert (await service.claim(claim, "acme")).status_code == 200


async def test_where_claims_are_required_a_flow_without_a_link_waits_too(database_url: str) -> None:
    async with running(database_url, CLAIM="required") as service:
        state = await service.begin()
        home = await service.return_with(state=state, code=service.aircall.grant())
        waiting = await the_installation(service)
        claim = parse_qs(urlsplit(home.headers["location"]).query)["claim"][0]
        answer = await service.claim(claim, "acme")

    assert home.headers["location"].startswith(f"{HOME}?claim=")
    assert waiting["status"] == "unclaimed"
    assert (answer.json()["status"], answer.json()["owner"]) == ("active", "acme")


async def test_where_none_is_required_a_flow_is_of_use_at_once_and_may_be_claimed(service: Service) -> None:
    state = await service.begin(return_to=HOME)
    home = await service.return_with(state=state, code=service.aircall.grant())
    connected = await the_installation(service)

    answer = await service.claim(parse_qs(urlsplit(home.headers["location"]).query)["claim"][0], "acme")

    assert (connected["status"], connected["owner"]) == ("active", None)
    assert (answer.json()["status"], answer.json()["owner"]) == ("active", "acme")
    assert await events(service) == [("installation.connected", None), ("installation.claimed", "acme")]
    assert asked(service, "POST", "/v1/webhooks") == 1


async def test_a_claim_nobody_needs_expires_without_a_trace(service: Service) -> None:
    state = await service.begin(return_to=HOME)
    await service.return_with(state=state, code=service.aircall.grant())
    before = await the_installation(service)
    await service.sql(MAKE_LATE)

    await claims.expire(service.resources)

    assert await service.sql("SELECT * FROM claim") == []
    assert await the_installation(service) == before


async def test_a_token_that_already_is_another_companys_is_refused(service: Service) -> None:
    installation_id = await service.install()
    before = await the_installation(service)
    (token,) = service.aircall.tokens_of()
    service.aircall.habits.same_token_again = True
    service.aircall.grants.tokens[token].company_id = 70078

    state = await service.begin()
    answer = await service.return_with(state=state, code=service.aircall.grant(70078))

    assert (answer.status_code, "do not fit together" in answer.text) == (502, True)
    assert await the_installation(service) == before
    assert before["id"] == installation_id


async def test_any_address_of_this_machine_may_be_allowed_and_no_other(database_url: str) -> None:
    async with run_service(settings_for(database_url, RETURN_URLS="http://localhost:*,https://a.example.com/x")) as it:
        partner = await it.partner()

        async def made(url: str | None) -> int:
            body = {"owner": "acme"} | ({} if url is None else {"return_to": url})
            return (await partner.post("/v1/install-links", json=body)).status_code

        good = [
            "http://localhost:3000/a?b=c",
            "http://localhost",
            "http://localhost:5173",
            "https://a.example.com/x",
            None,
        ]
        evil = [
            "http://localhost:*",
            "http://localhost.evil.com/",
            "http://localhost:1@evil.com/",
            "http://localhost@evil.com",
        ]
        evil += [
            "https://localhost:3000/",
            "http://127.0.0.1:3000/",
            "http://localhost:3000\\@evil.com",
            "http://localhost:3/#x",
        ]

        assert [await made(url) for url in good] == [201] * len(good)
        assert [await made(url) for url in evil] == [422] * len(evil)
