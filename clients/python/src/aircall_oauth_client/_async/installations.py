"""How customers connect, and what is connected."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from aircall_oauth_client import errors
from aircall_oauth_client.models import (
    CheckResult,
    Erasure,
    Installation,
    InstallAttempt,
    InstallLink,
    TokenAnswer,
)
from aircall_oauth_client.requests import Request, get, known, path_of, post

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient


class AsyncInstallLinks:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, owner: str, *, return_to: str | None = None) -> InstallLink:
        """Make a link that the owner's admin opens in a browser, once, within 30 minutes.

        `return_to` must be on the service's list; where it has only one, that is where the browser comes home.
        """
        body = known({"owner": owner, "return_to": return_to})
        return cast("InstallLink", await self._client.ask(post("/v1/install-links", body, repeatable=True)))


class AsyncClaims:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def claim(self, claim: str, owner: str) -> Installation:
        """Give the installation that a browser came home with to the owner who is logged in there.

        Repeat-safe: the same claim of the same owner answers the same, for an hour. Raises `ClaimNotFound`,
        `ClaimOfAnother` and `InstallationHeld`.
        """
        request = post("/v1/claims", {"claim": claim, "owner": owner}, repeatable=True)
        return cast("Installation", await self._client.ask(request))


class AsyncInstallAttempts:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, **filters: Any) -> AsyncIterator[InstallAttempt]:
        """Yield them, newest first. Filters: `owner`, `reference`, `link_id`, `ending`, `since`, `until`."""
        async for one in self._client.pages("/v1/install-attempts", **filters):
            yield cast("InstallAttempt", one)

    async def get(self, attempt_id: str) -> InstallAttempt:
        return cast("InstallAttempt", await self._client.ask(get(path_of("install-attempts", attempt_id))))


class AsyncInstallations:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, *, owner: str | None = None, status: str | None = None) -> AsyncIterator[Installation]:
        """Yield installations, of an owner or in a status."""
        async for one in self._client.pages("/v1/installations", owner=owner, status=status):
            yield cast("Installation", one)

    async def get(self, installation_id: str) -> Installation:
        return cast("Installation", await self._client.ask(get(path_of("installations", installation_id))))

    async def check(self, installation_id: str) -> CheckResult:
        """Check an installation at Aircall now, and mend what can be mended."""
        request = post(path_of("installations", installation_id, "check"), repeatable=True)
        return cast("CheckResult", await self._client.ask(request))

    async def token(self, installation_id: str) -> TokenAnswer:
        """Read the access token in clear. Prefer `client.aircall(…)`, which needs none."""
        return cast("TokenAnswer", await self._client.ask(get(path_of("installations", installation_id, "token"))))

    async def disconnect(self, installation_id: str, *, erase_events: bool = False) -> Erasure | None:
        """End an installation: at Aircall too. `erase_events` erases its events up to now; returns the erasure."""
        params = {"events": "erase"} if erase_events else {}
        request = Request("DELETE", path_of("installations", installation_id), params, repeatable=True)
        return cast("Erasure | None", await self._client.ask(request))

    async def export(self, installation_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield all that is held about an installation: each has a `kind`, and under that name what it holds.

        Raises `ConnectionLost` if the export broke off before its line of kind `end`.
        """
        request = get(path_of("installations", installation_id, "export"))
        held: dict[str, Any] = {"kind": None}
        async with self._client.open(request) as response:
            async for line in response.aiter_lines():
                held = json.loads(line)
                yield held
        if held["kind"] != "end":
            raise errors.ConnectionLost(f"GET {request.path}: ended early")
