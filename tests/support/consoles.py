"""The console in this process, as people with and without a session meet it."""

import html
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aircall_oauth.access.scopes import Scope
from aircall_oauth.console import once, sessions
from aircall_oauth.console.visitors import SCOPES
from aircall_oauth.server.console_port import console_app
from tests.support.service import Service

ADDRESS = "https://localhost"
LOOKING = (Scope.CONSOLE_READ,)


FORM_TOKEN = re.compile(r'name="form_token" value="([0-9a-f.]+)"')


ANY_WINDOW = {"since": "2020-01-01T00:00", "until": "2999-01-01T00:00"}


class Browser(httpx.AsyncClient):
    """A browser that sends a form as a page has it: where a test has no token, that of the page which asks again."""

    async def post(self, url: Any, **options: Any) -> httpx.Response:
        answer = await super().post(url, **options)
        form = options.pop("data", None) or {}
        if answer.status_code != 422 or once.FIELD in form or "content" in options:
            return answer
        tokens = FORM_TOKEN.findall(answer.text)
        if not tokens and str(url).endswith("/replay"):
            # It is counted again first, which any window will do for.
            tokens = FORM_TOKEN.findall((await self.get(url, params=ANY_WINDOW)).text)
        (token,) = tokens or [None]
        return answer if token is None else await super().post(url, data={**form, once.FIELD: token}, **options)


class Console:
    """The console over a service's resources; each visitor is a browser of its own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = console_app(service.resources)

    def stranger(self, *, address: str = "192.0.2.7", **headers: str) -> Browser:
        """A browser without a session, at an address; it says of its forms that they are the console's own."""
        transport = httpx.ASGITransport(self.app, client=(address, 40000), raise_app_exceptions=False)
        said = {"sec-fetch-site": "same-origin", **headers}
        return Browser(transport=transport, base_url=ADDRESS, headers=said)

    async def link(self, person: str = "anna", scopes: Sequence[Scope] = SCOPES) -> str:
        """A one-time link's path."""
        return f"/sign-in/link/{await sessions.make_link(self.service.resources, person=person, scopes=scopes)}"

    async def visitor(self, person: str = "anna", scopes: Sequence[Scope] = SCOPES) -> Browser:
        """A browser that has signed in with a link."""
        browser = self.stranger()
        answer = await browser.get(await self.link(person, scopes), follow_redirects=True)
        assert answer.status_code == 200, answer.text
        return browser


@asynccontextmanager
async def visiting(service: Service, person: str = "anna") -> AsyncIterator[Browser]:
    async with await Console(service).visitor(person) as browser:
        yield browser


def words(page: httpx.Response) -> str:
    """The text of a page, without its tags and with single spaces."""
    body = page.text.partition("<main")[2].partition("</main>")[0]
    return html.unescape(" ".join(re.sub(r"<[^>]+>", " ", f"<{body}").split()))
