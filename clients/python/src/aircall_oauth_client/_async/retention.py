"""How long events are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, cast

from aircall_oauth_client.models import OwnerRetention
from aircall_oauth_client.requests import Request, get, path_of

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient


class AsyncRetention:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> AsyncIterator[OwnerRetention]:
        """Yield the owners whose events are kept by rules of their own."""
        async for one in self._client.pages("/v1/retention"):
            yield cast("OwnerRetention", one)

    async def get(self, owner: str) -> OwnerRetention:
        return cast("OwnerRetention", await self._client.ask(get(path_of("retention", owner))))

    async def set(self, owner: str, rules: Mapping[str, str]) -> OwnerRetention:
        """Replace an owner's rules, such as `{"transcription.*": "7d"}`."""
        asked = Request("PUT", path_of("retention", owner), body={"rules": dict(rules)}, repeatable=True)
        return cast("OwnerRetention", await self._client.ask(asked))

    async def reset(self, owner: str) -> None:
        """Keep an owner's events as long as all others."""
        await self._client.ask(Request("DELETE", path_of("retention", owner), repeatable=True))
