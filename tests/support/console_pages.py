"""The console's pages in a real browser: signing in, doing an act, and what must hold for each page."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.browsers import Visit
from tests.support.processes import World
from tests.support.service import run_command

# `AIRCALL_CONSOLE_PICTURE=1` keeps a picture of every page, for those who want to look, and draws the README's anew.
DRAWS = bool(os.environ.get("AIRCALL_CONSOLE_PICTURE"))
# A page is loaded once and looked at in each colour scheme and width; by axe, which costs most, in these.
BY_AXE = (("light", "wide"), ("dark", "phone"))
AXE = (Path(__file__).parents[1] / "console" / "vendored" / "axe.min.js").read_text()
# Only what is wrong comes back: all that is right would be megabytes.
VIOLATIONS = """
    axe.run({ resultTypes: ["violations"] }).then((found) =>
        found.violations.map((each) => [each.id, each.nodes.slice(0, 3).map((node) => node.html)]))
"""
# What must hold of a page, asked at once. A table is cut if it has to be scrolled sideways.
LOOK = """() => ({
    says: document.querySelector("main").innerText,
    headings: document.querySelectorAll("h1").length,
    sentence: document.querySelector("p.sentence").innerText,
    fits: document.documentElement.scrollWidth <= window.innerWidth,
    cut: [...document.querySelectorAll("main .scroll")]
        .filter((table) => table.offsetParent && table.scrollWidth > table.clientWidth)
        .map((table) => [table.getAttribute("aria-label"), table.scrollWidth, table.clientWidth]),
    background: getComputedStyle(document.body).backgroundColor,
})"""
WIDTHS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
LOOKS = tuple((scheme, width) for scheme in ("light", "dark") for width in WIDTHS)


@dataclass
class Place:
    """The console of a running service, with two customers."""

    world: World
    address: str
    cookies: list[Any] = field(default_factory=list)

    async def open(self, visit: Visit) -> None:
        """Sign a browser in: by the cookie of an earlier visit, as long as its session lasts."""
        if self.cookies:
            await visit.page.context.add_cookies(self.cookies)
            await visit.page.goto(self.address)
        if visit.page.url != f"{self.address}/":
            await self.sign_in(visit)
            self.cookies = await visit.page.context.cookies()

    async def sign_in(self, visit: Visit, *options: str) -> None:
        """Sign a browser in with a link of the command line."""
        made = await run_command("console", "open", "--as", "anna", *options, environment=self.world.environment)
        assert made.exit_code == 0, made.stderr
        await visit.page.goto(made.stdout.strip())
        assert visit.page.url == f"{self.address}/"

    async def customer(self, company: int = 70077) -> str:
        (row,) = await self.world.sql("SELECT id FROM installation WHERE company_id = $1", company)
        installation_id: str = row["id"]
        return installation_id

    async def attempt(self) -> str:
        rows = await self.world.sql("SELECT reference FROM install_attempt ORDER BY id LIMIT 1")
        reference: str = rows[0]["reference"]
        return reference

    async def pages(self) -> dict[str, str]:
        """Every page by the sentence or the heading that it must show."""
        customer = f"/customers/{await self.customer()}"
        return {
            "/": "Is it well?",
            "/customers": "2 customers are known",
            customer: "Northwind Demo Ltd",
            f"{customer}/check": "Check Northwind Demo Ltd now",
            f"{customer}/link": "Make an install link",
            f"{customer}/rotate": "Rotate the webhook",
            f"{customer}/backfill": "Back-fill a window",
            f"{customer}/disconnect": "This ends the installation for good",
            "/links/new": "Make an install link",
            "/attempts": "attempts within a week",
            f"/attempts/{await self.attempt()}": "Step by step",
            "/audit": "of what people and systems did",
            "/keys": "API key",
            "/keys/new": "Make an API key",
            "/vault": "Every secret is sealed under the key k1",
            "/vault/rotate": "Seal everything under the first key",
            "/sessions": "signed in",
            "/search?q=demo": "2 things are called",
            "/search?q=nothing": "Nothing is called",
            "/zone": "Choose the zone",
            "/nothing": "There is no such page",
            "/sessions?x=1": "there is no such parameter here",
        }


async def in_order(
    visit: Visit, says: str, *, by_axe: Sequence[tuple[str, str]] = BY_AXE, picture: Path | None = None
) -> None:
    """The page says what it must, fits, and neither the browser nor axe has a complaint: light, dark, wide, narrow."""
    page = visit.page
    await page.evaluate(AXE)
    for scheme, width in LOOKS:
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size(WIDTHS[width])
        seen, where = await page.evaluate(LOOK), (page.url, scheme, width)
        assert says in re.sub(r"\s+", " ", seen["says"]), where
        assert seen["headings"] == 1, where
        assert len(seen["sentence"]) > 10, where
        assert seen["fits"], where
        # Ids and times are read without scrolling sideways.
        assert seen["cut"] == [], where
        brightness = sum(int(part) for part in re.findall(r"\d+", seen["background"])[:3])
        assert (brightness > 400) == (scheme == "light"), where
        if DRAWS and picture is not None:
            await page.screenshot(path=f"{picture}-{scheme}-{width}.png", full_page=True)
        if (scheme, width) in by_axe:
            assert await page.evaluate(VIOLATIONS) == [], where
    assert visit.complaints == [], page.url


async def act(visit: Visit, offered: str, button: str, says: str) -> None:
    """Press what a page offers, read what it will do, and do it; then go back."""
    await visit.page.click(f"main >> text={offered}")
    assert len(await visit.page.inner_text("p.sentence")) > 20
    await visit.page.click(f"main >> button >> text={button}")
    assert says in await visit.page.inner_text("main"), await visit.page.inner_text("main")
    await visit.page.click("main >> text=Go back")
