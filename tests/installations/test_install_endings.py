"""Every way an install flow ends without an installation: the page it shows, and what it leaves behind."""

import asyncio
import hashlib
import json
import re
import string
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import stamina

from aircall_oauth.aircall import client
from aircall_oauth.installations.oauth import flow, grant, state
from aircall_oauth.sandbox.aircall.faults import How
from tests.support.service import PUBLIC_URL, Service, run_service, settings_for, until

INCOMPLETE = "This link is incomplete"
UNRECOGNISED = "Please start again"
TOO_LATE = "That took too long"
ELSEWHERE = "Please start again in this browser"
DECLINED = "You declined"
CODE_REFUSED = "Aircall did not accept the authorization"
APP_REFUSED = "This app is not set up correctly"
AIRCALL_AWAY = "Aircall could not be reached"
UNKNOWN = "We can&#39;t tell whether it was finished"
TRY_AGAIN = "Please try again in a moment"
AHEAD = "Please open this page yourself"
OUR_FAULT = "Something went wrong here"

LONG_AGO = "UPDATE flow SET used_at = used_at - interval '2 minutes'"


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def page(answer: httpx.Response, status: int, title: str) -> str:
    """The page, if it is the one with this title and has what every page must have."""
    assert (status, True) == (answer.status_code, f"<h1>{title}</h1>" in answer.text), answer.text
    assert f"<title>{title}</title>" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy)
    assert "script" not in answer.text.lower()
    assert not re.search(r"\son\w+=|javascript:|https?://(?!localhost:8000/)", answer.text)
    return answer.text


def offers_to_start_again(text: str) -> bool:
    return f'href="{PUBLIC_URL}/aircall/oauth/install"' in text


async def nothing_happened(service: Service) -> bool:
    """Aircall was not asked, and the flow was not used up."""
    (flows,) = await service.sql("SELECT count(*) FROM flow")
    return flows[0] == 0 and await nothing_stored(service) and not service.aircall.requests


async def nothing_stored(service: Service) -> bool:
    (rows,) = await service.sql("SELECT (SELECT count(*) FROM installation) + (SELECT count(*) FROM webhook)")
    (events,) = await service.sql("SELECT count(*) FROM event")
    return (rows[0], events[0]) == (0, 0)


def exchanges(service: Service) -> int:
    return sum(request.path == "/v1/oauth/token" for request in service.aircall.requests)


async def still_succeeds(service: Service, state_: str) -> bool:
    answer = await service.return_with(state=state_, code=service.aircall.grant())
    return (answer.status_code, answer.headers.get("location")) == (303, service.settings.success_url)


def sealed(service: Service, *, began: float, return_to: str | None = None) -> str:
    """A state as the service makes it, begun at another time, with this browser's cookie."""
    flow_id, secret = "f" * 22, "s" * 43
    content = [flow_id, int(began), hashlib.sha256(secret.encode()).hexdigest(), return_to]
    service.browser.cookies.set(state.cookie_name(flow_id, secure=False), secret, domain="localhost.local")
    return service.resources.vault.seal_message(json.dumps(content).encode(), state.PURPOSE)


async def test_a_state_that_cannot_be_one_is_an_incomplete_link(service: Service) -> None:
    impossible: list[dict[str, Any]] = [
        {},
        {"state": ""},
        {"state": "x" * 8193},
        {"state": ["v1.k1.AAAA", "v1.k1.AAAA"]},
        {"state": "v1.k1.AAAA\n"},
        {"state": "../../etc/passwd"},
        {"state": "v1.k1.A A"},
        {"state": "Zustand-ü"},
        {"state": "\x00"},
        {"state[]": "v1.k1.AAAA"},
    ]

    for given in impossible:
        answer = await service.browser.get("/aircall/oauth/callback", params={**given, "code": "a-code"})
        assert offers_to_start_again(page(answer, 400, INCOMPLETE)), given

    assert await nothing_happened(service)


async def test_a_state_that_is_not_ours_is_not_recognised(service: Service) -> None:
    foreign = ["x", "v1.k1.AAAA", "v1.other.AAAA", "v2.k1.AAAA", "v1", "...", "v1.k1.", "v1.k1.A", "----", "v1" * 4000]

    for given in foreign:
        answer = await service.return_with(state=given, code="a-code")
        assert offers_to_start_again(page(answer, 400, UNRECOGNISED)), given

    assert await nothing_happened(service)


@pytest.mark.slow
async def test_a_state_altered_anywhere_is_not_recognised(service: Service) -> None:
    begun, code = await service.begin(), service.aircall.grant()
    alphabet = string.ascii_letters + string.digits + "-_."

    for place, sign in enumerate(begun):
        other = alphabet[(alphabet.index(sign) + 1) % len(alphabet)]
        answer = await service.return_with(state=begun[:place] + other + begun[place + 1 :], code=code)
        assert (place, 400, True) == (place, answer.status_code, UNRECOGNISED in answer.text)
    for altered in (begun[:-1], begun + "A", begun + "=", begun.swapcase(), begun[::-1]):
        assert (await service.return_with(state=altered, code=code)).status_code == 400

    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


async def test_a_state_is_good_for_ten_minutes(service: Service) -> None:
    answer = await service.return_with(state=sealed(service, began=time.time() - 605), code="a-code")

    assert offers_to_start_again(page(answer, 400, TOO_LATE))
    assert await nothing_happened(service)
    assert await still_succeeds(service, sealed(service, began=time.time() - 590))


async def test_a_state_from_the_future_is_not_recognised(service: Service) -> None:
    answer = await service.return_with(state=sealed(service, began=time.time() + 3600), code="a-code")

    page(answer, 400, UNRECOGNISED)
    assert await nothing_happened(service)
    assert await still_succeeds(service, sealed(service, began=time.time() + 300)), "clocks of replicas differ"


async def test_another_browser_is_sent_away_and_uses_nothing_up(service: Service) -> None:
    begun, code = await service.begin(), service.aircall.grant()
    async with service.new_browser() as stranger:
        without_cookie = await service.return_with(stranger, state=begun, code=code)
        await service.begin(stranger)
        with_its_own = await service.return_with(stranger, state=begun, code=code)
        (name,) = [cookie.name for cookie in service.browser.cookies.jar]
        stranger.cookies.set(name, "0" * 43, domain="localhost.local")
        with_a_guess = await service.return_with(stranger, state=begun, code=code)

    for answer in (without_cookie, with_its_own, with_a_guess):
        assert offers_to_start_again(page(answer, 400, ELSEWHERE))
    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


async def test_another_browser_cannot_decline_either(service: Service) -> None:
    begun = await service.begin()
    async with service.new_browser() as stranger:
        answer = await service.return_with(stranger, state=begun, error="access_denied")

    page(answer, 400, ELSEWHERE)
    assert await still_succeeds(service, begun)


async def test_a_code_or_error_that_cannot_be_one_uses_nothing_up(service: Service) -> None:
    impossible: list[dict[str, Any]] = [
        {},
        {"code": ""},
        {"code": ["one", "two"]},
        {"code": "c" * 2049},
        {"code": "with a space"},
        {"code": "line\nbreak"},
        {"code": "nul\x00"},
        {"code": "bell\x07"},
        {"code": "ünicode"},
        {"code": "\N{ZERO WIDTH SPACE}"},
        {"error": ""},
        {"error": "e" * 257},
        {"error": "access denied"},
        {"error": ["access_denied", "access_denied"]},
        {"code": "one", "error": "line\r\nbreak"},
    ]
    begun = await service.begin()

    for given in impossible:
        answer = await service.browser.get("/aircall/oauth/callback", params={"state": begun, **given})
        assert offers_to_start_again(page(answer, 400, INCOMPLETE)), given

    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


async def test_a_state_given_twice_uses_nothing_up(service: Service) -> None:
    begun = await service.begin()

    query = {"state": [begun, begun], "code": service.aircall.grant()}
    answer = await service.browser.get("/aircall/oauth/callback", params=query)

    page(answer, 400, INCOMPLETE)
    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


@pytest.mark.slow
async def test_bytes_that_are_not_utf8_are_an_incomplete_link(service: Service) -> None:
    begun = await service.begin()

    answer = await service.browser.get(f"/aircall/oauth/callback?state={begun}&code=%ff%fe&%c3%28=%80")

    page(answer, 400, INCOMPLETE)
    assert await still_succeeds(service, begun)


async def test_who_declines_is_told_so_and_nothing_is_kept(service: Service) -> None:
    departure = await service.browser.get("/aircall/oauth/install")

    answer = await service.browser.get(await service.decide(departure.headers["location"], "deny"))

    text = page(answer, 200, DECLINED)
    assert offers_to_start_again(text)
    assert await nothing_stored(service)
    assert service.aircall.requests == []
    (kept,) = await service.sql("SELECT status, ending, installation_id FROM flow")
    assert tuple(kept) == ("ended", "declined", None)


async def test_a_declined_flow_cannot_be_turned_into_a_yes(shared_service: Service) -> None:
    begun = await shared_service.begin()
    await shared_service.return_with(state=begun, error="access_denied")

    answer = await shared_service.return_with(state=begun, code=shared_service.aircall.grant())

    page(answer, 200, DECLINED)
    assert (exchanges(shared_service), await nothing_stored(shared_service)) == (0, True)


async def test_a_code_beside_an_error_is_not_used(shared_service: Service) -> None:
    begun = await shared_service.begin()

    answer = await shared_service.return_with(state=begun, code=shared_service.aircall.grant(), error="access_denied")

    page(answer, 200, DECLINED)
    assert exchanges(shared_service) == 0


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        ("invalid_request", 400, CODE_REFUSED),
        ("something_new", 400, CODE_REFUSED),
        ("ACCESS_DENIED", 400, CODE_REFUSED),
        ("unauthorized_client", 502, APP_REFUSED),
        ("invalid_client", 502, APP_REFUSED),
        ("invalid_scope", 502, APP_REFUSED),
        ("unsupported_response_type", 502, APP_REFUSED),
        ("server_error", 502, AIRCALL_AWAY),
        ("temporarily_unavailable", 502, AIRCALL_AWAY),
    ],
)
async def test_other_errors_on_the_redirect_each_have_their_page(
    shared_service: Service, error: str, status: int, title: str
) -> None:
    begun = await shared_service.begin()

    answers = [await shared_service.return_with(state=begun, error=error) for _ in range(2)]

    for answer in answers:
        text = page(answer, status, title)
        assert offers_to_start_again(text) == (title != APP_REFUSED)
    assert (exchanges(shared_service), await nothing_stored(shared_service)) == (0, True)


async def test_a_wrong_client_secret_is_the_apps_fault_not_the_admins(database_url: str) -> None:
    async with run_service(settings_for(database_url, CLIENT_SECRET="another-secret")) as service:
        begun = await service.begin()

        answer = await service.return_with(state=begun, code=service.aircall.grant())

        text = page(answer, 502, APP_REFUSED)
        assert not offers_to_start_again(text)
        assert (exchanges(service), await nothing_stored(service)) == (1, True)


async def test_a_code_that_aircall_refuses(service: Service) -> None:
    begun = await service.begin()

    answers = [await service.return_with(state=begun, code=code) for code in ("never-given", service.aircall.grant())]

    for answer in answers:
        assert offers_to_start_again(page(answer, 400, CODE_REFUSED))
    assert (exchanges(service), await nothing_stored(service)) == (1, True), "the second code was not tried"


async def test_a_code_that_was_used_before_is_refused(service: Service) -> None:
    code = service.aircall.grant()
    await service.return_with(state=await service.begin(), code=code)
    (before,) = await service.sql("SELECT token_sealed FROM installation")

    answer = await service.return_with(state=await service.begin(), code=code)

    page(answer, 400, CODE_REFUSED)
    (after,) = await service.sql("SELECT token_sealed FROM installation")
    assert before == after


FAULTS: tuple[How, ...] = ("drop_request", "drop_reply", "error_500", "html", "huge", "slow", "status_429")


@pytest.mark.parametrize("door", ["oauth/token", "integrations/me"])
async def test_aircall_being_away_is_said_so_and_nothing_is_kept(
    service: Service, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    monkeypatch.setattr(client, "TOTAL_SECONDS", 0.5)

    for number, how in enumerate(FAULTS, start=1):
        service.aircall.break_next(door, how, times=10, size=2**22)
        begun, code = await service.begin(), service.aircall.grant()
        answers = [await service.return_with(state=begun, code=code) for _ in range(2)]
        service.aircall.heal()

        for answer in answers:
            assert offers_to_start_again(page(answer, 502, AIRCALL_AWAY)), how
        assert (exchanges(service), await nothing_stored(service)) == (number, True), how

    kept = await service.sql("SELECT DISTINCT status, ending FROM flow")
    assert [tuple(row) for row in kept] == [("ended", "aircall_away")]
    assert await still_succeeds(service, await service.begin())


async def test_fifty_megabytes_are_not_read(service: Service) -> None:
    service.aircall.break_next("oauth/token", "huge", size=50 * 1024 * 1024)

    answer = await service.return_with(state=await service.begin(), code=service.aircall.grant())

    page(answer, 502, AIRCALL_AWAY)


async def test_a_company_without_a_name_is_connected_all_the_same(service: Service) -> None:
    hows: tuple[How, ...] = ("error_500", "html", "drop_reply", "status_429")
    for how in hows:
        service.aircall.break_next("company", how, times=10)
        await service.install()
        service.aircall.heal()

    (installation,) = await service.sql("SELECT status, company_name FROM installation")
    assert tuple(installation) == ("active", None)


async def test_one_hiccup_after_the_exchange_is_bridged(service: Service) -> None:
    service.aircall.break_next("integrations/me", "error_500", times=2)

    await service.install()

    assert exchanges(service) == 1


def test_a_flow_is_called_dead_only_after_its_steps_at_aircall_are_over() -> None:
    assert flow.UNDER_WAY.total_seconds() > 2 * grant.STEP_SECONDS


async def test_a_flow_cut_short_is_unknown_and_is_never_exchanged_again(service: Service) -> None:
    begun, code = await service.begin(), service.aircall.grant()
    await service.return_with(state=begun, code=code)
    await service.sql("UPDATE flow SET status = 'unknown', installation_id = NULL")
    await service.sql(LONG_AGO)

    answer = await service.return_with(state=begun, code=code)

    assert offers_to_start_again(page(answer, 409, UNKNOWN))
    assert exchanges(service) == 1


async def test_a_second_callback_does_not_wait_forever_for_the_first(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "WAIT_FOR_FIRST_SECONDS", 0.3)
    begun, code = await service.begin(), service.aircall.grant()
    await service.return_with(state=begun, code=code)
    await service.sql("UPDATE flow SET status = 'unknown', installation_id = NULL")

    page(await service.return_with(state=begun, code=code), 409, UNKNOWN)

    assert exchanges(service) == 1


async def test_other_methods_use_nothing_up(service: Service) -> None:
    begun = await service.begin()
    query = {"state": begun, "code": service.aircall.grant()}

    for method in ("HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"):
        answer = await service.browser.request(method, "/aircall/oauth/callback", params=query)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET"), method
        assert answer.headers["cache-control"] == "no-store"

    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


async def test_loading_ahead_of_a_click_uses_nothing_up(service: Service) -> None:
    begun = await service.begin()
    query = {"state": begun, "code": service.aircall.grant()}

    for header in (
        {"sec-purpose": "prefetch"},
        {"sec-purpose": "prefetch;prerender;anonymous-client-ip"},
        {"purpose": "Prefetch"},
        {"x-moz": "prefetch"},
        {"x-purpose": "preview"},
    ):
        page(await service.browser.get("/aircall/oauth/callback", params=query, headers=header), 400, AHEAD)

    assert await nothing_happened(service)
    assert await still_succeeds(service, begun)


async def test_without_the_database_nothing_is_used_up(service: Service) -> None:
    begun, code = await service.begin(), service.aircall.grant()
    async with service.database_away():
        answer = await service.return_with(state=begun, code=code)

    assert offers_to_start_again(page(answer, 503, TRY_AGAIN))
    assert await nothing_happened(service)
    assert (await service.return_with(state=begun, code=code)).status_code == 303


async def test_a_database_lost_after_the_exchange_leaves_the_flow_unknown(service: Service) -> None:
    begun, code = await service.begin(), service.aircall.grant()
    service.aircall.break_next("integrations/me", "slow", seconds=1.0)
    arriving = asyncio.create_task(service.return_with(state=begun, code=code))
    await until(lambda: any(request.broken for request in service.aircall.requests))
    async with service.database_away():
        answer = await arriving
    await service.sql(LONG_AGO)
    again = await service.return_with(state=begun, code=code)

    page(answer, 503, TRY_AGAIN)
    page(again, 409, UNKNOWN)
    assert (exchanges(service), await nothing_stored(service)) == (1, True)
    assert await still_succeeds(service, await service.begin())


async def test_a_fault_of_ours_is_a_page_that_tells_nothing(service: Service) -> None:
    begun = await service.begin()
    await service.sql("ALTER TABLE flow RENAME TO gone")

    answer = await service.return_with(state=begun, code="a-code")

    assert "flow" not in page(answer, 500, OUR_FAULT)
    assert answer.headers["x-request-id"].startswith("req_")


async def test_no_page_repeats_what_it_was_given(service: Service) -> None:
    mark = "\"'><b>mark-7f3a</b>"
    begun = await service.begin()
    queries: list[dict[str, str]] = [
        {"state": mark, "code": mark, "error": mark},
        {"state": "mark-7f3a", "code": "mark-7f3a"},
        {"state": begun, "code": mark},
        {"state": begun, "error": "<script>mark-7f3a</script>", "error_description": mark, "error_uri": mark},
        {"state": begun, "code": "mark-7f3a"},
        {mark: mark},
    ]

    answers = [await service.browser.get("/aircall/oauth/callback", params=query) for query in queries]
    answers.append(await service.browser.get("/aircall/oauth/install", params={"return_to": mark}))

    for answer in answers:
        assert answer.status_code == 400
        told = answer.text + str(answer.headers)
        assert "mark-7f3a" not in told
        assert begun not in told


async def test_the_link_to_start_again_starts_again(shared_service: Service) -> None:
    text = (await shared_service.return_with(state="x", code="y")).text
    (link,) = re.findall(r'<a [^>]*href="([^"]+)"', text)

    answer = await shared_service.browser.get(link)

    assert (answer.status_code, "/oauth/authorize?" in answer.headers["location"]) == (303, True)


async def test_an_unknown_address_beside_the_doors_is_a_page(shared_service: Service) -> None:
    answer = await shared_service.browser.get("/aircall/oauth/elsewhere")

    assert answer.status_code == 404
    assert "Nothing to see here" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
