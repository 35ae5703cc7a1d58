"""Where a drill happens: real servers, two webs, workers, and events that come all the time."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import alembic.command
import asyncpg

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage.migrations import alembic_config
from tests.crash.clocks import Clock
from tests.crash.destinations import Destination, subscribed
from tests.crash.evidence import the_log
from tests.crash.load import Follower, Senders
from tests.crash.network import Balancer, Gate, listening
from tests.crash.processes import BUDGET_PER_MINUTE, START_SECONDS, Member
from tests.crash.records import Occurrence, Reading, Records
from tests.crash.storage import Disk, disk
from tests.support.poolers import PgBouncer
from tests.support.processes import World, a_client, eventually, world
from tests.support.service import run_command
from tests.support.standbys import NAME, sql, with_standby

DATABASE = ROLE = "aircall"
COMPANY = 70077
EVENTS_PER_ID = 10
SMALL = "200m"
CAUGHT_UP = "SELECT FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn() - 100000"
HOME_SECONDS = 90.0
SETTLE_SECONDS = 120.0
SCOPES = "installations:read,events:read,subscriptions:read,subscriptions:write"


@dataclass(frozen=True)
class Ground:
    """What a drill needs to stand on."""

    standby: str = "synchronous"  # or asynchronous; empty for a server alone
    link_seconds: float = 0.0  # from the primary to its standby
    pooler: str = ""  # the mode of a PgBouncer; empty for none
    pooler_size: int = 40  # sessions that it may open
    pooler_program: str | None = None  # its binary, if not that of this machine
    round_robin: int = 0  # 1 has the pooler lend each transaction another session
    revision: str = ""  # what the schema is at before `migrate`; empty for no schema
    is_small: bool = False  # the server is on a disk that can be filled
    clocks: tuple[int, ...] = ()  # seconds that web 1, web 2, worker 1, worker 2 will be ahead


@dataclass
class Spell:
    """One fault, from its beginning to when everything was well again, by itself."""

    name: str
    began: float
    cured: float = 0.0  # when there was a database again that can take events
    home: float = 0.0  # when every web was ready and new events were delivered


@dataclass
class Stage:
    """Everything that runs, and what is known of it."""

    ground: Ground
    primary: Postgres
    standby: Postgres | None
    disk: Disk
    link: Gate | None = None  # a slow one, from the primary to its standby
    pooler: PgBouncer | None = None
    members: list[Member] = field(default_factory=list)
    records: Records = field(default_factory=lambda: Records(BUDGET_PER_MINUTE))
    spells: list[Spell] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    destination: Destination = field(init=False)
    world: World = field(init=False)
    keys: Path = field(init=False)  # the file of the sealing keys
    senders: Senders = field(init=False)
    follower: Follower = field(init=False)
    sending: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self.destination = Destination(Reading("crm", order="subject"), {}, self.now)

    def now(self) -> float:
        """Seconds since the stage was made."""
        return time.monotonic() - self.began

    @property
    def url(self) -> str:
        """The service's URL of its database: both servers, and the one that writes is wanted."""
        ports = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.standby) if server)
        return f"postgresql://{ROLE}@{ports}/{DATABASE}?sslmode=disable&target_session_attrs=read-write"

    @property
    def webs(self) -> list[Member]:
        return [member for member in self.members if member.port is not None]

    def breaks(self, name: str) -> None:
        """Note that a fault happens now."""
        self.spells.append(Spell(name, self.now()))
        self.records.occurrences.append(Occurrence(name, self.now()))

    def heals(self) -> None:
        """Note that there is a database again: from here on it is the service's time that counts."""
        spell = self.spells[-1]
        spell.cured = self.records.occurrences[-1].ended = self.now()
        self.records.excused.append((spell.began, spell.cured))

    async def promote(self) -> None:
        """Make the standby the primary, and the primary what is left over."""
        assert self.standby
        await sql(self.standby, "SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    async def rejoin(self, server: Postgres) -> None:
        """Start a server that was shut down as the standby of the primary, waited for if standbys are here."""
        signal_file = server.cluster / "standby.signal"
        with (server.cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{_address(self.primary.port)}'\nsynchronous_standby_names = ''\n")
        signal_file.touch()
        owner = server.cluster.stat()
        os.chown(signal_file, owner.st_uid, owner.st_gid)
        await asyncio.to_thread(server.restart)
        await eventually(lambda: self.as_superuser("SELECT FROM pg_stat_replication"))
        if self.ground.standby == "synchronous":
            await self.waits_for(NAME)

    async def waits_for(self, standby: str) -> None:
        """Have commits wait for a standby of this name from now on, and see it there; empty is none."""
        await self.as_superuser(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
        await self.as_superuser("SELECT pg_reload_conf()")
        if standby:
            await self.has_standby()
            # Commits begin to wait when the checkpointer has read the setting: it does so before a checkpoint.
            await self.as_superuser("CHECKPOINT")
            # What was committed before did not wait. This does, so that all of it is on the standby, too.
            await self.as_superuser("SELECT pg_logical_emit_message(true, 'drill', '')")

    async def has_standby(self) -> None:
        """Wait until commits are waited for by the standby."""
        await eventually(lambda: self.as_superuser("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"))

    async def as_superuser(self, statement: str) -> list[asyncpg.Record]:
        return await sql(self.primary, statement)

    async def in_database(self, statement: str) -> list[Any]:
        """Ask the service's database, on the server that is primary."""
        connection = await asyncpg.connect(self.primary.dsn(DATABASE), timeout=10)
        try:
            return list(await connection.fetch(statement))
        finally:
            await connection.close()

    async def comes_home(self) -> None:
        """Wait until each web is ready and what is acknowledged from now on is delivered; `TimeoutError` if never."""
        await eventually(self._is_home, HOME_SECONDS)
        self.spells[-1].home = self.now()

    async def _is_home(self) -> bool:
        cured = self.spells[-1].cured
        delivered = any(
            number in self.destination.arrived and attempt.began > cured
            for number, sent in reversed(self.records.sent.items())
            for attempt in sent.attempts[-1:]
            if attempt.status == 200
        )
        return delivered and all([await self._is_ready(web) for web in self.webs])

    async def _is_ready(self, web: Member) -> bool:
        async with a_client(f"http://127.0.0.1:{web.port}") as client:
            return (await client.get("/readyz")).status_code == 200

    async def settle(self) -> None:
        """Send no more; wait until the destination and the follower have all that is in the log.

        The last event may be sent after the end was told: what is looked up before it is answered may lack it.
        """
        self.senders.end()
        await self.sending
        self.records.stored = await the_log(self.in_database)
        with suppress(TimeoutError):
            await eventually(self._has_settled, SETTLE_SECONDS)

    async def _has_settled(self) -> bool:
        self.records.stored = rows = await the_log(self.in_database)
        wanted = {row.event_id for row in rows if row.position > self.destination.reading.start}
        taken = {one.event_id for one in self.destination.reading.taken}
        await asyncio.sleep(0.3)
        return not rows or (wanted <= taken and self.follower.after >= rows[-1].position)


@asynccontextmanager
async def staged(ground: Ground, folder: Path, *, pace: float) -> AsyncIterator[Stage]:
    """All of it, with events coming in; in the end everything that was started is stopped."""
    async with AsyncExitStack() as stack:
        stage = await _servers(ground, folder, stack)
        await _make_database(stage)
        if ground.pooler:
            url = stage.primary.dsn(DATABASE)
            size, program = ground.pooler_size, ground.pooler_program
            stage.pooler = PgBouncer(
                url,
                folder,
                mode=ground.pooler,
                user=ROLE,
                size=size,
                round_robin=ground.round_robin,
                program=program,
            )
            stack.push_async_callback(stage.pooler.kill)
            await stage.pooler.start()
        await _start(stage, folder, stack)
        await _connect_a_company(stage, stack)
        if stage.link:
            # Only now: what made the database is many megabytes.
            await eventually(lambda: stage.as_superuser(CAUGHT_UP))
            stage.link.delay_seconds = ground.link_seconds
        stage.sending = asyncio.create_task(stage.senders.send(pace, float("inf")))
        following = asyncio.create_task(stage.follower.follow())
        stack.push_async_callback(_end, stage, stage.sending, following)
        yield stage


async def _end(stage: Stage, *tasks: asyncio.Task[None]) -> None:
    ending = [*tasks, *stage.senders.on_their_way]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


async def _servers(ground: Ground, folder: Path, stack: AsyncExitStack) -> Stage:
    if not ground.standby:
        room = stack.enter_context(disk(SMALL)) if ground.is_small else Disk(folder, can_be_full=False)
        alone = Postgres(room.folder / "primary", durable=True, port=free_port(), binaries=None)
        await asyncio.to_thread(alone.restart)
        stack.callback(alone.stop)
        return Stage(ground, alone, None, room)
    ports = (free_port(), free_port())
    pair = with_standby(folder, synchronous=ground.standby == "synchronous", ports=ports, migrated=False)
    primary, standby = await stack.enter_async_context(pair)
    stage = Stage(ground, primary, standby, Disk(folder, can_be_full=False))
    if ground.link_seconds:
        stage.link = Gate("to the standby", _socket(primary))
        await stack.enter_async_context(listening(stage.link))
        await sql(standby, f"ALTER SYSTEM SET primary_conninfo = '{_address(stage.link.port)}'")
        await sql(standby, "SELECT pg_reload_conf()")
    return stage


def _socket(server: Postgres) -> str:
    return f"{parse_qs(urlsplit(server.dsn()).query)['host'][0]}/.s.PGSQL.{server.port}"


def _address(port: int | None) -> str:
    return f"host=127.0.0.1 port={port} user=postgres application_name={NAME}"


async def _make_database(stage: Stage) -> None:
    """With a role that is nothing special: a superuser has connections in reserve."""
    await stage.as_superuser(f"CREATE ROLE {ROLE} LOGIN")
    await stage.as_superuser(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")


async def _start(stage: Stage, folder: Path, stack: AsyncExitStack) -> None:
    ports = [free_port(), free_port()]
    balancer = Balancer(ports)
    await stack.enter_async_context(listening(balancer))
    changes: dict[str, Any] = {
        "ALLOWED_PRIVATE_RANGES": "127.0.0.0/8",
        "DRAIN": "0s",
    }
    url = stage.pooler.url if stage.pooler else stage.url
    if stage.ground.pooler == "transaction":
        changes["DATABASE_DIRECT_URL"] = stage.url
    stage.world = it = await stack.enter_async_context(
        world(folder, url, service_url=f"http://localhost:{balancer.port}", **changes)
    )
    if path := os.environ.get("PYTHONPATH"):
        it.environment["PYTHONPATH"] = path
    stage.keys = folder / "sealing-keys"
    stage.keys.write_text(it.environment.pop("AIRCALL_OAUTH_SECRET_KEYS"))
    it.environment["AIRCALL_OAUTH_SECRET_KEYS_FILE"] = str(stage.keys)
    if stage.ground.revision:
        config = alembic_config(stage.url)
        await asyncio.to_thread(alembic.command.upgrade, config, stage.ground.revision)
    migrated = await run_command("migrate", environment=it.environment)
    assert migrated.exit_code == 0, migrated.stderr
    stage.members = _members(stage, folder, ports)
    for member in stage.members:
        stack.push_async_callback(member.stop)
        await member.start()
    for web in stage.webs:
        await eventually(lambda web=web: stage._is_ready(web), START_SECONDS)  # type: ignore[misc]
    stack.callback(asyncio.create_task(balancer.keep_looking()).cancel)


def _members(stage: Stage, folder: Path, ports: Sequence[int]) -> list[Member]:
    doors = [("web 1", ports[0]), ("web 2", ports[1]), ("worker 1", None), ("worker 2", None)]
    ahead = stage.ground.clocks
    members = []
    for name, port in doors[: 4 if ahead else 3]:
        environment, file = dict(stage.world.environment), name.replace(" ", "-")
        if ahead:
            member_clock = Clock(folder / f"clock-of-{file}")
            environment |= member_clock.environment(threads=True)
        arguments = ("work",) if port is None else ("serve", "--port", str(port))
        member = Member(name, arguments, environment, folder / f"{file}.log")
        member.port = port
        if ahead:
            member.clock = member_clock
        members.append(member)
    return members


async def _connect_a_company(stage: Stage, stack: AsyncExitStack) -> None:
    it = stage.world
    answer = await it.browser.get(await it.consent())
    assert answer.status_code == 303, answer.text
    # On a busy machine the worker registers the webhook, a little later.
    await eventually(it.webhooks)
    token = await it.webhook_token()
    partner = await stack.enter_async_context(await it.partner(SCOPES))
    await stack.enter_async_context(subscribed([stage.destination], partner))
    stage.records.readings = [stage.destination.reading]
    stage.records.followed_from = stage.destination.reading.start
    key = {"authorization": partner.headers["authorization"]}
    resumes = stage.ground.standby == "asynchronous"
    stage.follower = Follower(it.service_url, key, stage.records, stage.now, resumes=resumes)
    stage.senders = Senders(
        it.service_url, lambda _: token, [COMPANY], stage.records, stage.now, "availability", per_id=EVENTS_PER_ID
    )
