"""The scenes of the drill: each does what a platform's engineer would do, and fails where a promise does not hold."""

import asyncio
import time

import httpx

from cluster import components
from cluster.drill import (
    AFTER,
    CHART,
    EXAMPLES,
    MINIMAL,
    RELEASE,
    ROOT,
    WAIT,
    Drill,
    DrillFailed,
    is_ready,
    node_of,
    under_load,
    wait_for_deliveries,
    wait_for_rollouts,
)
from cluster.node import NAMESPACE
from cluster.outside import PUBLIC_URL, SINK_URL

KUSTOMIZATIONS = (ROOT / "deploy/kubernetes/base", ROOT / "deploy/kubernetes/overlays/example")
SCOPES = "installations:read,events:read,subscriptions:read,subscriptions:write"


async def prepare(drill: Drill) -> None:
    """Make what a platform has before the service comes: the namespace, its secrets, the kinds of other products."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    await drill.api.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    await drill.make("secrets", "aircall-oauth", drill.outside.secrets)
    authority = {"ca-certificates.crt": drill.outside.authority.certificate.read_text()}
    await drill.make("configmaps", "trusted-certificates", authority)
    definitions = components.folder() / "definitions"
    await drill.run("kubectl", "apply", "--server-side", "--filename", definitions)
    await drill.run("kubectl", "wait", "--for=condition=established", "--timeout=60s", "--filename", definitions)


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
    await drill.helm("install", MINIMAL)
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
    await wait_for_deliveries(drill)
    drill.judge("install: an event, to the subscription's destination", f"{time.monotonic() - began:.2f} s", well=True)


async def _make_key(drill: Drill) -> str:
    """Make an API key in a web pod, as `kubectl exec` would."""
    code, said = (
        await drill.web_pod()
        .container()
        .run(["aircall-oauth", "keys", "create", "--name", "drill", "--scopes", SCOPES])
    )
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
    async with under_load(drill, "upgrade"):
        before = await drill.outside.schema()
        changed = f"image.tag={AFTER},settings.DELIVERIES_AT_ONCE=32"
        await drill.helm("upgrade", MINIMAL, "--set", changed)
        drill.tell("upgrade: the schema's version", f"{before}, then {await drill.outside.schema()}")


async def rollback(drill: Drill) -> None:
    """Back to the version before, on the newer schema."""
    async with under_load(drill, "rollback"):
        where = ["--namespace", NAMESPACE, "--wait", "--timeout", WAIT]
        await drill.run("helm", "rollback", RELEASE, "1", *where)


async def drain(drill: Drill) -> None:
    """Empty the node of a web pod and of the worker, one after the other."""
    async with under_load(drill, "drain"):
        nodes = {await node_of(drill, component) for component in ("web", "worker")}
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


async def highly_available(drill: Drill) -> None:
    """From two web pods to the highly available values: three by the autoscaler, over the nodes."""
    await drill.helm("upgrade", MINIMAL, "--set", f"image.tag={AFTER}")
    await wait_for_rollouts(drill)
    drill.balancer.fewest = 10**6
    async with under_load(drill, "highly available"):
        await drill.helm("upgrade", EXAMPLES / "highly-available.yaml", "--set", f"image.tag={AFTER}")
        await _wait_for_web(drill, 3)
    pods = [pod for pod in await drill.pods("web") if is_ready(pod)]
    spread = {pod["spec"]["nodeName"] for pod in pods}
    drill.judge("highly available: ready web pods", f"{len(pods)} on {len(spread)} nodes", well=len(pods) == 3)
    drill.judge("highly available: ready at the same time, at least", str(drill.balancer.fewest), well=True)


async def _wait_for_web(drill: Drill, number: int) -> None:
    """Wait until so many web pods are there and ready, and no other one is left."""
    async with asyncio.timeout(120):
        while [is_ready(pod) for pod in await drill.pods("web")] != [True] * number:
            await asyncio.sleep(1)


async def uninstall(drill: Drill) -> None:
    """`helm uninstall`, until no pod is left."""
    began = time.monotonic()
    await drill.run("helm", "uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", WAIT)
    await drill.wait_until_empty()
    drill.tell("uninstall: every pod has ended after", f"{time.monotonic() - began:.1f} s")
