"""The console's pages in a real browser: signing in, doing an act, and what must hold for each page."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.browsers import Visit
from tests.support.processes import World
from tests.support.service import run_command

# `AIRCALL_CONSOLE_PICTURE=1` keeps a picture of every page, for those who want to look, and draws the README's anew.
DRAWS = bool(os.environ.get("AIRCALL_CONSOLE_PICTURE"))
# Axe costs most of a page's time: each colour scheme and each width is looked at by it once.
BY_AXE = {("light", "wide"), ("dark", "phone")}
AXE = (Path(__file__).parents[1] / "console" / "vendored" / "axe.min.js").read_text()
CUT = """
    [...document.querySelectorAll("main .scroll")]
        .filter((table) => table.offsetParent && table.scrollWidth > table.clientWidth)
        .map((table) => [table.getAttribute("aria-label"), table.scrollWidth, table.clientWidth])
"""
WIDTHS = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}


@dataclass
class Place:
    """The console of a running service, with two customers."""

    world: World
    address: str

    async def open(self, visit: Visit, *options: str) -> None:
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


async def in_order(visit: Visit, says: str, *, by_axe: bool = True) -> None:
    """The page says what it must, fits, and neither the browser nor axe has a complaint."""
    page = visit.page
    assert says in re.sub(r"\s+", " ", await page.inner_text("main"))
    assert await page.locator("h1").count() == 1
    assert len(await page.inner_text("p.sentence")) > 10
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.url
    # Ids and times are read without scrolling sideways.
    assert await page.evaluate(CUT) == [], page.url
    if by_axe:
        await page.evaluate(AXE)
        found = await page.evaluate("axe.run()")
        told = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found["violations"]]
        assert told == [], page.url
    assert visit.complaints == [], page.url


async def act(visit: Visit, offered: str, button: str, says: str) -> None:
    """Press what a page offers, read what it will do, and do it; then go back."""
    await visit.page.click(f"main >> text={offered}")
    assert len(await visit.page.inner_text("p.sentence")) > 20
    await visit.page.click(f"main >> button >> text={button}")
    assert says in await visit.page.inner_text("main"), await visit.page.inner_text("main")
    await visit.page.click("main >> text=Go back")
