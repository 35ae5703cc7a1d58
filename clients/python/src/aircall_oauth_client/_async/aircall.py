"""Aircall's Public API, asked as an installation: the service puts the token in and keeps within Aircall's limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from aircall_oauth_client.requests import items_of, next_page, to_aircall

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient


class AsyncAnswer:
    """An answer of Aircall's. `data` is its JSON; iterating yields the items of a list, of every page."""

    def __init__(self, aircall: AsyncAircall, path: str, params: Mapping[str, Any], data: Any) -> None:
        self._aircall, self._path, self._params = aircall, path, params
        self.data = data

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    async def __aiter__(self) -> AsyncIterator[Any]:
        data, params = self.data, self._params
        while True:
            for item in items_of(data):
                yield item
            following = next_page(data, params)
            if following is None or following == params:
                return
            params = following
            data = (await self._aircall.get(self._path, **params)).data


class AsyncAircall:
    """One installation's Aircall. A path is Aircall's: `calls`, `users/42`; a query may be given as keywords.

    Aircall's own errors are `AircallError`; those of the service have a `code`. 429 is waited for.
    """

    def __init__(self, client: AsyncClient, installation_id: str) -> None:
        self._client, self.installation_id = client, installation_id

    async def get(self, path: str, **params: Any) -> AsyncAnswer:
        """Read. Iterate over the answer to follow the pages of a list."""
        return AsyncAnswer(self, path, params, await self.ask("GET", path, params))

    async def post(self, path: str, body: Any = None, **params: Any) -> Any:
        return await self.ask("POST", path, params, body)

    async def put(self, path: str, body: Any = None, **params: Any) -> Any:
        return await self.ask("PUT", path, params, body)

    async def patch(self, path: str, body: Any = None, **params: Any) -> Any:
        return await self.ask("PATCH", path, params, body)

    async def delete(self, path: str, body: Any = None, **params: Any) -> Any:
        return await self.ask("DELETE", path, params, body)

    async def ask(self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """Send any method; returns the JSON of the answer, or its text."""
        return await self._client.ask(to_aircall(self.installation_id, method, path, params or {}, body))
