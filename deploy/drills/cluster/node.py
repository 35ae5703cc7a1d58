"""Nodes that run the pods bound to them: what kubelet does, as far as this service's pods need it."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from cluster import network, outside
from cluster.api import Api, ApiRefused
from cluster.pod import Pod, Status, Surroundings

BEAT_SECONDS = 10.0
CAPACITY = {"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "20Gi"}
NAMESPACE = "aircall"
PATHS = {"ConfigMap": "configmaps", "Secret": "secrets"}


class Nodes:
    """Several nodes of one program."""

    def __init__(self, api: Api, names: list[str], around: Surroundings) -> None:
        self.pods: dict[str, Pod] = {}
        self._api = api
        self._names = names
        self._addresses = {name: network.addresses(number) for number, name in enumerate(names, start=1)}
        self._around = around
        self._made = 0
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls, api: Api, names: list[str], images: dict[str, Path], folder: Path) -> AsyncIterator["Nodes"]:
        """Register the nodes and run what is bound to them, until the end."""
        logs = folder / "logs"
        logs.mkdir()
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

            async def read(kind: str, name: str) -> dict[str, str] | None:
                return await read_texts(api, kind, name)

            async def tell(pod: dict[str, Any], status: Status) -> None:
                await tell_status(api, pod, status)

            around = Surroundings(read, images, session, folder / "pods", logs, tell, _lend_aircall)
            nodes = cls(api, names, around)
            for number, name in enumerate(names, start=1):
                await api.post("/api/v1/nodes", _node(name, number))
            following = [asyncio.create_task(nodes._follow()), asyncio.create_task(nodes._beat())]
            try:
                yield nodes
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*(pod.kill() for pod in nodes.pods.values()))
                await asyncio.gather(*following, *nodes._tasks, return_exceptions=True)

    async def _beat(self) -> None:
        """Tell that the nodes are well; the controller believes the contrary after 50 seconds of silence."""
        while True:
            for name in self._names:
                await self._api.patch(f"/api/v1/nodes/{name}/status", {"status": _well(name)})
            await asyncio.sleep(BEAT_SECONDS)

    async def _follow(self) -> None:
        async for change, manifest in self._api.follow("/api/v1/pods"):
            node = manifest["spec"].get("nodeName")
            if node in self._names:
                self._take(change, manifest, node)

    def _take(self, change: str, manifest: dict[str, Any], node: str) -> None:
        uid, ends = manifest["metadata"]["uid"], "deletionTimestamp" in manifest["metadata"]
        pod = self.pods.get(uid)
        if change == "DELETED":
            if pod:
                self._begin(pod.kill())
        elif ends and pod and not pod.is_ending:
            self._begin(self._stop(pod, manifest["metadata"].get("deletionGracePeriodSeconds", 30)))
        elif ends and not pod:
            self._begin(self._forget(manifest))
        elif not ends and not pod and manifest["status"].get("phase") not in {"Succeeded", "Failed"}:
            self._made += 1
            self.pods[uid] = Pod(manifest, next(self._addresses[node]), self._made, self._around)
            self._begin(self._run(self.pods[uid]))

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, pod: Pod) -> None:
        uid = pod.manifest["metadata"]["uid"]
        self._running[uid] = asyncio.create_task(pod.run())
        await asyncio.wait([self._running[uid]])
        del self.pods[uid]
        if pod.is_ending:
            await self._forget(pod.manifest)
        # What a cancelled one raised is no fault; any other ends the drill.
        if not self._running[uid].cancelled():
            self._running.pop(uid).result()

    async def _stop(self, pod: Pod, seconds: float) -> None:
        await pod.stop(seconds)
        # One that waits for an image, a Secret or its next start has nothing that could end.
        running = self._running[pod.manifest["metadata"]["uid"]]
        if running in (await asyncio.wait([running], timeout=2))[1]:
            running.cancel()

    async def _forget(self, manifest: dict[str, Any]) -> None:
        """Let the API server drop a pod that has ended."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        which = {"gracePeriodSeconds": 0, "preconditions": {"uid": manifest["metadata"]["uid"]}}
        with suppress(ApiRefused):
            await self._api.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", which)


async def _lend_aircall(namespace: str) -> asyncio.Server:
    listener = await network.listen_inside(namespace, "127.0.0.1", outside.AIRCALL_PORT)
    return await outside.serve_aircall(listener)


async def read_texts(api: Api, kind: str, name: str) -> dict[str, str] | None:
    """Return the texts of a ConfigMap or Secret, or None where there is none."""
    try:
        found = await api.get(f"/api/v1/namespaces/{NAMESPACE}/{PATHS[kind]}/{name}")
    except ApiRefused as refused:
        if refused.status == 404:
            return None
        raise
    texts: dict[str, str] = found.get("data") or {}
    return {key: base64.b64decode(text).decode() for key, text in texts.items()} if kind == "Secret" else texts


async def tell_status(api: Api, pod: dict[str, Any], status: Status) -> None:
    """Write a pod's status, unless it is gone meanwhile, or another one has its name."""
    where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
    try:
        await api.patch(where, {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status})
    except ApiRefused as refused:
        if refused.status not in {404, 409}:
            raise


def _node(name: str, number: int) -> dict[str, Any]:
    labels = {
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": f"zone-{number}",
        "kubernetes.io/os": "linux",
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": _well(name)}


def _well(name: str) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "Drill", "message": name, "lastHeartbeatTime": now}
    return {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready]}
