"""One pod on a node: its network, volumes and containers, and what is told of it to the API server."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from cluster import network, probes, volumes
from cluster.container import Container
from cluster.environment import NotInTheManifest, Read, expand, resolve

AGAIN_SECONDS = 2.0
FIRST_BACK_OFF_SECONDS = 10.0
MOST_BACK_OFF_SECONDS = 300.0
Status = dict[str, Any]


@dataclass
class State:
    """What is told of one container."""

    state: Status = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    ready: bool = False
    started: bool = False
    restarts: int = 0
    container: Container | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a node lends to its pods."""

    read: Read
    images: dict[str, Path]
    session: aiohttp.ClientSession
    folder: Path
    logs: Path
    tell: Callable[[dict[str, Any], Status], Awaitable[None]]
    # Serves a socket that listens in a pod's namespace; called with the namespace's name.
    lend: Callable[[str], Awaitable[asyncio.Server]]


class Pod:
    """Runs from `run()` until its containers have ended, or `stop()` has ended them."""

    def __init__(self, manifest: dict[str, Any], address: str, number: int, around: Surroundings) -> None:
        self.manifest = manifest
        self.address = address
        self.is_ending = False
        self._namespace = f"p{number}"
        self._around = around
        self._folder = around.folder / manifest["metadata"]["uid"]
        self._volumes: dict[str, Path] = {}
        self._began = _now()
        self._has_initialized = False
        self._conditions: dict[str, Status] = {}
        self._telling = asyncio.Lock()
        self._states = {each["name"]: State() for each in self._all_containers()}

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.manifest["spec"]
        return spec

    def container(self) -> Container:
        """Return its first container; it must be running."""
        container = self._states[self._spec["containers"][0]["name"]].container
        assert container, "the container is not running"
        return container

    async def run(self) -> None:
        """Run to the end, and tell each change."""
        await network.join(self._namespace, self.address)
        lent = await self._around.lend(self._namespace)
        try:
            self._volumes = await self._try_until_there(
                lambda: volumes.lay_out(self.manifest, self._folder / "volumes", self._around.read)
            )
            if await self._initialize():
                async with asyncio.TaskGroup() as group:
                    for each in self._spec["containers"]:
                        group.create_task(self._keep(each))
        finally:
            lent.close()
            await network.leave(self._namespace)
            shutil.rmtree(self._folder, ignore_errors=True)

    async def stop(self, seconds: float) -> None:
        """End it in order: `preStop`, SIGTERM, and SIGKILL once `seconds` are over."""
        self.is_ending = True
        running = [each for each in self._all_containers() if self._states[each["name"]].container]
        await asyncio.gather(*(self._end(each, seconds) for each in running))

    async def kill(self) -> None:
        self.is_ending = True
        for state in self._states.values():
            if state.container:
                state.container.signal(signal.SIGKILL)

    def _all_containers(self) -> list[dict[str, Any]]:
        return [*self._spec.get("initContainers", ()), *self._spec["containers"]]

    async def _try_until_there(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Try again while something that the manifest names is missing, as kubelet does."""
        while True:
            try:
                return await attempt()
            except NotInTheManifest as missing:
                shutil.rmtree(self._folder / "volumes", ignore_errors=True)
                for state in self._states.values():
                    state.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(missing)}}
                await self._tell()
                await asyncio.sleep(AGAIN_SECONDS)

    async def _initialize(self) -> bool:
        """Run the init containers one after the other. Returns whether all of them succeeded."""
        for each in self._spec.get("initContainers", ()):
            if await self._keep(each) != 0:
                return False
        self._has_initialized = True
        return True

    async def _keep(self, manifest: dict[str, Any]) -> int:
        """Run a container, again where its end is not final. Returns the last exit code."""
        state = self._states[manifest["name"]]
        policy = self._spec.get("restartPolicy", "Always")
        if manifest in self._spec.get("initContainers", ()) and policy == "Always":
            policy = "OnFailure"
        while True:
            code = await self._run_once(manifest, state)
            if self.is_ending or policy == "Never" or (policy == "OnFailure" and code == 0):
                return code
            state.state = {"waiting": {"reason": "CrashLoopBackOff"}}
            await self._tell()
            await asyncio.sleep(min(FIRST_BACK_OFF_SECONDS * 2**state.restarts, MOST_BACK_OFF_SECONDS))
            state.restarts += 1

    async def _run_once(self, manifest: dict[str, Any], state: State) -> int:
        state.container = await self._start(manifest)
        began = _now()
        state.state = {"running": {"startedAt": began}}
        probing = asyncio.create_task(self._probe(manifest, state))
        await self._tell()
        code = await state.container.wait()
        probing.cancel()
        state.container, state.ready, state.started = None, False, False
        reason = "Completed" if code == 0 else "Error"
        state.state = {"terminated": {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": _now()}}
        await self._tell()
        return code

    async def _start(self, manifest: dict[str, Any]) -> Container:
        while (tree := self._around.images.get(manifest["image"])) is None:
            self._states[manifest["name"]].state = {
                "waiting": {"reason": "ErrImagePull", "message": f"no image {manifest['image']} here"}
            }
            await self._tell()
            await asyncio.sleep(AGAIN_SECONDS)
        variables = await self._try_until_there(lambda: resolve(manifest, self._seen(), self._around.read))
        said = {**manifest, "args": [expand(each, variables) for each in manifest.get("args", ())]}
        return await Container.start(
            said if "args" in manifest else manifest,
            self.manifest,
            namespace=self._namespace,
            folder=self._folder,
            log=self._around.logs / f"{self.name}-{manifest['name']}.log",
            tree=tree,
            environment=variables,
            volumes=self._volumes,
        )

    def _seen(self) -> dict[str, Any]:
        """The manifest with the addresses that a `fieldRef` may ask for."""
        return {**self.manifest, "status": {"podIP": self.address, "hostIP": network.HOST}}

    async def _probe(self, manifest: dict[str, Any], state: State) -> None:
        """Ask the startup probe until it is through, then the other two until the container ends."""
        if "startupProbe" in manifest and not await self._has_started(manifest):
            await self._restart(manifest)
            return
        state.started = True
        state.ready = "readinessProbe" not in manifest
        await self._tell()
        async with asyncio.TaskGroup() as group:
            for kind, follow in (("readinessProbe", self._follow_readiness), ("livenessProbe", self._follow_liveness)):
                if kind in manifest:
                    group.create_task(follow(manifest, state))

    async def _has_started(self, manifest: dict[str, Any]) -> bool:
        async for certain in self._asked(manifest, "startupProbe"):
            return certain
        return False

    async def _follow_readiness(self, manifest: dict[str, Any], state: State) -> None:
        async for certain in self._asked(manifest, "readinessProbe"):
            if certain is not state.ready:
                state.ready = certain
                await self._tell()

    async def _follow_liveness(self, manifest: dict[str, Any], _: State) -> None:
        async for certain in self._asked(manifest, "livenessProbe"):
            if not certain and not self.is_ending:
                await self._restart(manifest)

    def _asked(self, manifest: dict[str, Any], kind: str) -> AsyncIterator[bool]:
        return probes.asked(self._around.session, manifest[kind], manifest, self.address)

    async def _restart(self, manifest: dict[str, Any]) -> None:
        await self._end(manifest, self._spec.get("terminationGracePeriodSeconds", 30))

    async def _end(self, manifest: dict[str, Any], seconds: float) -> None:
        container = self._states[manifest["name"]].container
        if container is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._before_stop(manifest, container)
                container.signal(signal.SIGTERM)
                await container.wait()
        except TimeoutError:
            container.signal(signal.SIGKILL)

    async def _before_stop(self, manifest: dict[str, Any], container: Container) -> None:
        match manifest.get("lifecycle", {}).get("preStop", {}):
            case {"sleep": {"seconds": seconds}}:
                await asyncio.sleep(seconds)
            case {"exec": {"command": words}}:
                await container.run(words)
            case {"httpGet": how}:
                url = probes.url_of({"httpGet": how}, manifest, self.address)
                async with self._around.session.get(url) as answer:
                    await answer.read()

    async def _tell(self) -> None:
        async with self._telling:
            await self._around.tell(self.manifest, self.status())

    def status(self) -> Status:
        """What is so now, as the API has it."""
        running = [self._states[each["name"]] for each in self._spec["containers"]]
        ready = all(each.ready for each in running)
        conditions = {
            "PodReadyToStartContainers": True,
            "Initialized": self._has_initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        return {
            "phase": self._phase(running),
            "hostIP": network.HOST,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._began,
            "conditions": [self._condition(name, value) for name, value in conditions.items()],
            "containerStatuses": [self._status_of(each) for each in self._spec["containers"]],
            "initContainerStatuses": [self._status_of(each) for each in self._spec.get("initContainers", ())],
        }

    def _condition(self, name: str, value: bool) -> Status:
        """One condition, with the moment it turned: `minReadySeconds` counts from there."""
        known = self._conditions.get(name)
        if known is None or known["status"] != str(value):
            known = self._conditions[name] = {"type": name, "status": str(value), "lastTransitionTime": _now()}
        return known

    def _phase(self, running: list[State]) -> str:
        ended = [each.state["terminated"]["exitCode"] for each in running if "terminated" in each.state]
        if len(ended) == len(running) and (self.is_ending or self._spec.get("restartPolicy") in {"Never", "OnFailure"}):
            return "Failed" if any(ended) else "Succeeded"
        return "Running" if any(each.container for each in running) else "Pending"

    def _status_of(self, manifest: dict[str, Any]) -> Status:
        state = self._states[manifest["name"]]
        return {
            "name": manifest["name"],
            "image": manifest["image"],
            "imageID": "",
            "state": state.state,
            "ready": state.ready,
            "started": state.started,
            "restartCount": state.restarts,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
