"""The scenes of the drill: each does what a platform's engineer would do, and fails where a promise does not hold."""

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster import components
from cluster.api import Api, Object
from cluster.balancer import Balancer
from cluster.control_plane import ControlPlane
from cluster.load import Load
from cluster.node import NAMESPACE, Nodes
from cluster.outside import PUBLIC_URL, SINK_URL, Outside

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "aircall-oauth"
EXAMPLES = ROOT / "deploy" / "helm" / "values"
KUSTOMIZATIONS = (ROOT / "deploy/kubernetes/base", ROOT / "deploy/kubernetes/overlays/example")
RELEASE = "aircall-oauth"
BEFORE, AFTER = "0.1.0", "0.2.0"
WAIT = "300s"
DELIVERED_SECONDS = 120
SETTLE_SECONDS = 5
SCOPES = "installations:read,events:read,subscriptions:read,subscriptions:write"


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

    async def helm(self, verb: str, values: Path, *more: str) -> None:
        own = self.folder / "values.json"
        settings = self.outside.settings()
        own.write_text(json.dumps({"settings": settings, "trustedCertificates": {"configMap": "trusted-certificates"}}))
        where = ["--namespace", NAMESPACE, "--wait", "--timeout", WAIT]
        await self.run("helm", verb, RELEASE, CHART, *where, "--values", values, "--values", own, *more)

    async def pods(self, component: str) -> list[Object]:
        which = {"labelSelector": f"app.kubernetes.io/component={component}"}
        items: list[Object] = (await self.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods", **which))["items"]
        return items


async def prepare(drill: Drill) -> None:
    """Make what a platform has before the service comes: the namespace, its secrets, the kinds of other products."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    await drill.api.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    secret = {name: base64.b64encode(text.encode()).decode() for name, text in drill.outside.secrets.items()}
    await _make(drill, "secrets", {"metadata": {"name": "aircall-oauth"}, "data": secret})
    authority = {"ca-certificates.crt": drill.outside.authority.certificate.read_text()}
    await _make(drill, "configmaps", {"metadata": {"name": "trusted-certificates"}, "data": authority})
    definitions = components.folder() / "definitions"
    await drill.run("kubectl", "apply", "--server-side", "--filename", definitions)
    await drill.run("kubectl", "wait", "--for=condition=established", "--timeout=60s", "--filename", definitions)


async def _make(drill: Drill, kind: str, body: Object) -> None:
    await drill.api.post(f"/api/v1/namespaces/{NAMESPACE}/{kind}", body)


async def dry_run(drill: Drill) -> None:
    """Let the API server judge every example of values, and both kustomizations; nothing is made."""
    for values in sorted(EXAMPLES.glob("*.yaml")):
        text = await drill.run("helm", "template", RELEASE, CHART, "--namespace", NAMESPACE, "--values", values)
        await _judge_objects(drill, f"dry run: helm, {values.stem}", text)
    for place in KUSTOMIZATIONS:
        text = await drill.run("kubectl", "kustomize", place)
        await _judge_objects(drill, f"dry run: kustomize, {place.name}", text)


async def _judge_objects(drill: Drill, what: str, text: str) -> None:
    file = drill.folder / "rendered.yaml"
    file.write_text(text)
    strictly = ["--server-side", "--dry-run=server", "--validate=strict", "--namespace", NAMESPACE]
    try:
        said = await drill.run("kubectl", "apply", *strictly, "--filename", file)
    except DrillFailed as failed:
        drill.judge(what, str(failed), well=False)
    else:
        drill.tell(what, f"{len(said.splitlines())} objects accepted")


async def install(drill: Drill) -> None:
    """`helm install` with the minimal values, until every pod is ready, and one event goes all the way."""
    began = time.monotonic()
    await drill.helm("install", EXAMPLES / "minimal.yaml")
    drill.tell("install: helm waited until all was ready", f"{time.monotonic() - began:.1f} s")
    job = await drill.api.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/aircall-oauth-migrate")
    drill.judge("install: the migration's hook", f"{job['status'].get('succeeded', 0)} succeeded", well=True)
    for component in ("web", "worker"):
        pods = await drill.pods(component)
        restarts = sum(each["restartCount"] for pod in pods for each in pod["status"]["containerStatuses"])
        nodes = len({pod["spec"]["nodeName"] for pod in pods})
        drill.judge(f"install: {component}", f"{len(pods)} on {nodes} nodes, {restarts} restarts", well=restarts == 0)
    await asyncio.sleep(2)
    await _go_all_the_way(drill)


async def _go_all_the_way(drill: Drill) -> None:
    await asyncio.to_thread(drill.outside.connect)
    key = await _make_key(drill)
    await asyncio.to_thread(_subscribe, key)
    drill.load.token = drill.outside.webhook_token()
    began = time.monotonic()
    await drill.load.send_one()
    await _wait_for_deliveries(drill)
    drill.judge("install: an event, to the subscription's destination", f"{time.monotonic() - began:.2f} s", well=True)


async def _make_key(drill: Drill) -> str:
    """Make an API key in a web pod, as `kubectl exec` would."""
    web = next(pod for pod in drill.nodes.pods.values() if "-web-" in pod.name)
    code, said = await web.container().run(["aircall-oauth", "keys", "create", "--name", "drill", "--scopes", SCOPES])
    if code != 0:
        raise DrillFailed(f"keys create: {said}")
    return said.strip().splitlines()[-1]


def _subscribe(key: str) -> None:
    wanted = {"name": "drill", "kind": "http", "url": SINK_URL, "types": ["call.*"]}
    headers = {"authorization": f"Bearer {key}"}
    made = httpx.post(f"{PUBLIC_URL}/v1/subscriptions", json=wanted, headers=headers, trust_env=False)
    if made.status_code != 201:
        raise DrillFailed(f"a subscription is answered {made.status_code}: {made.text}")


async def upgrade(drill: Drill) -> None:
    """The next version and a changed setting: every pod is replaced, after the migration."""
    async with _under_load(drill, "upgrade"):
        before = await drill.outside.schema()
        changed = f"image.tag={AFTER},settings.DELIVERIES_AT_ONCE=32"
        await drill.helm("upgrade", EXAMPLES / "minimal.yaml", "--set", changed)
        drill.tell("upgrade: the schema's version", f"{before}, then {await drill.outside.schema()}")


async def rollback(drill: Drill) -> None:
    """Back to the version before, on the newer schema."""
    async with _under_load(drill, "rollback"):
        where = ["--namespace", NAMESPACE, "--wait", "--timeout", WAIT]
        await drill.run("helm", "rollback", RELEASE, "1", *where)


async def drain(drill: Drill) -> None:
    """Empty the node of a web pod and of the worker, one after the other."""
    async with _under_load(drill, "drain"):
        nodes = {await _node_of(drill, component) for component in ("web", "worker")}
        for node in sorted(nodes):
            began = time.monotonic()
            options = ["--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={WAIT}"]
            await drill.run("kubectl", "drain", node, *options)
            drill.tell(f"drain: {node} is empty after", f"{time.monotonic() - began:.1f} s")
            for component in ("web", "worker"):
                deployment = f"deployment/{RELEASE}-{component}"
                await drill.run(
                    "kubectl", "--namespace", NAMESPACE, "rollout", "status", deployment, f"--timeout={WAIT}"
                )
            await drill.run("kubectl", "uncordon", node)


async def drain_unwell(drill: Drill) -> None:
    """Empty nodes where no pod can be spared: the only web pod, and pods that are not ready without their database."""
    await drill.helm("upgrade", EXAMPLES / "minimal.yaml", "--set", f"image.tag={AFTER},web.replicas=1")
    await _empty(drill, await _node_of(drill, "web"), "drain, one web pod")
    await _wait_for_rollouts(drill)
    await asyncio.to_thread(drill.outside.postgres.stop)
    while any(_is_ready(pod) for pod in await drill.pods("web")):
        await asyncio.sleep(0.5)
    await _empty(drill, await _node_of(drill, "web"), "drain, no database")
    await asyncio.to_thread(drill.outside.postgres.restart)
    began = time.monotonic()
    await _wait_for_rollouts(drill)
    drill.tell("drain, no database: ready, once it is back, after", f"{time.monotonic() - began:.1f} s")


async def _node_of(drill: Drill, component: str) -> str:
    """Return the node of one pod that is to stay."""
    there = [pod for pod in await drill.pods(component) if "deletionTimestamp" not in pod["metadata"]]
    return str(there[0]["spec"]["nodeName"])


async def _empty(drill: Drill, node: str, name: str) -> None:
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


async def _wait_for_rollouts(drill: Drill) -> None:
    for component in ("web", "worker"):
        what = ["rollout", "status", f"deployment/{RELEASE}-{component}", f"--timeout={WAIT}"]
        await drill.run("kubectl", "--namespace", NAMESPACE, *what)


@asynccontextmanager
async def _under_load(drill: Drill, name: str) -> AsyncIterator[None]:
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
    await _wait_for_deliveries(drill)
    missing = load.acknowledged - drill.outside.sink.came
    drill.judge(f"{name}: acknowledged and not delivered", str(len(missing)), well=not missing)


async def _wait_for_deliveries(drill: Drill) -> None:
    deadline = time.monotonic() + DELIVERED_SECONDS
    while drill.load.acknowledged - drill.outside.sink.came and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


async def highly_available(drill: Drill) -> None:
    """From two web pods to the highly available values: three by the autoscaler, over the nodes."""
    await drill.helm("upgrade", EXAMPLES / "minimal.yaml", "--set", f"image.tag={AFTER}")
    await _wait_for_rollouts(drill)
    drill.balancer.fewest = 10**6
    async with _under_load(drill, "highly available"):
        await drill.helm("upgrade", EXAMPLES / "highly-available.yaml", "--set", f"image.tag={AFTER}")
        await _wait_for_web(drill, 3)
    pods = [pod for pod in await drill.pods("web") if _is_ready(pod)]
    spread = {pod["spec"]["nodeName"] for pod in pods}
    drill.judge("highly available: ready web pods", f"{len(pods)} on {len(spread)} nodes", well=len(pods) == 3)
    drill.judge("highly available: ready at the same time, at least", str(drill.balancer.fewest), well=True)


async def _wait_for_web(drill: Drill, number: int) -> None:
    """Wait until so many web pods are there and ready, and no other one is left."""
    async with asyncio.timeout(120):
        while [_is_ready(pod) for pod in await drill.pods("web")] != [True] * number:
            await asyncio.sleep(1)


def _is_ready(pod: Object) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


async def uninstall(drill: Drill) -> None:
    """`helm uninstall`, until no pod is left."""
    began = time.monotonic()
    await drill.run("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", WAIT)
    async with asyncio.timeout(90):
        while any("-migrate-" not in pod.name for pod in drill.nodes.pods.values()):
            await asyncio.sleep(0.5)
    drill.tell("uninstall: every pod has ended after", f"{time.monotonic() - began:.1f} s")


SCENES = {
    "dry-run": dry_run,
    "install": install,
    "upgrade": upgrade,
    "rollback": rollback,
    "drain": drain,
    "drain-unwell": drain_unwell,
    "highly-available": highly_available,
    "uninstall": uninstall,
}
