"""The client: one connection pool and one API key for everything that the service offers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

import httpx

from aircall_oauth_client import errors, requests
from aircall_oauth_client._sync.aircall import Aircall
from aircall_oauth_client._sync.erasures import Erasures
from aircall_oauth_client._sync.events import Events
from aircall_oauth_client._sync.installations import (
    Claims,
    Installations,
    InstallAttempts,
    InstallLinks,
)
from aircall_oauth_client._sync.retention import Retention
from aircall_oauth_client._sync.subscriptions import Subscriptions
from aircall_oauth_client._sync.waiting import sleep
from aircall_oauth_client.models import AuditLine, Installation
from aircall_oauth_client.requests import Request, get, known

# A page of the log may wait for 30 seconds, and an answer of Aircall's for longer.
TIMEOUT = httpx.Timeout(70.0, connect=10.0)
PATIENCE_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Client:
    """Asks the service. Use it as a context manager, or call `close()`.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        requests.require(base_url, api_key)
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            headers={"authorization": f"Bearer {api_key}", "user-agent": "aircall-oauth-client/0.1 (Python)"},
            timeout=timeout,
            transport=transport,
        )
        self._patience = patience
        self.install_links = InstallLinks(self)
        self.install_attempts = InstallAttempts(self)
        self.claims = Claims(self)
        self.installations = Installations(self)
        self.events = Events(self)
        self.subscriptions = Subscriptions(self)
        self.erasures = Erasures(self)
        self.retention = Retention(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def aircall(self, installation: Installation | str) -> Aircall:
        """Return Aircall's Public API as an installation sees it."""
        return Aircall(self, installation if isinstance(installation, str) else installation["id"])

    def audit(self, **filters: Any) -> Iterator[AuditLine]:
        """Yield the lines of the audit, newest first. Filters: `action`, `actor`, `owner`, `since` and so on."""
        for line in self.pages("/v1/audit", **filters):
            yield cast("AuditLine", line)

    def live(self) -> bool:
        """Whether the service's process is up."""
        return self._answers("/livez")

    def ready(self) -> bool:
        """Whether the service can serve requests right now."""
        return self._answers("/readyz")

    def _answers(self, path: str) -> bool:
        try:
            return (self._http.get(path)).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, request: Request) -> Any:
        """Send a request and return the JSON of its answer; raises a `ClientError`."""
        waited, attempt = 0.0, 0
        while True:
            try:
                return requests.answer_of(request, self._send(request))
            except errors.ClientError as error:
                pause = requests.pause_before_again(request, error, attempt)
                if pause is None or waited + pause > self._patience:
                    raise
                if attempt == 0 and isinstance(error, errors.ConnectionLost):
                    logger.warning("%s Trying again for %.0f seconds …", error, self._patience)
            sleep(pause)
            waited, attempt = waited + pause, attempt + 1

    def _send(self, request: Request) -> httpx.Response:
        more: dict[str, Any] = {"params": request.params or None, "headers": request.headers}
        if request.body is not None:
            more["json"] = request.body
        try:
            return self._http.request(request.method, request.path, **more)
        except httpx.TransportError as error:
            raise errors.ConnectionLost(requests.no_answer(request, error)) from error

    def pages(self, path: str, **params: Any) -> Iterator[Any]:
        """Yield the items of every page of a list of the service's."""
        given, cursor = known(params), None
        while True:
            page = self.ask(get(path, **given, cursor=cursor))
            for item in page["items"]:
                yield item
            cursor = page["next"]
            if cursor is None:
                return

    @contextmanager
    def open(self, request: Request) -> Iterator[httpx.Response]:
        """Open a request whose answer is read as it comes; raises a `ClientError`."""
        try:
            with self._http.stream(request.method, request.path, params=request.params or None) as response:
                if response.status_code >= 400:
                    response.read()
                    raise requests.error_of(request, response)
                yield response
        except httpx.TransportError as error:
            raise errors.ConnectionLost(requests.no_answer(request, error)) from error
