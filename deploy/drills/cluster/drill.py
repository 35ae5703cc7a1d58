"""What the scenes act with: the cluster, the load, `helm` and `kubectl`; and how they tell what they saw."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.api import Api, Object
from cluster.balancer import Balancer
from cluster.control_plane import ControlPlane
from cluster.load import Load
from cluster.node import NAMESPACE, Nodes
from cluster.outside import Outside
from cluster.pod import Pod

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "aircall-oauth"
EXAMPLES = ROOT / "deploy" / "helm" / "values"
MINIMAL = EXAMPLES / "minimal.yaml"
RELEASE = "aircall-oauth"
BEFORE, AFTER = "0.1.0", "0.2.0"
WAIT = "300s"
DELIVERED_SECONDS = 120
SETTLE_SECONDS = 5


class DrillFailed(Exception):
    """A promise does not hold."""


@dataclass
class Drill:
    """What the scenes act on, and what they have found."""

    control_plane: ControlPlane
    nodes: Nodes
    outside: Outside
    balancer: Balancer
    folder: Path
    load: Load
    faults: int = 0

    @property
    def api(self) -> Api:
        return self.control_plane.api

    def tell(self, what: str, value: str) -> None:
        sys.stdout.write(f"{what:58}{value}\n")
        sys.stdout.flush()

    def judge(self, what: str, value: str, *, well: bool) -> None:
        """Tell a figure that has to be right; one that is not fails the drill, which goes on."""
        self.faults += not well
        self.tell(what, value if well else f"{value}   FAILED")

    async def run(self, name: str, *arguments: str | Path) -> str:
        """Run `helm` or `kubectl`. Returns what it printed; raises `DrillFailed`."""
        beside = Path(sys.executable).parent / name
        process = await asyncio.create_subprocess_exec(
            *(str(beside if beside.exists() else name), *map(str, arguments)),
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "KUBECONFIG": str(self.control_plane.kubeconfig),
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await process.communicate()
        if process.returncode != 0:
            raise DrillFailed(f"{name} {arguments[0]}: {complained.decode().strip()[-1500:]}\n{said.decode()[-500:]}")
        return said.decode()

    async def helm(self, verb: str, values: Path, *more: str, wait: str = WAIT) -> None:
        """Install or upgrade with an example of values and this drill's own settings; `more` comes last."""
        own = self.folder / "values.json"
        settings = self.outside.settings()
        own.write_text(json.dumps({"settings": settings, "trustedCertificates": {"configMap": "trusted-certificates"}}))
        where = ["--namespace", NAMESPACE, "--wait", "--timeout", wait]
        await self.run("helm", verb, RELEASE, CHART, *where, "--values", values, "--values", own, *more)

    async def wait_until_empty(self) -> None:
        """Wait until every pod has ended."""
        async with asyncio.timeout(90):
            while self.nodes.pods:
                await asyncio.sleep(0.2)

    def web_pod(self) -> Pod:
        """Return a web pod that runs, to look into it."""
        return next(pod for pod in self.nodes.pods.values() if "-web-" in pod.name and not pod.is_ending)

    async def make(self, kind: str, name: str, texts: dict[str, str]) -> None:
        """Make a Secret or a ConfigMap."""
        field = "stringData" if kind == "secrets" else "data"
        await self.api.post(f"/api/v1/namespaces/{NAMESPACE}/{kind}", {"metadata": {"name": name}, field: texts})

    async def pods(self, component: str) -> list[Object]:
        which = {"labelSelector": f"app.kubernetes.io/component={component}"}
        items: list[Object] = (await self.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods", **which))["items"]
        return items


@asynccontextmanager
async def under_load(drill: Drill, name: str) -> AsyncIterator[None]:
    """Send requests before, meanwhile and after; then say how many failed, and that each one answered 200 is there."""
    load = drill.load
    sent, failed, started = load.sent, load.failed.total(), time.monotonic()
    load.slowest_seconds = 0
    running = asyncio.create_task(load.run())
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        yield
        drill.tell(f"{name}: took", f"{time.monotonic() - began:.1f} s")
        await asyncio.sleep(SETTLE_SECONDS)
    finally:
        load.stop()
        await running
    seconds = time.monotonic() - started
    new, bad = load.sent - sent, load.failed.total() - failed
    told = f"{bad} of {new} ({new / seconds:.0f} per second) {dict(load.failed) if bad else ''}"
    drill.judge(f"{name}: requests failed", told, well=bad == 0)
    drill.tell(f"{name}: slowest answer", f"{load.slowest_seconds * 1000:.0f} ms")
    lost = load.acknowledged - await drill.outside.stored()
    drill.judge(f"{name}: acknowledged and not in the log", str(len(lost)), well=not lost)
    await wait_for_deliveries(drill)
    missing = load.acknowledged - drill.outside.sink.came
    drill.judge(f"{name}: acknowledged and not delivered", str(len(missing)), well=not missing)


async def wait_for_deliveries(drill: Drill) -> None:
    deadline = time.monotonic() + DELIVERED_SECONDS
    while drill.load.acknowledged - drill.outside.sink.came and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def empty_node(drill: Drill, node: str, name: str) -> None:
    """Drain a node within a minute, and let pods back on it."""
    began = time.monotonic()
    options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]
    try:
        await drill.run("kubectl", "drain", node, *options)
    except DrillFailed as failed:
        drill.judge(f"{name}: {node}", str(failed)[-300:], well=False)
    else:
        drill.tell(f"{name}: {node} is empty after", f"{time.monotonic() - began:.1f} s")
    await drill.run("kubectl", "uncordon", node)


async def node_of(drill: Drill, component: str) -> str:
    """Return the node of one pod that is to stay."""
    there = [pod for pod in await drill.pods(component) if "deletionTimestamp" not in pod["metadata"]]
    return str(there[0]["spec"]["nodeName"])


async def wait_for_rollouts(drill: Drill) -> None:
    for component in ("web", "worker"):
        what = ["rollout", "status", f"deployment/{RELEASE}-{component}", f"--timeout={WAIT}"]
        await drill.run("kubectl", "--namespace", NAMESPACE, *what)


def is_ready(pod: Object) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
