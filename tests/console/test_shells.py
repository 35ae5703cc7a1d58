"""What a page offers for a shell gives what the page shows: the same filter, the same lines."""

import html
import json
import re
import shlex
from typing import Any

import httpx
import pytest

from tests.support.consoles import Browser, Console
from tests.support.receivers import fill, subscribe, tell
from tests.support.service import Service, command_environment, run_command

AWAY = "https://203.0.114.7/hook"
# By what a line of the page is known.
SHOWN = {
    "/audit": r'href="/audit\?request_id=(req_\w+)"',
    "/events": r'<th [^>]*scope="row"><a href="/events/(evt_\w+)"',
    "/customers": r'<th [^>]*scope="row" class="name"><a href="/customers/(ins_\w+)"',
    "/attempts": r'<th [^>]*scope="row"><a class="id" href="/attempts/(\w+)"',
}
KNOWN_BY = {"/audit": "request_id", "/events": "id", "/customers": "id", "/attempts": "reference"}


@pytest.fixture
def service(delivering: Service) -> Service:
    return delivering


def offered(page: httpx.Response) -> list[str]:
    found = re.search(r'<details class="shell">.*?</details>', page.text, re.DOTALL)
    return [html.unescape(each) for each in re.findall(r"<code>(.*?)</code>", found[0] if found else "", re.DOTALL)]


def address(curl: str) -> str:
    return shlex.split(curl)[-1].removeprefix("http://localhost:8000")


async def scene(console: Console) -> tuple[Browser, list[str]]:
    """Two of what each page lists by a filter, and pages with filters that leave some out."""
    service = console.service
    anna = await console.visitor()
    await tell(service, 2)
    await tell(service, 2, first=2, type_="user.created")
    for owner in ("acme inc", "beta", "acme inc"):
        await anna.post("/links/new", data={"owner": owner})
    partner = await subscribe(service, AWAY)
    await anna.post(f"/destinations/{partner.id}/pause")
    (made,) = await service.sql("SELECT request_id FROM audit WHERE action = 'subscription.paused'")
    (installation,) = await service.sql("SELECT id FROM installation")
    return anna, [
        "/audit",
        "/audit?action=install_link.*&owner=acme+inc&actor=anna",
        f"/audit?subscription_id={partner.id}",
        f"/audit?request_id={made['request_id']}",
        "/audit?since=2020-01-01T00:00&until=2999-01-01T00:00",
        "/audit?until=2020-01-01T00:00",
        "/events",
        "/events?type=user.*",
        "/events?type=call.*,installation.connected",
        f"/events?installation_id={installation['id']}&since=2020-01-01T00:00",
        "/events?until=2020-01-01T00:00",
        "/customers",
        "/customers?status=active",
        "/customers?status=removed&owner=acme+inc",
        "/attempts",
        "/attempts?owner=acme+inc",
        "/attempts?ending=under_way&since=2020-01-01T00:00",
        "/attempts?until=2020-01-01T00:00",
    ]


def lines(page: httpx.Response) -> list[str]:
    kind = page.url.path
    return re.findall(SHOWN[kind], page.text)


def known(kind: str, items: list[dict[str, Any]]) -> list[str]:
    return [each[KNOWN_BY[kind]] for each in items if each[KNOWN_BY[kind]] is not None]


async def test_the_request_of_a_page_with_a_filter_answers_what_the_page_shows(console: Console) -> None:
    anna, pages = await scene(console)
    partner = await console.service.partner()
    for path in pages:
        page = await anna.get(path)
        answer = (await partner.get(address(offered(page)[-1]))).json()
        assert known(page.url.path, answer.get("items") or answer.get("events") or []) == lines(page), path


async def test_the_next_page_has_the_request_only_for_the_command_line_has_the_newest(console: Console) -> None:
    await fill(console.service, 60)
    anna = await console.visitor()
    partner = await console.service.partner()
    first = await anna.get("/events?type=call.*")
    (following,) = re.findall(r'rel="next" href="([^"]+)"', first.text)

    page = await anna.get(html.unescape(following))

    (curl,) = offered(page)
    assert known("/events", (await partner.get(address(curl))).json()["events"]) == lines(page)


@pytest.mark.slow
async def test_the_command_of_a_page_with_a_filter_lists_what_the_page_shows(console: Console) -> None:
    anna, pages = await scene(console)
    environment = command_environment(console.service.settings.database_url.get_secret_value())
    for path in pages:
        page = await anna.get(path)
        program, *words = shlex.split(offered(page)[0])
        ended = await run_command(*words, "--json", environment=environment)
        assert program == "aircall-oauth"
        assert ended.exit_code == 0, (path, ended.stderr)
        assert known(page.url.path, json.loads(ended.stdout)) == lines(page), path
