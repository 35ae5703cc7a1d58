"""What an admin sees, in a real browser: the way through, and the page of each ending."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from aircall_oauth.sandbox.postgres import Postgres
from tests.support.browsers import Visit, launched, visiting
from tests.support.databases import migrated_database
from tests.support.processes import World, world
from tests.support.service import database_away

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TITLES = {
    "declined": "You declined",
    "incomplete": "This link is incomplete",
    "unrecognised": "Please start again",
    "wrong-browser": "Please start again in this browser",
    "code-refused": "Aircall did not accept the authorization",
    "app-refused": "This app is not set up correctly",
    "aircall-away": "Aircall could not be reached",
    "unknown": "We can't tell whether it was finished",
    "return-refused": "This link is not valid",
}


@pytest.fixture(scope="module")
async def chromium() -> AsyncIterator[Any]:
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
async def it(chromium: Any, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The service and the pretend Aircall, for all tests of this file; started only where there is a browser."""
    folder = tmp_path_factory.mktemp("browser")
    async with (
        migrated_database(postgres, "browser") as database_url,
        world(folder, database_url, SUCCESS_URL="", RETURN_URLS="https://app.example.com/done") as running,
    ):
        await running.start_service("--with-worker")
        yield running


async def begin(visit: Visit, it: World) -> None:
    await visit.page.goto(f"{it.service_url}/aircall/oauth/install")
    assert "wants to be connected" in await visit.page.inner_text("main")


async def shown(visit: Visit, title: str, picture: Path) -> None:
    """The page has this title, says what to do next, fits, and complains about nothing. Leaves a picture."""
    page = visit.page
    await page.locator("h1", has_text=title).wait_for()
    await page.screenshot(path=picture)
    assert await page.title() == title
    assert await page.inner_text("h1") == title
    assert len(await page.inner_text("main p.next")) > 20
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    box = await page.locator("main").bounding_box()
    assert 300 < box["width"] <= 560, "the style is applied"
    assert visit.complaints == []


@pytest.mark.slow
async def test_authorize_ends_on_the_success_page(it: World, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        await begin(visit, it)
        await visit.page.click("#authorize")

        await shown(visit, "Connected", tmp_path / "connected.png")
        assert "Northwind Demo Ltd is now connected." in await visit.page.inner_text("main")
        (installation,) = await it.sql("SELECT status FROM installation WHERE company_id = 70077")
        assert installation["status"] == "active"

        await visit.page.reload()
        await shown(visit, "Connected", tmp_path / "again.png")
        assert len(await it.asked("POST", "/v1/oauth/token")) == 1


async def test_another_company_can_be_chosen(it: World, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        await begin(visit, it)
        await visit.page.select_option("#company", "70078")
        await visit.page.click("#authorize")

        await shown(visit, "Connected", tmp_path / "connected.png")
        assert "Küstenlicht Demo GmbH is now connected." in await visit.page.inner_text("main")


async def test_deny_ends_on_a_page_from_which_one_can_start_again(it: World, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        await begin(visit, it)
        await visit.page.click("#deny")
        await shown(visit, TITLES["declined"], tmp_path / "declined.png")

        await visit.page.click("#start-again")

        await visit.page.wait_for_selector("#authorize")


async def test_who_is_no_admin_never_comes_back(it: World, chromium: Any) -> None:
    flows = await it.sql("SELECT id FROM flow")
    async with visiting(chromium) as visit:
        await begin(visit, it)
        await visit.page.click("#not-admin")
        await visit.page.wait_for_selector("#download")

        assert visit.page.url == f"{it.environment['AIRCALL_OAUTH_API_URL'].removesuffix('/v1')}/download"
        assert "Only an admin" in await visit.page.inner_text("main")
    assert await it.sql("SELECT id FROM flow") == flows


async def test_a_link_carried_to_another_browser_is_refused_there_and_works_at_home(
    it: World, chromium: Any, tmp_path: Path
) -> None:
    async with visiting(chromium) as home, visiting(chromium) as elsewhere:
        back = await begun(home, it) + "&code=" + (await it.control("grant"))["code"]

        await elsewhere.page.goto(back)
        await shown(elsewhere, TITLES["wrong-browser"], tmp_path / "wrong-browser.png")
        await home.page.goto(back)
        await shown(home, "Connected", tmp_path / "connected.png")


async def begun(visit: Visit, it: World) -> str:
    """A fresh flow's callback address, still without what Aircall answers."""
    await begin(visit, it)
    state = parse_qs(urlsplit(visit.page.url).query)["state"][0]
    return f"{it.service_url}/aircall/oauth/callback?state={state}"


async def address_of(ending: str, visit: Visit, it: World) -> str:
    """Where this ending is shown, once everything for it is prepared."""
    door = f"{it.service_url}/aircall/oauth"
    match ending:
        case "incomplete":
            return f"{door}/callback"
        case "unrecognised":
            return f"{door}/callback?state=v1.k1.AAAA&code=x"
        case "return-refused":
            return f"{door}/install?return_to=https://elsewhere.example.com"
    back = await begun(visit, it)
    match ending:
        case "declined":
            return f"{back}&error=access_denied"
        case "wrong-browser":
            await visit.page.context.clear_cookies()
        case "app-refused":
            return f"{back}&error=invalid_client"
        case "aircall-away":
            await it.control("break", door="oauth/token", how="html")
        case "unknown":
            await visit.page.goto(f"{back}&code=x")
            await it.sql("UPDATE flow SET status = 'unknown', used_at = now() - interval '2 minutes'")
    return f"{back}&code=x"


@pytest.mark.slow
@pytest.mark.parametrize("ending", TITLES)
async def test_each_ending_has_a_page_that_looks_right(it: World, chromium: Any, tmp_path: Path, ending: str) -> None:
    async with visiting(chromium) as visit:
        address = await address_of(ending, visit, it)
        visit.complaints.clear()
        await visit.page.goto(address)

        await shown(visit, TITLES[ending], tmp_path / f"{ending}.png")
        links = await visit.page.locator("a").count()
        assert links == (0 if ending in {"app-refused", "return-refused"} else 1)
        if links:
            await visit.page.click("#start-again")
            await visit.page.wait_for_selector("#authorize")


async def test_without_the_database_the_page_says_try_again_and_that_helps(
    it: World, chromium: Any, tmp_path: Path
) -> None:
    async with visiting(chromium) as visit:
        await begin(visit, it)
        async with database_away(it.database_url):
            await visit.page.click("#authorize")
            await shown(visit, "Please try again in a moment", tmp_path / "try-again.png")

        await visit.page.reload()
        assert await visit.page.title() == "Connected"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_fit_a_phone_and_follow_its_colours(it: World, chromium: Any, tmp_path: Path, scheme: str) -> None:
    context = await chromium.new_context(viewport={"width": 360, "height": 640}, color_scheme=scheme)
    visit = Visit(await context.new_page())
    visit.listen()

    await visit.page.goto(f"{it.service_url}/aircall/oauth/callback")

    await shown(visit, TITLES["incomplete"], tmp_path / f"phone-{scheme}.png")
    colour = await visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3])
    assert (brightness > 400) == (scheme == "light")
    await context.close()


@pytest.mark.parametrize("language", ["de", "fr", "es", "pt"])
async def test_pages_fit_a_phone_in_every_language(it: World, chromium: Any, language: str) -> None:
    context = await chromium.new_context(viewport={"width": 390, "height": 640}, locale=language)
    visit = Visit(await context.new_page())
    visit.listen()

    for ending in ("incomplete", "wrong-browser", "app-refused", "unknown"):
        await visit.page.goto(await address_of(ending, visit, it))

        assert await visit.page.evaluate("document.documentElement.lang") == language
        assert await visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    await context.close()


async def test_pages_work_without_javascript(it: World, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium, java_script_enabled=False) as visit:
        await visit.page.goto(f"{it.service_url}/aircall/oauth/install")
        await visit.page.click("#deny")
        await visit.page.click("#start-again")
        await visit.page.click("#authorize")

        await shown(visit, "Connected", tmp_path / "connected.png")


@pytest.mark.slow
async def test_the_documentation_is_drawn_from_our_own_assets(it: World, chromium: Any, tmp_path: Path) -> None:
    async with visiting(chromium) as visit:
        asked: list[str] = []
        visit.page.on("request", lambda request: asked.append(request.url))
        await visit.page.goto(f"{it.service_url}/docs")
        await visit.page.wait_for_selector(".opblock")
        await visit.page.screenshot(path=tmp_path / "docs.png", full_page=True)

        listed = await visit.page.locator(".opblock-summary-path").all_inner_texts()
        paths = {path.replace("\u200b", "") for path in listed}
        assert {"/aircall/oauth/install", "/aircall/oauth/callback", "/aircall/webhook", "/v1/events"} <= paths
        strangers = [url for url in asked if not url.startswith((it.service_url, "data:"))]
        assert strangers == []
        assert visit.complaints == []
