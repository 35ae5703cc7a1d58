"""Who comes into the console, how long, and who does not: links, API keys, sessions, the authenticating proxy."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.console import brake as brake_module
from aircall_oauth.console import sessions
from aircall_oauth.console.brake import SignInBrake
from aircall_oauth.console.gate import COOKIE
from aircall_oauth.errors import ConsoleError, OwnerNotAllowed, SignInRefused
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.settings import Settings
from tests.support.consoles import LOOKING, Console, words
from tests.support.fixtures import lasting_service
from tests.support.service import Service, run_service, settings_for

PROXY_SECRET = "a secret between the proxy and the console"
PROXY = {"CONSOLE_PROXY": "10.1.0.0/16", "CONSOLE_PROXY_SECRET": PROXY_SECRET}
FROM_PROXY = {"x-console-secret": PROXY_SECRET, "x-forwarded-user": "ben@example.com"}


async def new_key(service: Service, *scopes: Scope, name: str = "night shift") -> str:
    return await keys.create(service.resources, name=name, scopes=scopes)


async def test_who_is_not_signed_in_is_sent_to_sign_in_and_then_back(shared_console: Console) -> None:
    async with shared_console.stranger() as browser:
        answer = await browser.get("/sessions?x=1")
        nowhere = await browser.get("/there/is/no/such/page")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in?next=%2Fsessions%3Fx%3D1"
    assert nowhere.status_code == 303, "which pages there are is no stranger's business"


async def test_a_link_signs_one_person_in_once(shared_console: Console) -> None:
    link = await shared_console.link("anna")
    async with shared_console.stranger() as first, shared_console.stranger() as second:
        answer = await first.get(link, follow_redirects=True)
        again = await second.get(link)

        assert answer.status_code == 200
        assert "anna" in answer.text
        assert again.status_code == 403
        assert "does not work any more" in again.text
        assert COOKIE not in second.cookies


async def test_of_many_who_use_a_link_at_once_one_gets_in(console: Console) -> None:
    link = await console.link()
    browsers = [console.stranger(address=f"10.0.0.{n}") for n in range(8)]

    answers = await asyncio.gather(*(browser.get(link) for browser in browsers))

    assert sorted(answer.status_code for answer in answers) == [303] + [403] * 7
    assert len(await sessions.list_all(console.service.resources)) == 1


async def test_a_link_lasts_a_minute(console: Console) -> None:
    link = await console.link()
    await console.service.sql("UPDATE console_link SET expires_at = expires_at - interval '61 seconds'")

    async with console.stranger() as browser:
        assert (await browser.get(link)).status_code == 403
    assert await console.service.sql("SELECT id FROM console_session") == []


async def test_what_only_looks_ahead_does_not_use_a_link_up(shared_console: Console) -> None:
    link = await shared_console.link()
    async with shared_console.stranger() as browser:
        for headers in ({"sec-purpose": "prefetch;prerender"}, {"sec-fetch-site": "cross-site"}):
            assert (await browser.get(link, headers=headers)).status_code == 403

        assert (await browser.get(link)).status_code == 303


async def test_neither_links_nor_cookies_are_kept_in_clear(console: Console) -> None:
    link = await console.link()
    assert link.rpartition("/")[2].encode() not in await _whole(console.service, "console_link")
    async with console.stranger() as browser:
        await browser.get(link)
        cookie = browser.cookies[COOKIE]

    assert await console.service.sql("SELECT id FROM console_link") == []
    assert cookie.encode() not in await _whole(console.service, "console_session")


async def _whole(service: Service, table: str) -> bytes:
    rows = await service.sql(f"SELECT t::text AS row FROM {table} AS t")
    assert rows
    return str(rows).encode()


async def test_the_cookie_is_bound_to_the_host_and_to_no_script(console: Console) -> None:
    async with console.stranger() as browser:
        answer = await browser.get(await console.link())

    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("__host-aircall-console=")
    for part in ("path=/", "secure", "httponly", "samesite=lax", "max-age=43200"):
        assert part in cookie
    assert "domain" not in cookie


async def test_an_api_key_with_the_scope_signs_in_and_the_audit_names_it(console: Console) -> None:
    secret = await new_key(console.service, Scope.CONSOLE_READ)
    async with console.stranger() as browser:
        answer = await browser.post("/sign-in?next=%2Fsessions", data={"api_key": secret}, follow_redirects=True)

        assert answer.status_code == 200
        assert answer.url.path == "/sessions"
        assert "night shift" in words(answer)
    (row,) = await console.service.sql("SELECT actor, details FROM audit WHERE action = 'console.signed_in'")
    assert row["actor"].startswith("key_")


@pytest.mark.parametrize("scopes", [[Scope.EVENTS_READ], [Scope.PAYLOADS_READ], [Scope.TOKENS_READ]])
async def test_a_key_without_the_scope_does_not_sign_in(shared_console: Console, scopes: list[Scope]) -> None:
    secret = await new_key(shared_console.service, *scopes)
    async with shared_console.stranger() as browser:
        answer = await browser.post("/sign-in", data={"api_key": secret})

        assert answer.status_code == 403
        assert COOKIE not in browser.cookies


async def test_a_key_that_is_bound_to_an_owner_does_not_open_the_console(console: Console) -> None:
    with pytest.raises(OwnerNotAllowed):
        await keys.create(console.service.resources, name="acme's", scopes=[Scope.CONSOLE_READ], owner="acme")
    secret = await new_key(console.service, Scope.CONSOLE_READ)
    await console.service.sql("UPDATE api_key SET owner = 'acme'")

    async with console.stranger() as browser:
        answer = await browser.post("/sign-in", data={"api_key": secret})

        assert answer.status_code == 403
        assert COOKIE not in browser.cookies


async def test_a_session_ends_with_the_key_that_opened_it(console: Console) -> None:
    secret = await new_key(console.service, Scope.CONSOLE_ACT)
    async with console.stranger() as browser:
        await browser.post("/sign-in", data={"api_key": secret})
        assert (await browser.get("/sessions")).status_code == 200

        await keys.revoke(console.service.resources, "night shift")

        assert (await browser.get("/sessions")).status_code == 303


async def test_a_session_lasts_twelve_hours(console: Console) -> None:
    browser = await console.visitor()
    await console.service.sql("UPDATE console_session SET expires_at = expires_at - interval '11 hours 59 minutes'")
    assert (await browser.get("/sessions")).status_code == 200

    await console.service.sql("UPDATE console_session SET expires_at = expires_at - interval '2 minutes'")

    assert (await browser.get("/sessions")).status_code == 303


async def test_signing_out_ends_the_session_and_not_only_the_cookie(shared_console: Console) -> None:
    browser = await shared_console.visitor()
    cookie = browser.cookies[COOKIE]

    answer = await browser.post("/sign-out")

    assert answer.status_code == 303
    assert COOKIE not in browser.cookies
    thief = shared_console.stranger(cookie=f"{COOKIE}={cookie}")
    assert (await thief.get("/sessions")).status_code == 303


async def test_a_session_is_listed_and_ended_by_another_person(console: Console) -> None:
    anna, ben = await console.visitor("anna"), await console.visitor("ben")
    page = words(await anna.get("/sessions"))
    assert "2 people signed in" in page
    (row,) = await console.service.sql("SELECT id FROM console_session WHERE person = 'ben'")

    asked = await anna.get(f"/sessions/{row['id']}/revoke")
    assert f"aircall-oauth console revoke {row['id']}" in asked.text
    done = await anna.post(f"/sessions/{row['id']}/revoke")

    assert done.status_code == 200
    assert (await ben.get("/sessions")).status_code == 303
    (line,) = await console.service.sql("SELECT actor FROM audit WHERE action = 'console.session_revoked'")
    assert line["actor"] == "person:anna"


async def test_another_sessions_cookie_is_that_session_and_a_made_up_one_is_none(console: Console) -> None:
    await console.visitor("anna", LOOKING)
    made_up = console.stranger(cookie=f"{COOKIE}=cse_00000000000000000000000000000000")
    (row,) = await console.service.sql("SELECT id FROM console_session")
    by_id = console.stranger(cookie=f"{COOKIE}={row['id']}")

    assert (await made_up.get("/sessions")).status_code == 303
    assert (await by_id.get("/sessions")).status_code == 303


async def test_a_person_has_a_bounded_number_of_sessions(console: Console) -> None:
    for _ in range(sessions.MOST_SESSIONS + 3):
        await console.visitor("anna")

    assert len(await sessions.list_all(console.service.resources)) == sessions.MOST_SESSIONS


async def test_failed_sign_ins_are_braked_and_good_ones_do_not_count(shared_console: Console) -> None:
    secret = await new_key(shared_console.service, Scope.CONSOLE_READ)
    async with shared_console.stranger(address="8.8.8.8") as browser:
        for _ in range(12):
            good = await browser.post("/sign-in", data={"api_key": secret})
            assert good.status_code == 303
        answers = [(await browser.post("/sign-in", data={"api_key": "aok_wrong"})) for _ in range(12)]

    assert [answer.status_code for answer in answers] == [403] * 10 + [429] * 2
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


class Clock:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def statuses(browser: httpx.AsyncClient, key: str, times: int) -> list[int]:
    return [(await browser.post("/sign-in", data={"api_key": key})).status_code for _ in range(times)]


@pytest.mark.parametrize("address", ["8.8.8.8", "10.0.0.7", "2001:db8::1"])
async def test_a_right_key_is_let_in_while_the_brake_holds(shared_console: Console, address: str) -> None:
    clock = Clock()
    shared_console.app.state.brake = SignInBrake(clock)
    secret = await new_key(shared_console.service, Scope.CONSOLE_READ)
    async with shared_console.stranger(address=address) as browser, shared_console.stranger(address="8.8.4.4") as other:
        failed = await statuses(browser, "aok_wrong", 12)
        right = await statuses(browser, secret, 1)
        after = await statuses(browser, "aok_wrong", 1)
        elsewhere = await statuses(other, "aok_wrong", 1)

    assert failed == [403] * 10 + [429] * 2
    assert right == [303]
    assert (after, elsewhere) == ([403], [403]), "its address is as before; others' never had a part in it"


async def test_a_flood_from_everywhere_costs_few_look_ups_and_ends_with_time(shared_console: Console) -> None:
    clock = Clock()
    shared_console.app.state.brake = SignInBrake(clock)
    secret = await new_key(shared_console.service, Scope.CONSOLE_READ)
    asked = 0

    async def counted(*_: Any) -> None:
        nonlocal asked
        asked += 1
        raise SignInRefused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "sign_in_by_key", counted)
        for n in range(60):
            async with shared_console.stranger(address=f"8.8.{n}.8") as one:
                await statuses(one, "aok_wrong", 1)
    async with shared_console.stranger(address="9.9.9.9") as late:
        at_once = await statuses(late, secret, 1)
        clock.now += 0.1
        soon = await statuses(late, secret, 1)

    assert asked == 30 + 10, "thirty that counted, and ten of that second while it was braked"
    assert (at_once, soon) == ([429], [303])


def test_the_brake_keeps_few_addresses() -> None:
    brake = SignInBrake(Clock())
    for n in range(brake_module.MOST_ADDRESSES + 100):
        with contextlib.suppress(ConsoleError), brake.attempt(str(ipaddress.ip_address(2**27 + n))):
            pass

    assert len(brake._by_network) == brake_module.MOST_ADDRESSES


@pytest.mark.parametrize("next_", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_signing_in_leads_to_no_other_site(shared_console: Console, next_: str) -> None:
    secret = await new_key(shared_console.service, Scope.CONSOLE_READ)
    async with shared_console.stranger() as browser:
        answer = await browser.post("/sign-in", params={"next": next_}, data={"api_key": secret})
        landed = await browser.get("/sign-in/kept", params={"next": next_})

    assert answer.headers["location"] == "/sign-in/kept?next=%2F"
    assert landed.headers["location"] == "/"


async def test_a_browser_that_does_not_keep_the_cookie_is_told_why(shared_console: Console) -> None:
    async with shared_console.stranger() as browser:
        answer = await browser.get("/sign-in/kept")

    assert answer.status_code == 403
    assert "did not keep the cookie" in answer.text


def with_proxy(database_url: str, **changes: str) -> Settings:
    return settings_for(database_url, **PROXY, **changes)


async def through_proxy(console: Console, address: str = "10.1.2.3", **headers: str) -> httpx.Response:
    async with console.stranger(address=address, **headers) as browser:
        return await browser.get("/sessions")


@pytest.fixture(scope="module")
async def proxied(postgres: Postgres) -> AsyncIterator[Service]:
    """A service whose console believes a proxy."""
    async with lasting_service(postgres, "proxied", **PROXY) as running:
        yield running


async def test_the_proxy_says_who_the_person_is(proxied: Service) -> None:
    answer = await through_proxy(Console(proxied), **FROM_PROXY)

    assert answer.status_code == 200
    assert "ben@example.com" in answer.text
    assert "read-only" in answer.text


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("10.2.0.1", FROM_PROXY),
        ("192.0.2.7", FROM_PROXY),
        ("192.0.2.7", FROM_PROXY | {"x-forwarded-for": "10.1.2.3"}),
        ("10.1.2.3", {"x-forwarded-user": "ben"}),
        ("10.1.2.3", FROM_PROXY | {"x-console-secret": PROXY_SECRET[:-1]}),
        ("10.1.2.3", FROM_PROXY | {"x-console-secret": ""}),
        ("10.1.2.3", FROM_PROXY | {"x-forwarded-user": " "}),
        ("10.1.2.3", {"x-console-secret": PROXY_SECRET}),
        ("not an address", FROM_PROXY),
    ],
)
async def test_a_forged_proxy_header_opens_nothing(proxied: Service, address: str, headers: dict[str, str]) -> None:
    answer = await through_proxy(Console(proxied), address, **headers)

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


async def test_without_the_setting_no_proxy_is_believed(shared_console: Console) -> None:
    for secret in ("", PROXY_SECRET):
        answer = await through_proxy(shared_console, **FROM_PROXY | {"x-console-secret": secret})
        assert answer.status_code == 303


async def test_two_names_are_none(proxied: Service) -> None:
    browser = Console(proxied).stranger(address="10.1.2.3")
    twice = [*FROM_PROXY.items(), ("x-forwarded-user", "root@example.com")]

    assert (await browser.get("/sessions", headers=twice)).status_code == 303


async def test_operators_of_the_proxy_act_and_the_audit_names_them(database_url: str) -> None:
    async with run_service(with_proxy(database_url, CONSOLE_PROXY_OPERATORS="ben@example.com")) as service:
        console = Console(service)
        await console.visitor("anna")
        (row,) = await service.sql("SELECT id FROM console_session")

        other = console.stranger(address="10.1.2.3", **FROM_PROXY | {"x-forwarded-user": "eve@example.com"})
        refused = await other.post(f"/sessions/{row['id']}/revoke")
        ben = console.stranger(address="10.1.2.3", **FROM_PROXY)
        done = await ben.post(f"/sessions/{row['id']}/revoke")

        assert (refused.status_code, done.status_code) == (403, 200)
        (line,) = await service.sql("SELECT actor, address FROM audit WHERE action = 'console.session_revoked'")
        assert (line["actor"], line["address"]) == ("proxied:ben@example.com", "10.1.2.3")
        said = words(await ben.get("/audit?actor=ben@example.com"))
        assert "person, by the proxy ben@example.com from 10.1.2.3 console.session_revoked" in said


async def test_a_proxy_without_a_long_secret_stops_the_start(database_url: str) -> None:
    with pytest.raises(ValueError, match="CONSOLE_PROXY"):
        settings_for(database_url, CONSOLE_PROXY="10.1.0.0/16")
    with pytest.raises(ValueError, match="CONSOLE_PROXY"):
        settings_for(database_url, CONSOLE_PROXY="10.1.0.0/16", CONSOLE_PROXY_SECRET="short")


async def test_old_sessions_and_links_are_deleted(console: Console) -> None:
    await console.visitor()
    await console.link()
    kept = await console.visitor("ben")
    await console.service.sql("UPDATE console_link SET expires_at = now() - $1::interval", timedelta(seconds=1))
    await console.service.sql(
        "UPDATE console_session SET expires_at = now() - interval '1 second' WHERE person = 'anna'"
    )

    await sessions.forget(console.service.resources)

    assert await console.service.sql("SELECT id FROM console_link") == []
    (row,) = await console.service.sql("SELECT person FROM console_session")
    assert row["person"] == "ben"
    assert (await kept.get("/sessions")).status_code == 200
