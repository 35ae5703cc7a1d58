"""The Kubernetes API, as far as a node and a drill need it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

Object = dict[str, Any]
MERGE = "application/strategic-merge-patch+json"
ENDS = 600
LINE_BYTES = 8 * 2**20


class ApiRefused(Exception):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """One client, whose user may do everything."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, authority: Path, token: str) -> AsyncIterator[Self]:
        context = ssl.create_default_context(cafile=str(authority))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        headers = {"authorization": f"Bearer {token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(
            url, connector=connector, headers=headers, timeout=timeout, read_bufsize=LINE_BYTES
        ) as session:
            yield cls(session)

    async def get(self, path: str, **query: str) -> Object:
        return await self._ask("GET", path, query=query)

    async def answers(self, path: str) -> bool:
        """Whether the API server is there, and says 200 to this path."""
        try:
            async with self._session.get(path) as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def post(self, path: str, body: Object) -> Object:
        return await self._ask("POST", path, body)

    async def patch(self, path: str, body: Object) -> Object:
        return await self._ask("PATCH", path, body, kind=MERGE)

    async def delete(self, path: str, body: Object) -> Object:
        return await self._ask("DELETE", path, body)

    async def follow(self, path: str, **query: str) -> AsyncIterator[tuple[str, Object]]:
        """Yield what is there, then each change (`ADDED`, `MODIFIED`, `DELETED`), without end."""
        while True:
            listed = await self.get(path, **query)
            for each in listed["items"]:
                yield "MODIFIED", each
            try:
                async for kind, changed in self._watch(path, listed["metadata"]["resourceVersion"], query):
                    yield kind, changed
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.5)

    async def _watch(self, path: str, version: str, query: dict[str, str]) -> AsyncIterator[tuple[str, Object]]:
        asked = {**query, "watch": "1", "resourceVersion": version, "timeoutSeconds": str(ENDS)}
        async with self._session.get(path, params=asked) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]

    async def _ask(
        self, method: str, path: str, body: Object | None = None, *, kind: str = "application/json", query: Any = None
    ) -> Object:
        content = None if body is None else json.dumps(body)
        headers = {"content-type": kind} if body is not None else {}
        async with self._session.request(method, path, data=content, headers=headers, params=query) as answer:
            told: Object = await answer.json(content_type=None)
        if answer.status >= 400:
            raise ApiRefused(answer.status, str(told.get("message", "")))
        return told
