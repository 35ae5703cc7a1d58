"""People whose data are erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from aircall_oauth_client.models import ErasedPositions, Erasure
from aircall_oauth_client.requests import get, path_of, post

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient


class AsyncErasures:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, **person: Any) -> Erasure:
        """Begin to erase a person, by one of `phone`, `email`, `contact_id`, `user_id`, `call_id`.

        `owner` and `installation_id` say in whose events only. A worker carries it out: `get` says how far it is.
        """
        return cast("Erasure", await self._client.ask(post("/v1/erasures", person)))

    async def list(self) -> AsyncIterator[Erasure]:
        """Yield erasures, newest first."""
        async for one in self._client.pages("/v1/erasures"):
            yield cast("Erasure", one)

    async def get(self, erasure_id: str) -> Erasure:
        return cast("Erasure", await self._client.ask(get(path_of("erasures", erasure_id))))

    async def positions(self, erasure_id: str) -> AsyncIterator[int]:
        """Yield the positions of the events that were erased, in order."""
        after: int | None = 0
        while after is not None:
            asked = get(path_of("erasures", erasure_id, "positions"), after=after)
            page = cast("ErasedPositions", await self._client.ask(asked))
            for position in page["positions"]:
                yield position
            after = page["next"]
