"""A Service's way to its pods: connections go to ready endpoints, as kube-proxy sends them."""

import asyncio
import random
from contextlib import suppress
from typing import Any

from tests.support.relay import pass_both_ways

from cluster.api import Api

# kube-proxy writes its rules at most once a second.
LAG_SECONDS = 1.0
CONNECT_SECONDS = 10.0


class Balancer:
    """Each new connection goes to one of the ready endpoints; one that is open stays where it is."""

    def __init__(self) -> None:
        self.fewest = 0
        self._slices: dict[str, dict[str, Any]] = {}
        self._targets: list[tuple[str, int]] = []
        self._chance = random.Random("drill")

    async def follow(self, api: Api, namespace: str, service: str) -> None:
        """Follow the Service's EndpointSlices, until cancelled."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        which = {"labelSelector": f"kubernetes.io/service-name={service}"}
        async for change, each in api.follow(path, **which):
            if change == "DELETED":
                self._slices.pop(each["metadata"]["name"], None)
            else:
                self._slices[each["metadata"]["name"]] = each
            found = ready(list(self._slices.values()))
            asyncio.get_running_loop().call_later(LAG_SECONDS, self._set, found)

    def _set(self, targets: list[tuple[str, int]]) -> None:
        self._targets = targets
        self.fewest = min(self.fewest, len(targets))

    async def listen(self, host: str, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._relay, host, port, backlog=1024)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            if self._targets:
                host, port = self._chance.choice(self._targets)
                async with asyncio.timeout(CONNECT_SECONDS):
                    there = await asyncio.open_connection(host, port)
                await pass_both_ways(reader, writer, *there)
        writer.close()


def ready(slices: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the addresses that new connections go to; where none is ready, those that still serve while they end."""
    found: dict[str, list[tuple[str, int]]] = {"ready": [], "serving": []}
    for each in slices:
        for endpoint in each.get("endpoints") or ():
            for state, addresses in found.items():
                if endpoint["conditions"].get(state):
                    addresses.append((endpoint["addresses"][0], each["ports"][0]["port"]))
    return found["ready"] or found["serving"]
