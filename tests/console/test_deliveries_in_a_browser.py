"""Events, calls and destinations in a real browser: every page in order, the live tail, the acts without JavaScript."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from tests.support.browsers import launched, visiting
from tests.support.console_pages import WIDTHS, Place, act, in_order
from tests.support.databases import migrated_database
from tests.support.processes import World, world
from tests.support.receivers import LOOPBACK, Receiver, answer_with, receiver

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CALL = 2**53 + 1
WINDOW = "since=2020-01-01T00:00&until=2999-01-01T00:00"
# As a day of work leaves them: a destination that takes everything, one that is down, one that gave up on an event.
AS_AFTER_A_DAY = """
    UPDATE subscription SET health = 'down', quiet_until = now() + interval '90 seconds', last_error = 'http_503',
           last_error_at = now() - interval '4 minutes' WHERE name = 'billing';
    INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
    SELECT s.id, e.id, e.position, e.received_at + tried.after, tried.outcome, tried.took
    FROM subscription s, event e, (VALUES
        ('crm', interval '40 ms', 'delivered', 23), ('archive', interval '60 ms', 'http_500', 310),
        ('archive', interval '5 seconds', 'timeout', 15000), ('archive', interval '40 minutes', 'http_500', 120)
    ) AS tried (name, after, outcome, took)
    WHERE s.name = tried.name AND e.type LIKE 'call.%';
    INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, due_at,
                        dead_at)
    SELECT s.id, e.position, e.received_at, e.id, e.installation_id, 12, 'http_500',
           CASE WHEN e.type <> 'call.ended' THEN now() + interval '1 hour' END,
           CASE WHEN e.type = 'call.ended' THEN now() END
    FROM subscription s, event e WHERE s.name = 'archive' AND e.type LIKE 'call.%';
    UPDATE subscription SET position = 100;
    INSERT INTO figure (name, label, step, at, highest, amounts)
    SELECT 'deliveries', s.id, 'minute', date_trunc('minute', now()) - n * interval '1 minute', false,
           ARRAY[20 + n % 30, 20 + n % 30, CASE WHEN n BETWEEN 200 AND 260 THEN 9 ELSE 0 END]
    FROM subscription s, generate_series(1, 1440) AS n WHERE s.name = 'crm';
"""


@dataclass
class Deliveries:
    """A console with events of a call and four destinations; nothing delivers by itself."""

    place: Place
    to: Receiver
    names: dict[str, str]
    event: str
    token: str

    async def tell(self, type_: str, number: int) -> None:
        """What Aircall does."""
        data = {"id": number, "raw_digits": "+33 6 12 34 56 12", "user": {"name": "Zoé Martin"}}
        body = {"resource": "call", "event": type_, "token": self.token, "timestamp": 1767261600, "data": data}
        answer = await self.place.world.browser.post(
            f"{self.place.world.service_url}/aircall/webhook",
            content=json.dumps(body),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 200

    async def pages(self) -> dict[str, str]:
        """Every page by what it must show."""
        crm, archive = (f"/destinations/{self.names[name]}" for name in ("crm", "archive"))
        (replay,) = await self.place.world.sql("SELECT subscription_id, id FROM replay LIMIT 1")
        return {
            "/events": "events, the newest first; there are no more.",
            "/events?type=sms.*&owner=acme": "The log has no event like that.",
            f"/events/{self.event}": "given up on for archive",
            f"/events/{self.event}/resend": "Send call.ended again",
            f"/calls/{CALL}": "3 events, from call.created to call.ended",
            "/destinations": "Of 4 destinations, 2 need a look",
            crm: "Rotate the secret",  # in its first minutes it says that it is new
            archive: "It is up, but refuses every event",
            f"/destinations/{self.names['billing']}": "It is down",
            f"{crm}/test": "Send a sample to crm",
            f"{crm}/pause": "This stops deliveries",
            f"{crm}/resume": "This goes on where it stood",
            f"{crm}/edit": "its position stays",
            f"{crm}/rotate-secret": "The old secret",
            f"{crm}/delete": "Delete for good",
            f"{archive}/retry": "This tries 1 event again",
            f"{crm}/replay": "they are counted first",
            f"{crm}/replay?{WINDOW}": "Deliver 4 events once more",
            f"{crm}/replay?since=2026-01-01T00:00": "Say until when.",
            f"/customers/{await self.place.customer()}/replay": "Choose to which destination",
            "/destinations/new": "Make a destination",
            f"/destinations/{replay['subscription_id']}/replays/{replay['id']}": "It is under way: 0 of 4 events",
            f"/destinations/{replay['subscription_id']}/replays/{replay['id']}/stop": "This ends the replay",
            f"/events/evt_{'0' * 32}": "There is no such",
        }


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def it(chromium: Any, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deliveries]:
    """A service that may deliver to this machine, without a worker: what is shown stays as it is."""
    folder, port = tmp_path_factory.mktemp("deliveries"), free_port()
    async with (
        migrated_database(postgres, "console_deliveries") as database_url,
        world(folder, database_url, SUCCESS_URL="", CONSOLE_PORT=str(port), ALLOWED_PRIVATE_RANGES=LOOPBACK) as running,
        receiver() as to,
    ):
        await running.start_service()
        await running.browser.get(await running.consent())
        yield await furnished(Place(running, f"http://localhost:{port}"), to, running)


async def furnished(place: Place, to: Receiver, running: World) -> Deliveries:
    partner = await running.partner("subscriptions:read,subscriptions:write")
    names = {}
    for name, types in (("crm", []), ("billing", ["call.ended"]), ("archive", []), ("users", ["user.*"])):
        body = {"name": name, "kind": "http", "url": to.url, "types": types}
        made = await partner.post("/v1/subscriptions", json=body)
        assert made.status_code == 201, made.text
        names[name] = made.json()["id"]
    deliveries = Deliveries(place, to, names, "", await running.webhook_token())
    for type_ in ("call.created", "call.answered", "call.ended"):
        await deliveries.tell(type_, CALL)
    for statement in AS_AFTER_A_DAY.split(";\n"):
        if statement.strip():
            await running.sql(statement)
    window = {"since": "2020-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z", "everything": True}
    started = await partner.post(f"/v1/subscriptions/{names['crm']}/replay", json=window)
    assert started.status_code == 202, started.text
    await partner.aclose()
    (row,) = await running.sql("SELECT id FROM event WHERE type = 'call.ended'")
    deliveries.event = row["id"]
    return deliveries


async def test_every_page_is_in_order(it: Deliveries, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        await it.place.open(visit)
        for number, (path, says) in enumerate((await it.pages()).items()):
            await visit.page.goto(f"{it.place.address}{path}")
            await in_order(visit, says, picture=tmp_path / str(number))


async def test_ids_are_shown_whole_on_a_wide_screen(it: Deliveries, chromium: Any) -> None:
    async with visiting(chromium, viewport=WIDTHS["wide"]) as visit:
        await it.place.open(visit)
        await visit.page.goto(f"{it.place.address}/destinations/{it.names['archive']}")
        cut = await visit.page.evaluate(
            """[...document.querySelectorAll(".scroll .id")].filter((id) =>
                id.getBoundingClientRect().right > id.closest(".scroll").getBoundingClientRect().right
            ).map((id) => id.textContent)"""
        )

        assert await visit.page.locator(".scroll .id").count() > 5
        assert cut == []


async def test_new_events_appear_by_themselves_until_one_stops_following(it: Deliveries, chromium: Any) -> None:
    async with visiting(chromium) as visit:
        page = visit.page
        await page.clock.install()
        await it.place.open(visit)
        await page.goto(f"{it.place.address}/events?type=call.*")
        before = await page.locator("#rows tr").count()
        await page.evaluate("document.getElementById('rows').dataset.most = '3'")

        await it.tell("call.hungup", 77)
        await page.clock.run_for(4_000)

        await page.locator("#rows tr:first-child", has_text="call.hungup").wait_for()
        assert before == 3
        assert await page.locator("#rows tr").count() == 3, "no more than fit on the page"
        await page.click("text=Stop following")
        assert await page.locator("#tail[hx-get]").count() == 0
        assert "live=off" in page.url
        assert visit.complaints == []
    await it.place.world.sql("DELETE FROM event WHERE type = 'call.hungup'")


async def test_who_is_no_longer_signed_in_is_sent_to_sign_in_by_the_live_tail(it: Deliveries, chromium: Any) -> None:
    async with visiting(chromium) as visit:
        await visit.page.clock.install()
        await it.place.open(visit)
        await visit.page.goto(f"{it.place.address}/events?type=call.*")
        await it.place.world.sql("DELETE FROM console_session")

        await visit.page.clock.run_for(4_000)

        await visit.page.wait_for_url("**/sign-in?next=%2Fevents%3Ftype%3D*")


async def test_personal_data_are_revealed_and_copied(it: Deliveries, chromium: Any) -> None:
    async with visiting(chromium, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        await it.place.open(visit)
        await page.goto(f"{it.place.address}/events/{it.event}")
        assert "Zoé" not in await page.content()
        await page.click("text=Show personal data")

        await in_order(visit, "the audit has noted that you looked")
        await page.click("section[aria-labelledby=data] >> text=Copy")
        copied = json.loads(await page.evaluate("navigator.clipboard.readText()"))
        assert (copied["id"], copied["user"]["name"]) == (CALL, "Zoé Martin")


async def test_without_javascript_everything_can_be_done(it: Deliveries, chromium: Any) -> None:
    crm = f"{it.place.address}/destinations/{it.names['crm']}"
    async with visiting(chromium, java_script_enabled=False, viewport=WIDTHS["phone"]) as visit:
        page = visit.page
        await it.place.open(visit)
        for path, says in (await it.pages()).items():
            await page.goto(f"{it.place.address}{path}", wait_until="domcontentloaded")
            assert says in re.sub(r"\s+", " ", await page.inner_text("main")), path
        await page.goto(f"{it.place.address}/events")
        assert not await page.locator("text=Stop following").is_visible()
        await page.click("main >> text=Reload")
        await page.fill("#f-call_id", str(CALL))
        await page.click("main >> button >> text=Filter")
        assert f"call_id={CALL}" in page.url
        assert await page.locator("#rows tr").count() == 3
        await page.goto(f"{it.place.address}/events/{it.event}")
        await act(visit, "Send again to", "Send it again", "The destination took it in")
        await page.goto(crm)
        await act(visit, "Send a sample", "Send a sample", "It took the sample")
        await act(visit, '"Pause"', "Pause", "Nothing is sent until it is resumed.")
        await act(visit, '"Resume"', "Resume", "It is tried again within seconds")
        await act(visit, "Rotate the secret", "Make a new secret", "a signature of each")
        await page.click("main >> text=Replay a window")
        await page.fill("#f-since", "2020-01-01T00:00")
        await page.fill("#f-until", "2999-01-01T00:00")
        await page.fill("#f-types", "call.ended")
        await page.click("text=Count them")
        assert "1 event of 1 customer would be delivered" in await page.inner_text("main")
        await page.click("text=Deliver 1 event once more")
        assert "It is under way: 0 of 1 event delivered" in await page.inner_text("main")
        await act(visit, "Stop it", "Stop the replay", "It was stopped")
        it.to.answer = answer_with(500)
        await page.goto(crm)
        await page.click("main >> text=Send a sample")
        await page.click("main >> button >> text=Send a sample")
        assert "answered 500" in await page.inner_text("main")
        it.to.answer = answer_with(200)


async def test_a_replays_progress_keeps_itself_up_to_date(it: Deliveries, chromium: Any) -> None:
    (replay,) = await it.place.world.sql("SELECT * FROM replay WHERE status = 'running' LIMIT 1")
    async with visiting(chromium) as visit:
        page: Any = visit.page
        await page.clock.install()
        await it.place.open(visit)
        await page.goto(f"{it.place.address}/destinations/{replay['subscription_id']}/replays/{replay['id']}")
        await it.place.world.sql("UPDATE replay SET delivered = 3 WHERE id = $1", replay["id"])

        await page.clock.run_for(3_000)

        await page.locator("#live", has_text="3 of 4 events delivered, 75 %").wait_for()
        assert visit.complaints == []
    await it.place.world.sql("UPDATE replay SET delivered = 0 WHERE id = $1", replay["id"])
