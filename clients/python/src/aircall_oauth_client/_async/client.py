"""The client: one connection pool and one API key for everything that the service offers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, cast

import httpx

from aircall_oauth_client import errors, requests
from aircall_oauth_client._async.aircall import AsyncAircall
from aircall_oauth_client._async.erasures import AsyncErasures
from aircall_oauth_client._async.events import AsyncEvents
from aircall_oauth_client._async.installations import (
    AsyncClaims,
    AsyncInstallations,
    AsyncInstallAttempts,
    AsyncInstallLinks,
)
from aircall_oauth_client._async.retention import AsyncRetention
from aircall_oauth_client._async.subscriptions import AsyncSubscriptions
from aircall_oauth_client._async.waiting import sleep
from aircall_oauth_client.models import AuditLine, Installation
from aircall_oauth_client.requests import Request, get, known

# A page of the log may wait for 30 seconds, and an answer of Aircall's for longer.
TIMEOUT = httpx.Timeout(70.0, connect=10.0)
PATIENCE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class AsyncClient:
    """Asks the service. Use it as a context manager, or call `aclose()`.

    A request that may be repeated is sent again where the connection broke or the service asks for it, and
    `Retry-After` is obeyed, for `patience` seconds in all; then the error is raised. `transport` is for tests.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        patience: float = PATIENCE_SECONDS,
        timeout: httpx.Timeout | float = TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        requests.require(base_url, api_key)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/"),
            headers={"authorization": f"Bearer {api_key}", "user-agent": "aircall-oauth-client/0.1 (Python)"},
            timeout=timeout,
            transport=transport,
        )
        self._patience = patience
        self.install_links = AsyncInstallLinks(self)
        self.install_attempts = AsyncInstallAttempts(self)
        self.claims = AsyncClaims(self)
        self.installations = AsyncInstallations(self)
        self.events = AsyncEvents(self)
        self.subscriptions = AsyncSubscriptions(self)
        self.erasures = AsyncErasures(self)
        self.retention = AsyncRetention(self)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def aircall(self, installation: Installation | str) -> AsyncAircall:
        """Return Aircall's Public API as an installation sees it."""
        return AsyncAircall(self, installation if isinstance(installation, str) else installation["id"])

    async def audit(self, **filters: Any) -> AsyncIterator[AuditLine]:
        """Yield the lines of the audit, newest first. Filters: `action`, `actor`, `owner`, `since` and so on."""
        async for line in self.pages("/v1/audit", **filters):
            yield cast("AuditLine", line)

    async def live(self) -> bool:
        """Whether the service's process is up."""
        return await self._answers("/livez")

    async def ready(self) -> bool:
        """Whether the service can serve requests right now."""
        return await self._answers("/readyz")

    async def _answers(self, path: str) -> bool:
        try:
            return (await self._http.get(path)).status_code == 200
        except httpx.TransportError:
            return False

    async def ask(self, request: Request) -> Any:
        """Send a request and return the JSON of its answer; raises a `ClientError`."""
        waited, attempt = 0.0, 0
        while True:
            try:
                return requests.answer_of(request, await self._send(request))
            except errors.ClientError as error:
                pause = requests.pause_before_again(request, error, attempt)
                if pause is None or waited + pause > self._patience:
                    raise
                if attempt == 0 and isinstance(error, errors.ConnectionLost):
                    logger.warning("%s Trying again for %.0f seconds …", error, self._patience)
            await sleep(pause)
            waited, attempt = waited + pause, attempt + 1

    async def _send(self, request: Request) -> httpx.Response:
        more: dict[str, Any] = {"params": request.params or None, "headers": request.headers}
        if request.body is not None:
            more["json"] = request.body
        try:
            return await self._http.request(request.method, request.path, **more)
        except httpx.TransportError as error:
            raise errors.ConnectionLost(requests.no_answer(request, error)) from error

    async def pages(self, path: str, **params: Any) -> AsyncIterator[Any]:
        """Yield the items of every page of a list of the service's."""
        given, cursor = known(params), None
        while True:
            page = await self.ask(get(path, **given, cursor=cursor))
            for item in page["items"]:
                yield item
            cursor = page["next"]
            if cursor is None:
                return

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[httpx.Response]:
        """Open a request whose answer is read as it comes; raises a `ClientError`."""
        try:
            async with self._http.stream(request.method, request.path, params=request.params or None) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise requests.error_of(request, response)
                yield response
        except httpx.TransportError as error:
            raise errors.ConnectionLost(requests.no_answer(request, error)) from error
