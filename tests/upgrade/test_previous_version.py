"""The last released version's code and data: this version migrates under load, both run, and the old one comes back."""

import asyncio
import itertools
import json
import re
import subprocess
import tarfile
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.support.processes import Process, World, a_client, eventually, world
from tests.support.receivers import LOOPBACK, Receiver, receiver, subscription_body
from tests.support.spawning import PIPE, spawn
from tests.support.tools import miss

ROOT = Path(__file__).parents[2]
EVENTS_EACH = 25
SENDERS = 2
PAUSE_SECONDS = 0.01
SCOPES = "installations:read,events:read,tokens:read,subscriptions:write"


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode().strip()
        miss(f"git {arguments[0]}: {why} (a whole clone with its tags is needed, not a shallow one)")
    return done.stdout


def previous_commit() -> str:
    """The newest released version before this commit; without one, the commit that pyproject.toml names for it."""
    tag = subprocess.run(
        ["git", "describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    named: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["aircall-oauth"]["upgrades-from"]
    return tag.stdout.strip() or named


@pytest.fixture(scope="module")
def previous_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the previous version's modules; they run on this version's packages."""
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(git("archive", previous_commit(), "src", "alembic"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


@dataclass
class Version:
    """One version of the service on the world's database, with a worker in its web process."""

    world: World
    name: str
    code: Path | None = None  # None is this version's
    url: str = ""
    process: Process | None = None

    @property
    def environment(self) -> dict[str, str]:
        return self.world.environment | ({"PYTHONPATH": str(self.code)} if self.code else {})

    async def command(self, *arguments: str) -> str:
        """What a command of this version printed."""
        process = await spawn("aircall_oauth", *arguments, environment=self.environment, stdout=PIPE, stderr=PIPE)
        stdout, stderr = await process.communicate()
        assert process.returncode == 0, stderr.decode()
        return stdout.decode()

    async def begin(self) -> None:
        """Start; it may not be ready yet."""
        port, log = free_port(), self.world.folder / f"{self.name}.log"
        arguments = ("serve", "--with-worker", "--port", str(port))
        self.url = f"http://localhost:{port}"
        self.process = await Process.start(
            self.name, "aircall_oauth", *arguments, environment=self.environment, log=log
        )
        self.world.processes.append(self.process)
        await eventually(self.lives)

    async def lives(self) -> bool:
        assert self.process is not None
        assert self.process.running, self.process.said()
        return (await self.world.browser.get(f"{self.url}/livez")).is_success

    async def ready(self) -> bool:
        return (await self.world.browser.get(f"{self.url}/readyz")).is_success

    async def stop(self) -> None:
        assert self.process is not None
        await self.process.close()
        assert await self.process.ended() == 0

    def errors(self) -> list[str]:
        lines = (self.world.folder / f"{self.name}.log").read_text().splitlines()
        return [line for line in lines if line.startswith("{") and json.loads(line)["level"] == "error"]


@dataclass
class Load:
    """Events to whichever versions are named, and a reader that follows the log through them."""

    token: str
    client: httpx.AsyncClient
    to: list[Version]
    sent: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    read: list[int] = field(default_factory=list)
    cursor: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        reading = asyncio.create_task(self._follow())
        try:
            yield
            self.to = []
            await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, reading):
                task.cancel()
            await asyncio.gather(*tasks, reading, return_exceptions=True)

    async def flow(self, *to: Version) -> None:
        """Send to these versions from now on, until each has taken a number of events and the reader is past them."""
        self.to = list(to)
        wanted = {version.name: self.sent[version.name] + EVENTS_EACH for version in to}

        async def taken() -> bool:
            await asyncio.sleep(0)
            return all(self.sent[name] >= number for name, number in wanted.items())

        await eventually(taken)

    async def _send(self) -> None:
        while self.to:
            number = next(self._numbers)
            version = self.to[number % len(self.to)]
            data = {"id": number, "n": number}
            event = {"event": "call.created", "timestamp": 1767261600, "token": self.token, "data": data}
            try:
                answer = await self.client.post(f"{version.url}/aircall/webhook", json=event)
            except httpx.TransportError as error:
                self.failures.append(f"{version.name}: {error!r}")
                continue
            if answer.status_code == 200:
                self.taken.add(number)
                self.sent[version.name] += 1
            else:
                self.failures.append(f"{version.name}: {answer.status_code} {answer.text}")
            await asyncio.sleep(PAUSE_SECONDS)

    async def _follow(self) -> None:
        for turn in itertools.count():
            if self.to:
                await self.follow(self.to[turn % len(self.to)])
            await asyncio.sleep(5 * PAUSE_SECONDS)

    async def follow(self, version: Version) -> bool:
        """Read on through this version; whether all that was taken has been read."""
        # The reader asks again where it was cut off, from where it stands.
        with suppress(httpx.TransportError):
            answer = await self.client.get(f"{version.url}/v1/events", params={"after": self.cursor, "limit": 1000})
            page = answer.raise_for_status().json()
            self.read += [event["data"]["n"] for event in page["events"] if event["type"] == "call.created"]
            self.cursor = page["next"]
        return len(self.read) >= len(self.taken)


async def install(it: World, departure: Version, arrival: Version) -> int:
    """A whole install that leaves from one version and comes back to another; how it ended."""
    left = await it.browser.get(f"{departure.url}/aircall/oauth/install")
    page = await it.browser.get(left.headers["location"])
    form = re.search(r'<form [^>]*method="post" action="([^"]+)"', page.text)
    assert form, page.text
    target = str(page.url.join(form[1].replace("&amp;", "&")))
    back = (await it.browser.post(target, data={"decision": "authorize"})).headers["location"]
    assert back.startswith(f"{it.service_url}/aircall/oauth/callback?")
    return (await it.browser.get(back.replace(it.service_url, arrival.url))).status_code


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_lost_on_the_way_to_this_version_and_back(
    tmp_path: Path, empty_database: str, previous_code: Path
) -> None:
    async with (
        receiver() as crm,
        world(tmp_path, empty_database, ALLOWED_PRIVATE_RANGES=LOOPBACK) as it,
        a_client("http://localhost") as partner,
    ):
        old, new = Version(it, "old", previous_code), Version(it, "new")
        await old.command("migrate")
        await old.begin()
        await eventually(old.ready)
        installs = [await install(it, old, old)]
        key = (await old.command("keys", "create", "--name", "partner", "--scopes", SCOPES)).splitlines()[-1]
        partner.headers["authorization"] = f"Bearer {key}"
        made = await partner.post(f"{old.url}/v1/subscriptions", json=subscription_body(crm.url))
        load = Load(await it.webhook_token(), partner, [old])

        async with load.going_on():
            await load.flow(old)
            await new.begin()
            ready_before = await new.ready()
            await new.command("migrate")
            await eventually(new.ready)
            await load.flow(old, new)
            installs += [await install(it, old, new), await install(it, new, old)]
            tokens = [await token(partner, version) for version in (old, new)]
            await load.flow(new)
            await old.stop()
            await load.flow(new)
            await old.begin()
            await eventually(old.ready)
            await load.flow(old, new)
            await load.flow(old)
            await new.stop()
            await load.flow(old)
            installs.append(await install(it, old, old))
        await eventually(lambda: load.follow(old))
        await eventually(lambda: has_all(crm, load.taken))

    assert (made.status_code, ready_before) == (201, False)
    assert [303] * 4 == installs
    assert tokens[0] == tokens[1]
    assert load.failures == []
    assert sorted(load.taken) == sorted(load.read)
    assert old.errors() + new.errors() == []


async def token(partner: httpx.AsyncClient, version: Version) -> str:
    (one,) = (await partner.get(f"{version.url}/v1/installations")).json()["items"]
    opened: str = (await partner.get(f"{version.url}/v1/installations/{one['id']}/token")).json()["access_token"]
    return opened


async def has_all(crm: Receiver, taken: set[int]) -> bool:
    await asyncio.sleep(0)
    return set(crm.numbers) == taken
