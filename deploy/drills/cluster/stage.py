"""The stage of the drill, within namespaces of its own: everything is brought up, and the scenes are played."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from tests.support.authority import Authority

from cluster import components, control_plane, drill, examples, mishaps, network, outside, scenes
from cluster.balancer import Balancer
from cluster.load import Load
from cluster.node import NAMESPACE, Nodes

NODES = ["node-1", "node-2", "node-3"]
SCENES = {
    "dry-run": scenes.dry_run,
    "install": scenes.install,
    "upgrade": scenes.upgrade,
    "rollback": scenes.rollback,
    "drain": scenes.drain,
    "drain-unwell": mishaps.drain_unwell,
    "wrong-upgrades": mishaps.wrong_upgrades,
    "highly-available": scenes.highly_available,
    "uninstall": scenes.uninstall,
    "examples": examples.examples,
    "kustomize": examples.kustomize,
}
# As deploy/helm/values/separate-secrets.yaml names it.
BY_DIGEST = "registry.example.com/aircall-oauth@sha256:" + "0123456789abcdef" * 4
NOT_KEPT = shutil.ignore_patterns("postgres", "etcd", "before", "root-*", "pods")


def run(names: Sequence[str], *, rate: int, before: str | None, keep: Path | None) -> int:
    """Play these scenes; returns the exit code."""
    network.lay_out()
    with tempfile.TemporaryDirectory(prefix="aircall-oauth-kubernetes-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        try:
            return uvloop.run(_play(names, folder, rate, _images(before, folder)))
        except (drill.DrillFailed, control_plane.ControlPlaneFailed) as error:
            print(f"kubernetes: {error}", file=sys.stderr)
            return 1
        finally:
            if keep:
                shutil.copytree(folder, keep, ignore=NOT_KEPT, dirs_exist_ok=True)


async def _play(names: Sequence[str], folder: Path, rate: int, images: dict[str, Path]) -> int:
    began = time.monotonic()
    authority = Authority(folder)
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(outside.running(folder, authority))
        plane = await stack.enter_async_context(control_plane.running(folder, authority))
        nodes = await stack.enter_async_context(Nodes.running(plane.api, NODES, images, folder))
        balancer = Balancer()
        following = asyncio.create_task(balancer.follow(plane.api, NAMESPACE, drill.RELEASE))
        stack.callback(following.cancel)
        await balancer.listen("127.0.0.1", outside.SERVICE_PORT)
        load = Load(outside.WEBHOOK_URL, "", rate)
        here = drill.Drill(plane, nodes, around, balancer, folder, load)
        await scenes.prepare(here)
        here.tell(
            f"control plane {components.VERSION}, {len(NODES)} nodes: ready after", f"{time.monotonic() - began:.1f} s"
        )
        for name in names:
            await SCENES[name](here)
    here.tell("failed" if here.faults else "all promises held", f"{time.monotonic() - began:.0f} s in all")
    return 1 if here.faults else 0


def _images(before: str | None, folder: Path) -> dict[str, Path]:
    """Two versions: the commit before the newest migration, and this tree."""
    old = folder / "before"
    old.mkdir()
    revision = before or _git("log", "-1", "--diff-filter=A", "--format=%H^", "--", "alembic/versions").strip()
    archive = subprocess.run(["git", "-C", drill.ROOT, "archive", revision], capture_output=True, check=False)
    if archive.returncode == 0:
        subprocess.run(["tar", "-x", "-C", old], input=archive.stdout, check=True)
    else:
        print(f"kubernetes: no history here to take {revision or 'an older version'} from: both versions are this tree")
        old = drill.ROOT
    return {f"aircall-oauth:{drill.BEFORE}": old, f"aircall-oauth:{drill.AFTER}": drill.ROOT, BY_DIGEST: drill.ROOT}


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", drill.ROOT, *arguments], capture_output=True, text=True, check=False).stdout
