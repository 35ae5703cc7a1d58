"""The hostile tenant, as the campaign sees it: it comes and goes."""

import os
from contextlib import suppress

import httpx

from aircall_oauth.sandbox.ports import free_port
from tests.crash.processes import Fleet
from tests.support.processes import Process, a_client, eventually
from tests.support.receivers import subscription_body

PATHS = ("continue", "continue/2", "huge")
GONE_SECONDS = 30.0


class Hostile:
    """The hostile tenant, which comes and goes: a process, and subscriptions made with an API key of its own."""

    def __init__(self, it: Fleet, key: dict[str, str]) -> None:
        self._fleet = it
        self._key = key
        self._process: Process | None = None

    async def come(self) -> None:
        if self._process is not None:
            return
        port = free_port()
        environment = {"PATH": os.environ["PATH"]}
        log = self._fleet.folder / "hostile.log"
        self._process = await Process.start(
            "hostile", "tests.crash.hostile", str(port), self._fleet.url, environment=environment, log=log
        )
        async with a_client(self._fleet.url, headers=self._key) as client:
            for path in PATHS:
                body = subscription_body(f"http://127.0.0.1:{port}/{path}", name=path)
                with suppress(httpx.HTTPError):
                    await client.post("/v1/subscriptions", json=body)

    async def go(self) -> None:
        if self._process is None:
            return
        with suppress(TimeoutError):
            await eventually(self._unsubscribe, GONE_SECONDS)
        await self._process.close()
        self._process = None

    async def close(self) -> None:
        if self._process is not None:
            await self._process.close()

    async def _unsubscribe(self) -> bool:
        """Whether none is left."""
        with suppress(httpx.HTTPError, KeyError, ValueError):
            async with a_client(self._fleet.url, headers=self._key) as client:
                items = (await client.get("/v1/subscriptions")).json()["items"]
                for item in items:
                    await client.delete(f"/v1/subscriptions/{item['id']}")
                return not items
        return False
