"""The console in a real browser: each page and act, with JavaScript and without, light and dark, wide and narrow."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.telemetry.figures import ACK_SECONDS
from tests.support.browsers import launched, visiting
from tests.support.console_pages import DRAWS, WIDTHS, Place, act, in_order
from tests.support.databases import migrated_database
from tests.support.processes import World, world
from tests.support.service import run_command

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# In the README.
PICTURE = Path(__file__).parents[2] / "docs" / "console.png"
SECOND_COMPANY = 70078
# A day of numbers, as a service of some size has them: more by day than by night, and a bad half hour.
A_DAY_OF_NUMBERS = f"""
    INSERT INTO figure (name, label, step, at, highest, amounts)
    SELECT name, label, 'minute', date_trunc('minute', now()) - n * interval '1 minute', name = 'lag', amounts
    FROM generate_series(1, 1440) AS n,
    LATERAL (SELECT (400 + 380 * sin((n - 300) / 229.0) + 40 * sin(n / 7.0))::bigint AS events,
                    n BETWEEN 300 AND 330 AS bad) AS size,
    LATERAL (VALUES
        ('acks', 'stored', ARRAY[events]),
        ('ack_seconds', '', ARRAY[0, 0, events] || array_fill(0::bigint, ARRAY[{len(ACK_SECONDS) - 2}])),
        ('deliveries', '', ARRAY[events, CASE WHEN bad THEN 0 ELSE events END, CASE WHEN bad THEN 90 ELSE 0 END]),
        ('lag', '', ARRAY[CASE WHEN bad THEN 5000 ELSE 3 END, CASE WHEN bad THEN (330 - n) * 60 ELSE 1 END])
    ) AS one (name, label, amounts)
"""


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def place(chromium: Any, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    """A service with a console, two customers and a day of numbers; started only where there is a browser."""
    folder, port = tmp_path_factory.mktemp("console"), free_port()
    async with (
        migrated_database(postgres, "console") as database_url,
        world(folder, database_url, SUCCESS_URL="", CONSOLE_PORT=str(port)) as running,
    ):
        await running.start_service("--with-worker")
        await running.browser.get(await running.consent())
        await running.browser.get(await consent_of_the_second(running))
        await running.browser.get(await running.consent("deny"))
        await running.sql(A_DAY_OF_NUMBERS)
        yield Place(running, f"http://localhost:{port}")


async def consent_of_the_second(running: World) -> str:
    departure = await running.browser.get(f"{running.service_url}/aircall/oauth/install")
    page = await running.browser.get(departure.headers["location"])
    action = re.search(r'<form [^>]*method="post" action="([^"]+)"', page.text)
    assert action
    target = urljoin(str(page.url), action[1].replace("&amp;", "&"))
    answer = await running.browser.post(target, data={"decision": "authorize", "company": SECOND_COMPANY})
    back: str = answer.headers["location"]
    return back


async def test_every_page_is_in_order(place: Place, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        await place.open(visit)
        for number, (path, says) in enumerate((await place.pages()).items()):
            await visit.page.goto(f"{place.address}{path}")
            await in_order(visit, says, picture=tmp_path / str(number))


async def test_the_page_to_sign_in_is_in_order(place: Place, chromium: Any) -> None:
    by_axe = (("light", "phone"), ("dark", "phone"))
    async with visiting(chromium) as visit:
        await visit.page.goto(f"{place.address}/audit?actor=ben")
        await in_order(visit, "sign in to look", by_axe=by_axe)
        await visit.page.fill("#api_key", "aok_wrong")
        await visit.page.click("main >> button >> text=Sign in")
        await visit.page.wait_for_load_state()

        await in_order(visit, "There is no such API key", by_axe=by_axe)


async def test_without_javascript_everything_can_be_done(place: Place, chromium: Any) -> None:
    customer = await place.customer()
    async with visiting(chromium, java_script_enabled=False, viewport=WIDTHS["phone"]) as visit:
        page = visit.page
        await place.open(visit)
        for path, says in (await place.pages()).items():
            await page.goto(f"{place.address}{path}", wait_until="domcontentloaded")
            assert says in re.sub(r"\s+", " ", await page.inner_text("main"))

        await page.fill("#search", "northwind")
        await page.press("#search", "Enter")
        assert page.url == f"{place.address}/customers/{customer}"
        await act(visit, "Check now", "Check now", "in order")
        await act(visit, "Rotate the webhook", "Rotate the webhook", "The webhook is a new one.")
        await page.click("main >> text=Make an install link")
        await page.fill("#f-owner", "acme")
        await page.click("text=Make the link")
        assert "/aircall/oauth/install?link=" in await page.inner_text(".code")
        await page.goto(f"{place.address}/customers/{customer}")
        await page.click("main >> text=Back-fill")
        (row,) = await place.world.sql("SELECT to_char(now() - interval '1 hour', 'YYYY-MM-DD\"T\"HH24:MI') AS since")
        await page.fill("#f-since", row["since"])
        await page.click("button >> text=Back-fill")
        assert "The worker asks Aircall for the calls" in await page.inner_text("main")


async def test_keys_and_sessions_are_made_and_ended(place: Place, chromium: Any) -> None:
    async with visiting(chromium) as visit, visiting(chromium) as another:
        page = visit.page
        await place.open(visit)
        await page.goto(f"{place.address}/keys/new")
        await page.fill("#f-name", "night shift")
        await page.check("text=console:act")
        await page.click("text=Make the key")
        key = await page.inner_text(".code code")
        await another.page.goto(f"{place.address}/keys")
        await another.page.fill("#api_key", key)
        await another.page.click("main >> button >> text=Sign in")
        assert another.page.url == f"{place.address}/keys"
        assert "night shift" in await another.page.inner_text("header")

        await page.goto(f"{place.address}/keys")
        await page.click("tr:has-text('night shift') >> text=Revoke")
        await page.click("main >> button >> text=Revoke this key")

        await another.page.reload()
        assert another.page.url.startswith(f"{place.address}/sign-in")
        assert visit.complaints == []


async def test_a_customer_is_disconnected(place: Place, chromium: Any) -> None:
    customer = await place.customer(SECOND_COMPANY)
    async with visiting(chromium) as visit:
        await place.open(visit)
        await visit.page.goto(f"{place.address}/customers/{customer}")
        await act(visit, "Disconnect", "Disconnect for good", "The installation has ended.")

        assert "Disconnected" in await visit.page.inner_text("main")
        assert "disconnected" in await visit.page.inner_text("h1")


async def test_a_link_works_once_and_its_cookie_is_kept_over_http_on_this_machine(place: Place, chromium: Any) -> None:
    made = await run_command("console", "open", environment=place.world.environment)
    async with visiting(chromium) as first, visiting(chromium) as second:
        await first.page.goto(made.stdout.strip())
        await second.page.goto(made.stdout.strip())

        assert first.page.url == f"{place.address}/"
        (cookie,) = await first.page.context.cookies()
        assert cookie["name"].startswith("__Host-")
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
        assert "does not work any more" in await second.page.inner_text("main")
        assert await second.page.context.cookies() == []


async def test_a_session_that_may_only_look_is_offered_no_button(place: Place, chromium: Any) -> None:
    async with visiting(chromium) as visit:
        await place.sign_in(visit, "--read-only")
        await visit.page.goto(f"{place.address}/customers/{await place.customer()}/disconnect")

        assert await visit.page.locator("main form button").count() == 0
        assert "console:act" in await visit.page.inner_text("main")


async def test_the_keyboard_is_enough(place: Place, chromium: Any) -> None:
    async with visiting(chromium) as visit:
        page = visit.page
        await place.open(visit)
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await page.keyboard.press("/")
        await page.keyboard.type("northwind")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/customers/ins_*")


async def test_the_first_page_keeps_itself_up_to_date(place: Place, chromium: Any) -> None:
    customer = await place.customer()
    async with visiting(chromium) as visit, numberless(place, customer):
        await visit.page.clock.install()
        await place.open(visit)
        assert "No number is linked" in await visit.page.inner_text("#live")
        await place.world.sql("UPDATE installation SET number_ids = '{1}' WHERE id = $1", customer)

        await visit.page.clock.run_for(16_000)

        await visit.page.locator("#live", has_text="No number is linked").wait_for(state="detached")
        assert visit.complaints == []


@asynccontextmanager
async def numberless(place: Place, customer: str) -> AsyncIterator[None]:
    (row,) = await place.world.sql("SELECT number_ids FROM installation WHERE id = $1", customer)
    await place.world.sql("UPDATE installation SET number_ids = '{}' WHERE id = $1", customer)
    yield
    await place.world.sql("UPDATE installation SET number_ids = $1 WHERE id = $2", row["number_ids"], customer)


async def test_another_sites_form_does_nothing(place: Place, chromium: Any) -> None:
    customer = await place.customer()
    async with visiting(chromium) as visit:
        await place.open(visit)
        # The pretend Aircall is another origin on this machine.
        await visit.page.goto(str(place.world.aircall.base_url))
        target = f"{place.address}/customers/{customer}/disconnect"
        async with visit.page.expect_navigation():
            await visit.page.evaluate(
                """(target) => {
                    const form = document.createElement("form");
                    form.method = "post"; form.action = target;
                    document.body.append(form); form.submit();
                }""",
                target,
            )

        assert "did not come from the console" in await visit.page.inner_text("main")
        (row,) = await place.world.sql("SELECT status FROM installation WHERE id = $1", customer)
        assert row["status"] == "active"


async def test_the_readmes_picture_is_of_this_console(place: Place, chromium: Any, tmp_path: Path) -> None:
    drawn = PICTURE if DRAWS else tmp_path / "console.png"
    async with visiting(chromium, viewport={"width": 1280, "height": 860}) as visit:
        await place.open(visit)
        await visit.page.screenshot(path=drawn)

    committed = PICTURE.read_bytes()
    assert committed.startswith(b"\x89PNG")
    assert committed[16:24] == drawn.read_bytes()[16:24], "as large as it would be now"
    assert "docs/console.png" in (PICTURE.parents[1] / "README.md").read_text()
