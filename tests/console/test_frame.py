"""What holds for every page: who may act, whose forms are taken, what stands in the headers, how errors look."""

import re
from collections.abc import AsyncIterator, Iterator
from html import escape
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from aircall_oauth.console import corrections, frame
from aircall_oauth.console.gate import COOKIE
from aircall_oauth.console.pages import PAGES
from aircall_oauth.errors import AppError
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage.stamps import new_id
from tests.support.consoles import FORM_TOKEN, LOOKING, Console, words
from tests.support.fixtures import lasting_service
from tests.support.service import Service, run_service, settings_for

OPEN = {"/sign-in", "/sign-in/link/{secret}", "/sign-in/kept"}
# What every visitor may do for themselves.
OWN = {"/sign-out", "/zone"}


def routes(method: str) -> Iterator[str]:
    """The path of every route with this method, filled in."""
    for router in PAGES:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if method in (route.methods or ()) and route.path not in OPEN:
                yield route.path


def filled_in(path: str) -> str:
    kinds = {
        "session_id": "cse",
        "event_id": "evt",
        "replay_id": "rpl",
        "installation_id": "ins",
        "key_id": "key",
        "attempt": "att",
    }
    return re.sub(r"{(\w+)}", lambda found: new_id(kinds.get(found[1], found[1][:3])), path)


@pytest.mark.parametrize("path", sorted(set(routes("GET"))))
async def test_no_page_is_shown_to_who_is_not_signed_in(shared_console: Console, path: str) -> None:
    async with shared_console.stranger() as browser:
        answer = await browser.get(filled_in(path))

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    assert "<main" not in answer.text


@pytest.mark.parametrize("path", sorted(set(routes("POST"))))
async def test_nothing_is_done_for_who_is_not_signed_in(shared_console: Console, path: str) -> None:
    async with shared_console.stranger() as browser:
        answer = await browser.post(filled_in(path))

    assert answer.status_code == 401
    assert "Sign in first" in answer.text


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(set(routes("POST")) - OWN))
async def test_who_may_only_look_does_nothing(shared_console: Console, path: str) -> None:
    browser = await shared_console.visitor("anna", LOOKING)
    before = await shared_console.service.sql("SELECT count(*) FROM audit")

    answer = await browser.post(filled_in(path))

    assert answer.status_code == 403
    assert "console:act" in answer.text or "payloads:read" in answer.text
    assert await shared_console.service.sql("SELECT count(*) FROM audit") == before


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "https://localhost"}, False),
        ({"origin": "https://localhost"}, True),
        ({"origin": "http://localhost:0"}, True),  # as the settings say
        ({"origin": "https://localhost.evil.example"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"referer": "https://localhost/sessions"}, False),
        ({}, False),
    ],
)
async def test_only_the_consoles_own_forms_are_taken(
    shared_console: Console, headers: dict[str, str], allowed: bool
) -> None:
    person = new_id("anna")
    signed_in = await shared_console.visitor(person)
    cookie = f"{COOKIE}={signed_in.cookies[COOKIE]}"
    (row,) = await shared_console.service.sql("SELECT id FROM console_session WHERE person = $1", person)
    address = f"/sessions/{row['id']}/revoke"
    (token,) = FORM_TOKEN.findall((await signed_in.get(address)).text)
    transport = httpx.ASGITransport(shared_console.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://localhost") as browser:
        answer = await browser.post(address, headers={"cookie": cookie, **headers}, data={"form_token": token})

    assert answer.status_code == (200 if allowed else 403)
    left = await shared_console.service.sql("SELECT id FROM console_session WHERE person = $1", person)
    assert len(left) == (0 if allowed else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8300", True),
        ("localhost", True),
        ("LOCALHOST:9999", True),  # a port-forward to a port of one's own
        ("127.0.0.1:8300", True),
        ("127.8.8.8", True),
        ("[::1]:8300", True),
        ("console.example.com", True),
        ("console.example.com:443", True),
        ("evil.example", False),
        ("evil.example:8300", False),
        ("localhost.evil.example", False),
        ("console.example.com.evil.example", False),
        ("127.0.0.1.nip.io", False),
        ("192.168.1.7:8300", False),
        ("[::ffff:10.0.0.1]", False),
        ("evil.example@localhost:8300", False),
        ("localhost/evil.example", False),
        ("localhost:http", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_a_name_that_is_not_the_consoles_leads_to_nothing(named: Service, host: str, allowed: bool) -> None:
    """A site whose name resolves to this machine would be of one origin with the console."""
    console = Console(named)
    anna, stranger = await console.visitor(), console.stranger()
    link, headers = await console.link("ben"), {"host": host}
    asset = re.findall(r'"(/assets/[^"]+)"', (await anna.get("/sessions")).text)[0]
    signed_in = await named.sql("SELECT id, person FROM console_session ORDER BY id")

    answers = [await anna.get(path, headers=headers) for path in ("/sessions", "/nothing", asset)]
    answers += [await stranger.get("/sign-in", headers=headers), await stranger.get(link, headers=headers)]
    answers.append(await anna.post("/sign-out", headers=headers | {"origin": f"https://{host}"}))

    assert [answer.status_code == 421 for answer in answers] == [not allowed] * len(answers)
    if not allowed:
        assert "AIRCALL_OAUTH_CONSOLE_URL" in words(answers[0])
        assert "anna" not in answers[0].text
        assert "anna" in {row["person"] for row in signed_in}
        people = await named.sql("SELECT id, person FROM console_session ORDER BY id")
        assert people == signed_in, "nobody is signed in or out"


@pytest.fixture(scope="module")
async def named(postgres: Postgres) -> AsyncIterator[Service]:
    """A service whose console has a name."""
    async with lasting_service(postgres, "named", CONSOLE_URL="https://console.example.com") as running:
        yield running


async def test_an_authenticating_proxy_may_name_any_host(database_url: str) -> None:
    secret = "a secret between the proxy and the console"
    settings = settings_for(database_url, CONSOLE_PROXY="10.1.0.0/16", CONSOLE_PROXY_SECRET=secret)
    headers = {"x-console-secret": secret, "x-forwarded-user": "ben", "host": "aircall-oauth-console:8300"}
    async with run_service(settings) as service:
        console = Console(service)

        assert (await console.stranger(address="10.1.2.3").get("/sessions", headers=headers)).status_code == 200
        assert (await console.stranger(address="10.2.2.3").get("/sessions", headers=headers)).status_code == 421


async def test_another_site_can_sign_nobody_in(shared_console: Console) -> None:
    async with shared_console.stranger() as browser:
        answer = await browser.post("/sign-in", data={"api_key": "x"}, headers={"sec-fetch-site": "cross-site"})

    assert answer.status_code == 403
    assert "did not come from the console" in answer.text


async def test_every_answer_is_guarded(shared_console: Console) -> None:
    stranger, anna = shared_console.stranger(), await shared_console.visitor()
    answers = [
        await stranger.get("/"),
        await stranger.get("/sign-in"),
        await stranger.post("/sign-in", data={"api_key": "wrong"}),
        await stranger.get("/sign-in/link/nothing"),
        await anna.get("/"),
        await anna.get("/nothing"),
        await anna.get("/?x=1"),
        await anna.post("/"),
        await anna.get("/sessions"),
    ]

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


async def test_no_style_or_script_stands_in_a_page_and_none_comes_from_elsewhere(shared_console: Console) -> None:
    anna = await shared_console.visitor()
    for path in ("/", "/sessions", "/zone"):
        page = (await anna.get(path)).text
        assert not re.search(r"<style|\sstyle=|<script>|\son\w+=", page)
        assert not re.findall(r'(?:src|href|action)="(?!/|#)[^"]*"', page)


async def test_our_own_files_have_their_hash_in_the_name_and_are_kept_for_good(shared_console: Console) -> None:
    anna = await shared_console.visitor()
    page = (await anna.get("/")).text
    assets = set(re.findall(r'"(/assets/[^"]+)"', page))

    assert len(assets) == 4
    async with shared_console.stranger() as browser:
        for path in assets:
            answer = await browser.get(path)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
        wrong = await browser.get(re.sub(r"-[0-9a-f]{12}", "-000000000000", assets.pop()))
    assert wrong.status_code == 404


async def test_an_address_that_is_not_there_and_a_parameter_that_is_not_known_have_pages(
    shared_console: Console,
) -> None:
    anna = await shared_console.visitor()

    nothing = await anna.get("/nothing")
    unknown = await anna.get("/sessions?ownr=acme")
    wrong_id = await anna.get("/sessions/cse_1/revoke")

    assert (nothing.status_code, unknown.status_code, wrong_id.status_code) == (404, 422, 404)
    assert "There is no such page" in words(nothing)
    assert "there is no such parameter here" in words(unknown)
    assert "acme" not in unknown.text
    for page in (nothing, unknown, wrong_id):
        assert "<nav" in page.text, "the menu is there, to go on from"


async def test_the_fields_that_a_form_left_empty_are_not_in_the_address(shared_console: Console) -> None:
    anna = await shared_console.visitor()

    answer = await anna.get("/zone?next=%2Fsessions&x=&y=+")

    assert answer.status_code == 303
    assert answer.headers["location"] == "?next=%2Fsessions"


@pytest.mark.parametrize(
    ("address", "said", "without"),
    [
        ("/attempts?reference=7kq&owner=acme", "A reference has eight letters and digits", "/attempts?owner=acme"),
        ("/events?installation_id=70078", "A customer's id is ins_", "/events"),
        ("/audit?subscription_id=crm&actor=anna", "A destination's id is sub_", "/audit?actor=anna"),
        ("/events?since=yesterday&type=call.ended", "A time is written such as", "/events?type=call.ended"),
        ("/events?subject=%3Cb%3E&call_id=x", "A call's id is Aircall's", "/events"),
    ],
)
async def test_a_wrong_filter_is_said_in_words_and_the_rest_stays(
    shared_console: Console, address: str, said: str, without: str
) -> None:
    anna = await shared_console.visitor()

    answer = await anna.get(address)

    assert answer.status_code == 422
    assert said in words(answer)
    assert "must match" not in answer.text
    assert f'<a class="button" href="{escape(without)}">The page without this filter</a>' in answer.text
    assert (await anna.get(without)).status_code == 200


async def test_a_reference_is_found_as_people_write_it(shared_console: Console) -> None:
    anna = await shared_console.visitor()

    assert (await anna.get("/attempts?reference=+7kq2mxnp+")).status_code == 200


async def test_choosing_a_zone_leads_back_to_the_page_with_its_filters(shared_console: Console) -> None:
    anna = await shared_console.visitor()

    filtered = await anna.get("/audit?actor=anna&action=token.read")
    refused = await anna.post("/destinations/sub_1/reveal")

    assert 'href="/zone?next=/audit%3Factor%3Danna%26action%3Dtoken.read"' in filtered.text
    assert 'href="/zone?next=/destinations/sub_1"' in refused.text


async def test_what_can_not_be_done_is_no_error_of_the_consoles_and_has_a_way_on(console: Console) -> None:
    installation = await console.service.installed()
    await console.service.sql("UPDATE installation SET status = 'unclaimed'")
    anna = await console.visitor()
    customer = f"/customers/{installation}"

    for answer, status, said, home in (
        (await anna.post("/"), 405, "This page can't be asked for like that", "/"),
        (await anna.put("/keys"), 405, "This page can't be asked for like that", "/keys"),
        (await anna.post("/keys/new", content=b"x" * 1_100_000), 413, "That is too much at once", "/keys"),
        (await anna.post("/keys/new", content=b"x" * 70_000), 422, "What was sent is not right", "/keys"),
        (await anna.post(f"{customer}/check"), 409, "Not with this customer", "/customers"),
        (await anna.post(f"{customer}/rotate"), 409, "Not with this customer", "/customers"),
        (await anna.get("/audit?action=nonsense"), 422, "This address is not right", "/audit"),
    ):
        assert answer.status_code == status
        assert said in words(answer)
        assert "error of the console" not in words(answer)
        assert f'<a class="button" href="{home}">' in answer.text
        assert "<nav" in answer.text, "the menu is there, to go on from"
    assert "GET" in (await anna.post("/")).headers["allow"]


async def test_no_refusal_is_shown_as_an_error_of_the_consoles(shared_console: Console) -> None:
    """Each kind of refusal that there is, one that is added tomorrow too."""
    anna = await shared_console.visitor()
    kinds = [kind for kind in AppError.every() if kind.status < 500 and kind.__module__ == AppError.__module__]

    @shared_console.app.get("/refused/{number}")
    async def refuse(number: int) -> None:
        error = kinds[number].__new__(kinds[number])
        error.detail = kinds[number].title()
        vars(error).setdefault("retry_after_seconds", 3)
        raise error

    for number, kind in enumerate(kinds):
        answer = await anna.get(f"/refused/{number}")
        assert answer.status_code in {kind.status, 303}, kind
        assert "error of the console" not in words(answer), kind
    assert len(kinds) > 40


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(set(routes("GET"))))
async def test_a_page_answers_head_as_it_answers_get(shared_console: Console, path: str) -> None:
    anna, address = await shared_console.visitor(), filled_in(path)

    got, head = await anna.get(address), await anna.head(address)

    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"] if "content-type" in got.headers else True
    assert (await shared_console.stranger().head(address)).headers["location"].startswith("/sign-in")


async def test_asking_for_the_head_of_a_link_does_not_use_it_up(shared_console: Console) -> None:
    link = await shared_console.link()
    async with shared_console.stranger() as browser:
        assert (await browser.head(link)).status_code == 403
        assert (await browser.get(link)).status_code == 303


async def test_without_the_database_a_page_says_what_to_do(console: Console) -> None:
    anna = await console.visitor()
    async with console.service.database_away():
        answer = await anna.get("/")

    assert answer.status_code == 503
    assert "The database can't be reached" in words(answer)
    assert "aircall-oauth doctor" in words(answer)
    assert "retry-after" in answer.headers
    assert (await anna.get("/")).status_code == 200


async def test_an_error_of_ours_is_a_page_without_its_details(shared_console: Console) -> None:
    anna = await shared_console.visitor()
    broken: FastAPI = shared_console.app

    @broken.get("/broken")
    async def fail() -> None:
        raise RuntimeError("the secret is hunter2")

    answer = await anna.get("/broken")

    assert answer.status_code == 500
    assert "Something went wrong here" in answer.text
    assert answer.headers["x-request-id"] in answer.text
    assert "hunter2" not in answer.text


async def test_names_are_shown_escaped_control_characters_too(console: Console) -> None:
    name = "<script>alert(1)</script>\x1b[31m\u202egnp"
    anna = await console.visitor(name)

    page = (await anna.get("/sessions")).text

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\\x1b[31m\\u202egnp" in page


def test_every_list_is_made_by_one_macro() -> None:
    """So that a narrow screen, the keyboard and screen readers find each of them alike."""
    templates = Path(frame.__file__).parent / "templates"

    assert [path.name for path in templates.glob("*.html") if "<table" in path.read_text()] == ["macros.html"]


async def test_times_are_shown_in_the_zone_that_was_chosen(console: Console) -> None:
    anna = await console.visitor()
    await console.service.sql("UPDATE console_session SET created_at = '2026-07-01T12:00:00Z'")
    assert "2026-07-01 12:00" in words(await anna.get("/sessions"))

    chosen = await anna.post("/zone", data={"zone": "Europe/Paris", "next": "/sessions"}, follow_redirects=True)

    assert "2026-07-01 14:00" in words(chosen)
    assert "Europe/Paris" in chosen.text
    assert (await anna.post("/zone", data={"zone": "Nowhere/At all"})).status_code == 422


async def test_a_huge_form_is_refused(shared_console: Console) -> None:
    anna = await shared_console.visitor()

    for body in (b"x=" + b"y" * 70_000, b"&".join(b"a=%d" % n for n in range(1000)), b"a=" + b"\xff"):
        answer = await anna.post("/zone", content=body)
        assert answer.status_code == 422


async def test_errors_are_in_the_consoles_words(shared_console: Console) -> None:
    anna, ben = await shared_console.visitor(), await shared_console.visitor("ben", LOOKING)
    nothing = new_id("sub")

    missing = await anna.get(f"/destinations/{nothing}")
    refused = await ben.post(f"/destinations/{nothing}/pause")
    hidden = await ben.post(f"/events/{new_id('evt')}/reveal")

    assert "There is no such destination." in words(missing)
    assert "ubscription" not in words(missing)
    for page in (refused, hidden):
        assert "`" not in page.text
    assert "<code>console:act</code>" in refused.text
    assert "<code>payloads:read</code>" in hidden.text


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("There is no such subscription.", "There is no such destination."),
        (
            "Subscriptions are many: AIRCALL_OAUTH_MAX_SUBSCRIPTIONS",
            "Destinations are many: AIRCALL_OAUTH_MAX_SUBSCRIPTIONS",
        ),
        *(
            (same, same)
            for same in ("subscriptions:read", "/v1/subscriptions", "subscription.test", "`subscription_id`")
        ),
    ],
)
def test_only_the_word_is_said_otherwise(said: str, plain: str) -> None:
    assert corrections.plainly(said) == plain
