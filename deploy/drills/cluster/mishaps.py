"""Scenes in which something is wrong: nodes whose pods can't be spared, upgrades that can't succeed."""

import asyncio
import json
import time

from cluster.drill import (
    AFTER,
    MINIMAL,
    RELEASE,
    WAIT,
    Drill,
    DrillFailed,
    empty_node,
    is_ready,
    node_of,
    under_load,
    wait_for_rollouts,
)
from cluster.node import NAMESPACE

IMPATIENT = "30s"
WRONG = {
    "a setting that is none": ["--set", "settings.NO_SETTING=1"],
    "an image that is not there": ["--set", "image.tag=9.9.9"],
    "web pods that end": ["--set-json", 'web.extraEnv=[{"name":"AIRCALL_OAUTH_NO_SETTING","value":"1"}]'],
}


async def drain_unwell(drill: Drill) -> None:
    """Empty nodes where no pod can be spared: the only web pod, and pods that are not ready without their database."""
    await drill.helm("upgrade", MINIMAL, "--set", f"image.tag={AFTER},web.replicas=1")
    await empty_node(drill, await node_of(drill, "web"), "drain, one web pod")
    await wait_for_rollouts(drill)
    await asyncio.to_thread(drill.outside.postgres.stop)
    while any(is_ready(pod) for pod in await drill.pods("web")):
        await asyncio.sleep(0.5)
    await empty_node(drill, await node_of(drill, "web"), "drain, no database")
    await asyncio.to_thread(drill.outside.postgres.restart)
    began = time.monotonic()
    await wait_for_rollouts(drill)
    drill.tell("drain, no database: ready, once it is back, after", f"{time.monotonic() - began:.1f} s")


async def wrong_upgrades(drill: Drill) -> None:
    """Upgrades that fail, one after the other: the pods that work go on, and the next upgrade is not in their way."""
    async with under_load(drill, "wrong upgrades"):
        for name, change in WRONG.items():
            try:
                await drill.helm("upgrade", MINIMAL, *change, wait=IMPATIENT)
            except DrillFailed as failed:
                drill.tell(f"wrong upgrades: {name}", " ".join(str(failed).split("Error: ")[-1].split()))
            else:
                drill.judge(f"wrong upgrades: {name}", "helm is content", well=False)
        began = time.monotonic()
        await drill.run("helm", "rollback", RELEASE, await _deployed(drill), *_patiently())
        await wait_for_rollouts(drill)
        drill.tell("wrong upgrades: rolled back after", f"{time.monotonic() - began:.1f} s")
        await drill.helm("upgrade", MINIMAL, "--set", f"image.tag={AFTER}")
        await wait_for_rollouts(drill)


async def _deployed(drill: Drill) -> str:
    """Return the newest revision that was deployed as a whole."""
    history = json.loads(await drill.run("helm", "history", RELEASE, "--namespace", NAMESPACE, "--output", "json"))
    return str(max(each["revision"] for each in history if each["status"] in {"deployed", "superseded"}))


def _patiently() -> list[str]:
    return ["--namespace", NAMESPACE, "--wait", "--timeout", WAIT]
