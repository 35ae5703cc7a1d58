"""Install attempts: how far a flow came, where it stopped, what its admin was shown; and what strangers leave."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stamina

from aircall_oauth.installations.attempts import recording
from tests.support.service import Service, run_service, settings_for

HOME = "https://app.example.com/aircall/connected"
TWO_HOURS = "UPDATE install_attempt SET created_at = created_at - interval '2 hours'"
STEPS = ("made", "opened", "consented", "exchanged", "identified", "connected", "claimed", "live")


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    with stamina.set_testing(True, attempts=3, cap=True):
        async with run_service(settings_for(database_url, RETURN_URLS=HOME)) as running:
            yield running


async def attempts(partner: httpx.AsyncClient, **filters: Any) -> list[dict[str, Any]]:
    answer = await partner.get("/v1/install-attempts", params=filters)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def reached(attempt: dict[str, Any]) -> list[str]:
    return [step for step in STEPS if attempt[f"{step}_at"] is not None]


def reference_on(answer: httpx.Response) -> str:
    (reference,) = re.findall(r'<code id="reference">(.*?)</code>', answer.text)
    return str(reference)


async def opened(service: Service, link: str, browser: httpx.AsyncClient) -> str:
    """Open a link; the state that goes to Aircall."""
    departure = await browser.get(link)
    assert departure.status_code == 303, departure.text
    return parse_qs(urlsplit(departure.headers["location"]).query)["state"][0]


async def test_an_attempt_tells_every_step_from_the_link_to_the_webhook(service: Service) -> None:
    partner, browser = await service.partner(), service.new_browser()
    made = (await partner.post("/v1/install-links", json={"owner": "acme"})).json()
    told = [(await partner.get(f"/v1/install-attempts/{made['attempt_id']}")).json()]
    state = await opened(service, made["url"], browser)
    told += await attempts(partner, reference=made["reference"])
    home = await service.return_with(browser, state=state, code=service.aircall.grant())
    told += await attempts(partner, owner="acme")
    claimed = await service.claim(parse_qs(urlsplit(home.headers["location"]).query)["claim"][0], "acme", partner)
    told += await attempts(partner, link_id=told[0]["link_id"])

    assert [reached(one) for one in told] == [list(STEPS[:1]), list(STEPS[:2]), list(STEPS[:6]), list(STEPS)]
    assert [one["step"] for one in told] == ["made", "opened", "connected", "live"]
    assert [one["ending"] for one in told] == [None, None, "unclaimed", "claimed"]
    assert [one["shown"] for one in told] == [None, "consent", "return_to:claim", "return_to:claim"]
    assert {one["id"] for one in told} == {made["attempt_id"]}
    assert {one["reference"] for one in told} == {made["reference"]}
    assert re.fullmatch(recording.REFERENCE, made["reference"])
    last = told[-1]
    company = service.aircall.companies[0]
    assert (last["company_id"], last["company_name"]) == (company.id, company.name)
    assert (last["installation_id"], last["owner"]) == (claimed.json()["id"], "acme")


@pytest.mark.parametrize(
    ("door", "step"), [("oauth/token", "consented"), ("integrations/me", "exchanged")], ids=["exchange", "identify"]
)
async def test_an_attempt_tells_where_it_stopped(service: Service, door: str, step: str) -> None:
    browser = service.new_browser()
    state = await opened(service, await service.link("acme"), browser)
    service.aircall.break_next(door, "error_500", times=10)

    await service.return_with(browser, state=state, code=service.aircall.grant())

    (attempt,) = await attempts(await service.partner(), ending="aircall_away")
    assert (attempt["step"], attempt["ending"], attempt["owner"]) == (step, "aircall_away", "acme")
    assert attempt["shown"].endswith(":aircall_away")


async def test_a_link_that_was_declined_and_opened_again_is_one_attempt(service: Service) -> None:
    link, browser, partner = await service.link("acme"), service.new_browser(), await service.partner()
    await service.return_with(browser, state=await opened(service, link, browser), error="access_denied")
    declined = await attempts(partner)

    state = await opened(service, link, browser)
    await service.return_with(browser, state=state, code=service.aircall.grant())

    (attempt,) = await attempts(partner)
    assert [(one["ending"], one["step"]) for one in declined] == [("declined", "opened")]
    assert (attempt["id"], attempt["ending"], attempt["step"]) == (declined[0]["id"], "unclaimed", "connected")


async def test_a_failure_after_the_connection_does_not_undo_it(service: Service) -> None:
    link, browser = await service.link("acme"), service.new_browser()
    state, late = await opened(service, link, browser), await opened(service, link, browser)
    await service.return_with(browser, state=state, code=service.aircall.grant())

    await service.return_with(browser, state=late, code=service.aircall.grant())

    (attempt,) = await attempts(await service.partner())
    assert (attempt["ending"], attempt["shown"].split(":")[1]) == ("unclaimed", "link_used")


async def test_a_flow_without_a_link_has_a_row_once_it_came_back(service: Service) -> None:
    partner = await service.partner()
    state = await service.begin()
    before = await attempts(partner)
    answer = await service.return_with(state=state, error="access_denied")
    await service.install()

    connected, declined = await attempts(partner)

    assert before == []
    assert (declined["ending"], declined["shown"], declined["link_id"]) == ("declined", "page:declined", None)
    assert declined["reference"] == reference_on(answer)
    assert (connected["ending"], connected["shown"], connected["owner"]) == ("connected", "success_url", None)
    assert reached(connected) == [step for step in STEPS if step not in {"made", "claimed"}]


async def test_attempts_are_filtered_by_time_and_paged(service: Service) -> None:
    for owner in ("acme", "globex", "initech"):
        await service.link(owner)
    await service.sql(TWO_HOURS + " WHERE owner = 'acme'")
    partner, an_hour_ago = await service.partner(), (datetime.now(UTC) - timedelta(hours=1)).isoformat()

    late, early = await attempts(partner, since=an_hour_ago), await attempts(partner, until=an_hour_ago)
    first = (await partner.get("/v1/install-attempts", params={"limit": 2})).json()
    second = (await partner.get("/v1/install-attempts", params={"limit": 2, "cursor": first["next"]})).json()
    zoneless = await partner.get("/v1/install-attempts", params={"since": "2026-01-01T00:00:00"})
    missing = await partner.get("/v1/install-attempts/att_" + "0" * 32)

    assert [[one["owner"] for one in some] for some in (late, early)] == [["initech", "globex"], ["acme"]]
    assert [one["owner"] for one in first["items"] + second["items"]] == ["initech", "globex", "acme"]
    assert second["next"] is None
    assert zoneless.status_code == 422
    assert (missing.status_code, missing.json()["code"]) == (404, "install_attempt_not_found")


async def test_the_sender_of_a_link_learns_nothing_of_the_company_that_was_lured(service: Service) -> None:
    mallory, acme = await service.partner(owner="mallory"), await service.partner(owner="acme")
    await service.install_by_link("mallory")
    mine = await service.install_by_link("acme", 70078)
    await service.claim(mine, "acme")

    ((of_mallory,), (of_acme,)) = await attempts(mallory), await attempts(acme)

    hidden = ("installation_id", "company_id", "company_name")
    assert [of_mallory[name] for name in hidden] == [None, None, None]
    assert of_mallory["ending"] == "unclaimed"
    assert of_acme["company_id"] == 70078


async def test_a_stranger_leaves_a_bounded_number_of_rows(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FAILURES_PER_HOUR", 5)
    tally = service.app.state.tally
    states = [await service.begin(service.new_browser()) for _ in range(40)]

    answers = [await service.return_with(service.new_browser(), state=state, code="x") for state in states]
    for _ in range(40):
        answers.append(await service.return_with(state="v1.k1.AAAA", code="x"))
        answers.append(await service.browser.get("/aircall/oauth/callback"))
    await tally.write()
    for _ in range(20):
        await service.begin(service.new_browser())
    await tally.write()

    assert {answer.status_code for answer in answers} == {400}
    rows = await service.sql("SELECT ending FROM install_attempt")
    assert [row["ending"] for row in rows] == ["wrong_browser"] * 5
    counted = {row["what"]: row["count"] for row in await service.sql("SELECT * FROM install_tally")}
    assert counted == {"opened": 60, "wrong_browser": 35, "state_invalid": 40, "parameters_invalid": 40}
    assert [bool(re.search('id="reference"', answer.text)) for answer in answers[:40]] == [True] * 5 + [False] * 35


async def test_failures_without_a_link_have_room_again_an_hour_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FAILURES_PER_HOUR", 3)
    asked = service.app.state.tally
    for _ in range(4):
        await service.return_with(state=await service.begin(), error="access_denied")
    kept = len(await service.sql("SELECT FROM install_attempt"))
    asked._asked = 0  # as in another process

    await service.return_with(state=await service.begin(), error="access_denied")
    in_another_process = len(await service.sql("SELECT FROM install_attempt"))
    await service.sql(TWO_HOURS)
    await service.return_with(state=await service.begin(), error="access_denied")

    assert (kept, in_another_process) == (3, 3)
    assert len(await service.sql("SELECT FROM install_attempt")) == 4


async def test_an_admin_who_connects_again_and_again_leaves_a_bounded_number_of_rows(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "CONNECTIONS_PER_HOUR", 2)
    for _ in range(4):
        await service.install()
    await service.install(70078)
    of_an_hour = await service.sql("SELECT company_id FROM install_attempt ORDER BY company_id")
    await service.sql(TWO_HOURS)
    await service.install()

    assert [row["company_id"] for row in of_an_hour] == [70077, 70077, 70078]
    assert len(await service.sql("SELECT FROM install_attempt")) == 4
    assert len(await service.sql("SELECT FROM installation WHERE status = 'active'")) == 2, (
        "it is connected all the same"
    )


async def test_opening_a_link_again_and_again_writes_once(service: Service) -> None:
    link = await service.link("acme")
    await service.new_browser().get(link)
    version = "SELECT xmin::text FROM install_attempt"
    first = await service.sql(version)

    for _ in range(5):
        await service.new_browser().get(link)

    assert await service.sql(version) == first


async def test_no_code_state_or_cookie_is_in_a_row(service: Service) -> None:
    browser = service.new_browser()
    state, code = await opened(service, await service.link("acme"), browser), service.aircall.grant()
    home = await service.return_with(browser, state=state, code=code)
    claim = parse_qs(urlsplit(home.headers["location"]).query)["claim"][0]

    kept = str(await service.sql("SELECT * FROM install_attempt"))

    for secret in (state, code, claim, *(str(value) for cookie in browser.cookies.jar for value in (cookie.value,))):
        assert secret not in kept


async def test_a_link_can_be_opened_while_the_database_is_away(service: Service) -> None:
    link, browser = await service.link("acme"), service.new_browser()
    async with service.database_away():
        state = await opened(service, link, browser)

    home = await service.return_with(browser, state=state, code=service.aircall.grant())

    assert home.headers["location"].startswith(f"{HOME}?claim=")
