"""Probes of a container: asked by HTTP, counted as the manifest says."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass
class Count:
    """Successes and failures in a row; turns only when enough of them came."""

    success_threshold: int
    failure_threshold: int
    in_a_row: int = 0
    last: bool | None = None

    @classmethod
    def of(cls, probe: dict[str, Any]) -> "Count":
        return cls(probe.get("successThreshold", 1), probe.get("failureThreshold", 3))

    def add(self, succeeded: bool) -> bool | None:
        """Count an answer. Returns what is certain now, or None while it is not."""
        self.in_a_row = self.in_a_row + 1 if succeeded is self.last else 1
        self.last = succeeded
        enough = self.success_threshold if succeeded else self.failure_threshold
        return succeeded if self.in_a_row >= enough else None


async def asked(
    session: aiohttp.ClientSession, probe: dict[str, Any], container: dict[str, Any], address: str
) -> AsyncIterator[bool]:
    """Ask again and again, one period apart. Yields each time that it turned certain, either way."""
    count = Count.of(probe)
    url = url_of(probe, container, address)
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    while True:
        certain = count.add(await _succeeds(session, url, probe.get("timeoutSeconds", 1)))
        if certain is not None:
            yield certain
        await asyncio.sleep(probe.get("periodSeconds", 10))


def url_of(probe: dict[str, Any], container: dict[str, Any], address: str) -> str:
    """Return the address that is asked; a port may be named."""
    how = probe["httpGet"]
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
    return (
        f"{how.get('scheme', 'HTTP').lower()}://{address}:{ports.get(how['port'], how['port'])}{how.get('path', '/')}"
    )


async def _succeeds(session: aiohttp.ClientSession, url: str, seconds: float) -> bool:
    headers = {"connection": "close", "user-agent": "kube-probe/1.37"}
    try:
        async with asyncio.timeout(seconds), session.get(url, headers=headers) as answer:
            return 200 <= answer.status < 400
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
