"""Nobody gains by the console more than a session holds: every act with every kind of session, and keys it makes."""

import html
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import httpx
import pytest
from fastapi.routing import APIRoute

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console.pages import PAGES
from aircall_oauth.storage.stamps import new_id
from tests.support.consoles import ANY_WINDOW, Console, words
from tests.support.receivers import LOOPBACK, receiver, subscribe, tell
from tests.support.service import Service, run_service, settings_for

PROXY_SECRET = "a secret between the proxy and the console"
LOOK, ACT, SHOW = Scope.CONSOLE_READ, Scope.CONSOLE_ACT, Scope.PAYLOADS_READ
EVERYONE, ACTING, SHOWING, DISCLOSING = frozenset[Scope](), frozenset({ACT}), frozenset({SHOW}), frozenset({ACT, SHOW})
# What each act needs. A new act is entered here: does it show a payload, or have one sent where it was not sent before?
NEEDS = {
    "/customers/{installation_id}/backfill": ACTING,
    "/customers/{installation_id}/check": ACTING,
    "/customers/{installation_id}/disconnect": ACTING,
    "/customers/{installation_id}/link": ACTING,
    "/customers/{installation_id}/rotate": ACTING,
    "/destinations/new": DISCLOSING,
    "/destinations/{subscription_id}/delete": ACTING,
    "/destinations/{subscription_id}/edit": ACTING,  # its address and its filter: DISCLOSING, below
    "/destinations/{subscription_id}/pause": ACTING,
    "/destinations/{subscription_id}/replay": ACTING,
    "/destinations/{subscription_id}/replays/{replay_id}/stop": ACTING,
    "/destinations/{subscription_id}/resume": ACTING,
    "/destinations/{subscription_id}/retry": ACTING,
    "/destinations/{subscription_id}/rotate-secret": DISCLOSING,
    "/destinations/{subscription_id}/test": ACTING,
    "/events/{event_id}/resend": ACTING,  # past a destination's filter: DISCLOSING, below
    "/events/{event_id}/reveal": SHOWING,
    "/keys/new": ACTING,  # what it may give: below
    "/keys/{key_id}/revoke": ACTING,
    "/links/new": ACTING,
    "/sessions/{session_id}/revoke": ACTING,
    "/sign-out": EVERYONE,
    "/vault/rotate": ACTING,
    "/zone": EVERYONE,
}
PREFIXES = {"event_id": "evt", "replay_id": "rpl", "installation_id": "ins", "key_id": "key", "session_id": "cse"}
HELD_BY_ACTING = {
    *("installations:read", "installations:write", "subscriptions:read", "audit:read"),
    *("console:read", "console:act"),
}
HELD_BY_DISCLOSING = {str(scope) for scope in Scope} - {"tokens:read"}


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    settings = settings_for(
        database_url,
        ALLOWED_PRIVATE_RANGES=LOOPBACK,
        CONSOLE_PROXY="10.1.0.0/16",
        CONSOLE_PROXY_SECRET=PROXY_SECRET,
        CONSOLE_PROXY_OPERATORS="root@example.com",
    )
    async with run_service(settings) as running:
        await running.installed()
        yield running


def through_proxy(console: Console, person: str) -> httpx.AsyncClient:
    return console.stranger(address="10.1.2.3", **{"x-console-secret": PROXY_SECRET, "x-forwarded-user": person})


async def with_key(
    console: Console,
    *scopes: Scope,
    aircall_rules: list[str] | None = None,
    lifetime: timedelta | None = None,
) -> httpx.AsyncClient:
    secret = await keys.create(
        console.service.resources, name="night shift", scopes=scopes, aircall_rules=aircall_rules, lifetime=lifetime
    )
    browser = console.stranger()
    await browser.post("/sign-in", data={"api_key": secret})
    return browser


async def every_kind(console: Console) -> list[tuple[str, httpx.AsyncClient, frozenset[Scope]]]:
    """A browser for each kind of session, with what it holds."""
    return [
        ("link, looks", await console.visitor("a", (LOOK,)), frozenset({LOOK})),
        ("link, looks and shows", await console.visitor("b", (LOOK, SHOW)), frozenset({LOOK, SHOW})),
        ("link, acts", await console.visitor("c", (LOOK, ACT)), frozenset({LOOK, ACT})),
        ("link, everything", await console.visitor("d"), frozenset({LOOK, ACT, SHOW})),
        ("key, looks", await with_key(console, LOOK), frozenset({LOOK})),
        ("key, looks and shows", await with_key(console, LOOK, SHOW), frozenset({LOOK, SHOW})),
        ("key, acts", await with_key(console, ACT), frozenset({ACT})),
        ("key, acts and shows", await with_key(console, ACT, SHOW), frozenset({ACT, SHOW})),
        ("proxy, looks", through_proxy(console, "eve@example.com"), frozenset({LOOK})),
        ("proxy, operator", through_proxy(console, "root@example.com"), frozenset({LOOK, ACT, SHOW})),
    ]


def acts() -> Iterator[str]:
    for router in PAGES:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if "POST" in (route.methods or ()) and route.path != "/sign-in":
                yield route.path


@pytest.mark.slow
async def test_every_act_is_done_by_the_sessions_that_hold_what_it_needs_and_by_no_other(console: Console) -> None:
    kinds = await every_kind(console)
    for path in sorted(set(acts())):
        needs = NEEDS[path]
        for kind, browser, holds in kinds:
            if path == "/sign-out":
                continue
            address = re.sub(r"{(\w+)}", lambda found: new_id(PREFIXES.get(found[1], found[1][:3])), path)
            before = await console.service.sql("SELECT count(*) FROM audit")

            answer = await browser.post(address)

            assert (answer.status_code == 403) == (not needs <= holds), (path, kind, answer.status_code)
            if answer.status_code == 403:
                missing = min(needs - holds)
                assert missing in words(answer), (path, kind)
                assert await console.service.sql("SELECT count(*) FROM audit") == before


async def test_a_form_that_can_not_be_sent_is_not_shown_but_why(console: Console) -> None:
    partner = await subscribe(console.service, "https://203.0.114.7/hook")
    looks, acts = await console.visitor("a", (LOOK,)), await console.visitor("c", (LOOK, ACT))
    for path in ("pause", "edit", "rotate-secret", "delete"):
        page = await looks.get(f"/destinations/{partner.id}/{path}")
        assert "You may look here, but not act: that needs the scope console:act." in words(page)
        assert 'method="post" action="/destinations' not in page.text
    page = await acts.get(f"/destinations/{partner.id}/rotate-secret")
    assert "it needs the scope payloads:read" in words(page)
    assert 'method="post" action="/destinations' not in page.text


async def pages_with_acts(console: Console) -> list[str]:
    """The addresses of pages that offer acts, each of which there is something for."""
    service, root = console.service, through_proxy(console, "root@example.com")
    partner = await subscribe(service, "https://203.0.114.7/hook")
    await tell(service, 1)
    await root.post(f"/destinations/{partner.id}/replay", data=ANY_WINDOW)
    await service.sql("UPDATE subscription SET health = 'down', quiet_until = now()")
    await service.sql("UPDATE installation SET token_sealed = replace(token_sealed, '.k1.', '.k0.')")
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, "
        "dead_at) SELECT $1, 1, now(), id, 'ins_1', 12, 'http_500', now() FROM event LIMIT 1",
        partner.id,
    )
    (ids,) = await service.sql(
        "SELECT (SELECT max(id) FROM installation) AS customer, (SELECT max(id) FROM replay) AS replay, "
        "(SELECT max(reference) FROM install_attempt) AS attempt, "
        "(SELECT max(id) FROM event WHERE type LIKE 'call.%') AS event"
    )
    return [
        *("/", "/customers", "/destinations", "/keys", "/sessions", "/vault", f"/attempts/{ids['attempt']}"),
        *(f"/customers/{ids['customer']}", f"/events/{ids['event']}", f"/destinations/{partner.id}"),
        f"/destinations/{partner.id}/replays/{ids['replay']}",
    ]


def offered_acts(page: httpx.Response) -> set[str]:
    """The acts that the page's links and forms lead to."""
    main = page.text.partition("<main")[2].partition("</main>")[0]
    addresses = [html.unescape(each).partition("?")[0] for each in re.findall(r'(?:href|action)="([^"]+)"', main)]
    return {path for path in acts() if any(re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), each) for each in addresses)}


async def test_pages_offer_the_acts_that_a_session_may_do_and_no_other(console: Console) -> None:
    addresses = await pages_with_acts(console)
    await console.visitor("another")
    in_the_frame = {"/sign-out", "/zone"}
    for holds in ({LOOK}, {LOOK, SHOW}, {LOOK, ACT}, {LOOK, ACT, SHOW}):
        browser = await console.visitor("anna", sorted(holds))

        shown = {address: await browser.get(address) for address in addresses}

        assert {page.status_code for page in shown.values()} == {200}
        offered = set().union(*map(offered_acts, shown.values()))
        assert offered == {path for path in set(acts()) - in_the_frame if NEEDS[path] <= holds}, holds
        for address, page in shown.items():
            told = "You may look here, but not act: that needs the scope console:act" in words(page)
            assert told == (ACT not in holds and address != "/"), address


def offered(page: httpx.Response) -> set[str]:
    return set(re.findall(r'name="scopes" value="([\w:]+)"', page.text))


@pytest.mark.slow
async def test_a_session_gives_a_key_nothing_that_it_does_not_hold(console: Console) -> None:
    """A session that acts, and does not show payloads, made itself a key that reads them."""
    grantable = {
        "link, everything": HELD_BY_DISCLOSING,
        "proxy, operator": HELD_BY_DISCLOSING,
        "link, acts": HELD_BY_ACTING,
        "key, acts": {"console:read", "console:act"},
        "key, acts and shows": {"console:read", "console:act", "payloads:read"},
    }
    for kind, browser, _ in await every_kind(console):
        may = grantable.get(kind, set())
        assert offered(await browser.get("/keys/new")) == may, kind
        for scope in Scope:
            answer = await browser.post("/keys/new", data={"name": "gained", "scopes": str(scope)})
            assert (answer.status_code == 200) == (str(scope) in may), (kind, scope)
            assert ("aok_" in answer.text) == (str(scope) in may), (kind, scope)


async def test_of_a_keys_own_scopes_those_that_show_payloads_are_given_by_who_may_see_them(console: Console) -> None:
    some = await with_key(console, ACT, Scope.EVENTS_READ, Scope.AUDIT_READ, Scope.TOKENS_READ)
    all_ = await with_key(console, ACT, SHOW, Scope.EVENTS_READ, Scope.AUDIT_READ, Scope.TOKENS_READ)

    assert offered(await some.get("/keys/new")) == {"audit:read", "console:read", "console:act"}
    assert offered(await all_.get("/keys/new")) == {
        *("audit:read", "console:read", "console:act"),
        *("events:read", "payloads:read"),
    }


async def test_a_key_gives_its_own_rules_for_aircall_and_ends_before_it(console: Console) -> None:
    rules = ["GET /calls/*", "GET /users"]
    browser = await with_key(console, ACT, SHOW, Scope.AIRCALL_CALL, aircall_rules=rules, lifetime=timedelta(days=2))
    form = {"name": "gained", "scopes": "aircall:call"}

    refused = await browser.post("/keys/new", data=form | {"aircall": "DELETE /users/*"})
    plain, longer, shorter = [
        await browser.post("/keys/new", data=form | more)
        for more in ({}, {"aircall": "GET /users", "expires": "90d"}, {"expires": "1d"})
    ]
    assert {answer.status_code for answer in (plain, longer, shorter)} == {200}

    assert "It has no end of its own, but it ends with the key that you signed in with: " in words(plain)
    assert "It was to work for 90d, but it ends with the key" in words(longer)
    assert "it ends with" not in words(shorter)
    assert refused.status_code == 422
    assert "has no such rule: DELETE /users/*" in words(refused)
    made = await console.service.sql(
        "SELECT aircall_rules, expires_at <= (SELECT expires_at FROM api_key WHERE name = 'night shift') AS in_time, "
        "expires_at < now() + interval '25 hours' AS soon FROM api_key WHERE name = 'gained' ORDER BY id"
    )
    assert [row["aircall_rules"] for row in made] == [rules, ["GET /users"], rules]
    assert [row["in_time"] for row in made] == [True] * 3
    assert [row["soon"] for row in made] == [False, False, True]


@pytest.mark.parametrize(
    "change",
    [{"url": "https://203.0.114.9/mine"}, {"types": ""}, {"owners": "mine"}, {"installations": f"ins_{'0' * 32}"}],
)
async def test_who_may_not_see_payloads_has_none_sent_elsewhere(console: Console, change: dict[str, str]) -> None:
    partner = await subscribe(console.service, "https://203.0.114.7/hook", name="crm", types=["call.*"])
    form = {"name": "crm", "url": "https://203.0.114.7/hook", "types": "call.*", "order": "subject"}
    acts, everything = await console.visitor("ben", (LOOK, ACT)), await console.visitor("anna")
    address = f"/destinations/{partner.id}/edit"
    before = await partner.shown()

    asked = await acts.get(address)
    refused = await acts.post(address, data=form | change | {"name": "renamed"})
    left = await partner.shown()
    renamed = await acts.post(address, data={"name": "renamed", "order": "none"})

    assert 'name="url"' not in asked.text
    assert "with the scope payloads:read" in words(asked)
    if change == {"types": ""}:  # a field that is left empty is not sent by a form: it stays
        assert refused.status_code == 200
    else:
        assert refused.status_code == 403
        assert "it needs the scope payloads:read" in words(refused)
        assert left["name"] == "crm"
    assert renamed.status_code == 200
    stable = ("url", "types", "owners", "installations")
    shown = await partner.shown()
    assert [shown[name] for name in stable] == [before[name] for name in stable]
    assert (shown["name"], shown["order"]) == ("renamed", "none")
    assert (await everything.post(address, data=form | change)).status_code == 200


async def test_an_event_is_sent_past_a_filter_by_who_may_see_payloads(console: Console) -> None:
    service = console.service
    await tell(service, 1)
    (event,) = await service.sql("SELECT id FROM event WHERE type LIKE 'call.%'")
    acts, everything = await console.visitor("ben", (LOOK, ACT)), await console.visitor("anna")
    address = f"/events/{event['id']}/resend"
    async with receiver() as to:
        mine = await subscribe(service, to.url, name="mine", types=["user.created"])
        wants = await subscribe(service, to.url, name="wants", types=["call.*"])

        offered = await acts.get(address)
        refused = await acts.post(address, data={"subscription_id": mine.id})
        sent_before = len(to.received)
        sent = await acts.post(address, data={"subscription_id": wants.id})
        past = await everything.post(address, data={"subscription_id": mine.id})

        assert (mine.id in offered.text, wants.id in offered.text) == (False, True)
        assert refused.status_code == 403
        assert "it needs the scope payloads:read" in words(refused)
        assert sent_before == 0
        assert (sent.status_code, past.status_code, len(to.received)) == (200, 200, 2)
