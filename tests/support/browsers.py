"""A real browser for tests: each visit is a browser of its own that notes what it complains about."""

import importlib
import importlib.util
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.tools import CI_GROUP, miss

# As root, in a container, with nothing but loopback.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Visit:
    """A page in a browser of its own, and whatever it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("console", self._note)

    def _note_failure(self, request: Any) -> None:
        # Who leaves a page gives up on what it asks for by itself: its icon, and what keeps it up to date.
        by_itself = request.resource_type in {"fetch", "xhr"} or "/assets/icon-" in request.url
        if not (by_itself and request.failure == "net::ERR_ABORTED"):
            self.complaints.append(f"failed: {request.url} ({request.failure})")

    def _note(self, message: Any) -> None:
        # A page that says 4xx or 5xx is told as an error too; that is its status, not its fault.
        own_status = "Failed to load resource" in message.text and message.location["url"] == self.page.url
        if message.type in {"error", "warning"} and not own_status:
            self.complaints.append(message.text)


@asynccontextmanager
async def launched() -> AsyncIterator[Any]:
    """Chromium, driven by playwright: where one of them is missing, a test fails in CI and skips elsewhere."""
    # The first has no window to draw: half the processor time.
    executable = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if executable is None:
        miss("chromium is not installed")
    if importlib.util.find_spec("playwright") is None:
        miss(f"playwright is not installed (it is in {CI_GROUP})")
    playwright = importlib.import_module("playwright.async_api")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        await browser.close()


@asynccontextmanager
async def visiting(chromium: Any, **options: Any) -> AsyncIterator[Visit]:
    context = await chromium.new_context(**({"viewport": {"width": 900, "height": 600}} | options))
    visit = Visit(await context.new_page())
    visit.listen()
    yield visit
    await context.close()
