"""The fleet: PostgreSQL, Aircall, two webs and two workers: real processes, each with a clock and a network."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.sandbox.postgres import Postgres, PostgresError
from tests.crash.clocks import Clock
from tests.crash.network import Balancer, Gate, listening
from tests.crash.records import Records
from tests.crash.storage import Disk
from tests.support.processes import Process, a_client, eventually
from tests.support.service import CLIENT_ID, CLIENT_SECRET, command_environment, run_command

START_SECONDS = 180.0
RETURN_URL = "https://app.example.com/aircall"
BUDGET_PER_MINUTE = 60
DATABASE = "campaign"
KIB = 1024
PEAK = re.compile(r"VmHWM:\s*(\d+) kB")
DEADLOCK = re.compile(r"ERROR:.*deadlock detected")
TAKING_UP = ("--attempt-pause", "1", "--disable-after", "10")


class Member:
    """A web or a worker: the same place in the fleet, whichever process fills it."""

    def __init__(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.gate: Gate
        self.clock: Clock
        self.process: Process | None = None
        self.pid = 0
        self.is_meant_to_run = False
        self.port: int | None = None
        self._arguments = arguments
        self._environment = environment

    async def start(self) -> None:
        self.process = await Process.start(
            self.name, "aircall_oauth", *self._arguments, environment=self._environment, log=self.log
        )
        self.pid = self.process.pid
        self.is_meant_to_run = True

    def tell(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.running:
            self.process.tell(number)

    async def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.is_meant_to_run = False
        if self.process is not None and self.process.running:
            await self.process.kill()

    async def stop(self) -> None:
        """As a platform does when it rolls."""
        self.is_meant_to_run = False
        if self.process is not None:
            await self.process.close()

    @property
    def ended_by_itself(self) -> bool:
        return self.is_meant_to_run and self.process is not None and not self.process.running

    def peak_memory(self) -> int:
        """Bytes; 0 where it does not run."""
        try:
            found = PEAK.search(Path(f"/proc/{self.pid}/status").read_text())
        except OSError:
            return 0
        return int(found[1]) * KIB if found else 0


@dataclass
class Fleet:
    """Everything that runs, and what is known of it."""

    folder: Path
    disk: Disk
    postgres: Postgres
    postgres_clock: Clock
    webs: list[Member]
    workers: list[Member]
    balancer: Balancer
    aircall: httpx.AsyncClient
    environment: dict[str, str]
    records: Records
    began: float = field(default_factory=time.monotonic)

    @property
    def members(self) -> list[Member]:
        return [*self.webs, *self.workers]

    @property
    def url(self) -> str:
        return f"http://localhost:{self.balancer.port}"

    @property
    def state_file(self) -> Path:
        return self.folder / "aircall.json"

    def now(self) -> float:
        """Seconds since the campaign began."""
        return time.monotonic() - self.began

    def note_clock(self) -> None:
        """PostgreSQL's clock is being set."""
        self.records.clock_set_at.append(time.time())

    async def ready(self, web: Member) -> None:
        async with a_client(f"http://127.0.0.1:{web.port}") as client:

            async def answers() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await eventually(answers, START_SECONDS)

    async def restart_postgres(self) -> None:
        """Start it again after it was killed, or ended by itself."""
        self._note_deadlocks()
        await asyncio.to_thread(_restart, self.postgres, self.postgres_clock)

    async def sql(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Asked of PostgreSQL itself, past every gate."""
        connection = await asyncpg.connect(self.postgres.dsn(DATABASE), timeout=5, command_timeout=30)
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    async def partner(self, scopes: str, owner: str | None = None) -> dict[str, str]:
        """An API key, as the header that shows it."""
        bound = ("--owner", owner) if owner else ()
        created = await run_command(
            *("keys", "create", "--name", "campaign", "--scopes", scopes, *bound), environment=self.environment
        )
        assert created.exit_code == 0, created.stderr
        return {"authorization": f"Bearer {created.stdout.splitlines()[-1]}"}

    async def watch(self) -> None:
        """Note how large each process is, and bring back what ended by itself, until cancelled."""
        while True:
            for member in self.members:
                peaks = self.records.peak_memory
                peaks[member.name] = max(peaks.get(member.name, 0), member.peak_memory())
                if member.ended_by_itself:
                    self.records.failures.append(f"{member.name} ended by itself at {self.now():.0f} s")
                    await member.start()
            await asyncio.sleep(0.5)

    def read_logs(self) -> None:
        """Note what the processes themselves called a failure, and PostgreSQL's deadlocks."""
        self._note_deadlocks()
        for member in self.members:
            self.records.failures.extend(f"{member.name}: {line}" for line in failures_in(member.log))

    def _note_deadlocks(self) -> None:
        """Its log begins anew with each start, and its statistics with each crash."""
        said = self.postgres.log.read_text(errors="replace").splitlines()
        for number, line in enumerate(said):
            if DEADLOCK.search(line):
                told = " | ".join(part.strip() for part in said[number : number + 6])
                self.records.deadlocks.append(f"PostgreSQL: {told}"[:900])


# Passes a 500 of Aircall's on; one of its own leaves an exception in the log.
PROXY = "/v1/installations/{installation_id}/aircall/{path:path}"


def failures_in(log: Path) -> Iterator[str]:
    """The doors that answered 500, and each exception that nothing expected: its last line and where it was."""
    if not log.exists():
        return
    for line in log.read_text(errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if not isinstance(told, dict):
            continue
        if told.get("status") == 500 and told.get("path") != PROXY:
            yield f"{told.get('method')} {told.get('path')} answered 500 (request {told.get('request_id')})"
        if trace := told.get("exception"):
            yield f"{told.get('event')}: {_in_short(str(trace))}"


def _in_short(trace: str) -> str:
    lines = trace.strip().splitlines()
    ours = [line.strip() for line in lines if "/aircall_oauth/" in line and line.strip().startswith("File")]
    where = re.sub(r'File ".*/aircall_oauth/', "", ours[-1]).replace('"', "") if ours else ""
    return f"{lines[-1][:200]} ({where})"


@asynccontextmanager
async def fleet(folder: Path, disk: Disk, records: Records, *, companies: int) -> AsyncIterator[Fleet]:
    """All of it, ready; in the end all that was started is stopped."""
    clock = Clock(folder / "clock-of-postgres")
    postgres = Postgres(disk.folder / "postgres", durable=True, port=None, binaries=None)
    await asyncio.to_thread(_restart, postgres, clock)
    async with AsyncExitStack() as stack:
        stack.callback(postgres.stop)
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute(f"CREATE DATABASE {DATABASE}")
        await admin.close()
        socket_path = f"{parse_qs(urlsplit(postgres.dsn()).query)['host'][0]}/.s.PGSQL.5432"
        gates = [Gate(name, socket_path) for name in ("web 1", "web 2", "worker 1", "worker 2")]
        ports = [free_port(), free_port()]
        balancer = Balancer(ports)
        await stack.enter_async_context(listening(balancer, *gates))
        aircall_url = f"http://localhost:{free_port()}"
        changes = {
            "PUBLIC_URL": f"http://localhost:{balancer.port}",
            "AUTHORIZE_URL": f"{aircall_url}/oauth/authorize",
            "API_URL": f"{aircall_url}/v1",
            "SUCCESS_URL": f"{aircall_url}/oauth/success",
            "RETURN_URLS": RETURN_URL,
            "ALLOWED_PRIVATE_RANGES": "127.0.0.0/8",
            "AIRCALL_RATE_PER_MINUTE": str(BUDGET_PER_MINUTE),
            "DRAIN": "1s",
        }
        environment = _with_this_python(command_environment(postgres.dsn(DATABASE), **changes))
        migrated = await run_command("migrate", environment=environment)
        assert migrated.exit_code == 0, migrated.stderr
        members = [
            _member(folder, gate, environment, port) for gate, port in zip(gates, [*ports, None, None], strict=True)
        ]
        aircall = await stack.enter_async_context(a_client(aircall_url))
        it = Fleet(folder, disk, postgres, clock, members[:2], members[2:], balancer, aircall, environment, records)
        stack.push_async_callback(_stop, it)
        await _start_aircall(it, stack, aircall_url, companies)
        for member in members:
            await member.start()
        for web in it.webs:
            await it.ready(web)
        for task in (balancer.keep_looking(), it.watch()):
            stack.callback(asyncio.create_task(task).cancel)
        yield it


def _member(folder: Path, gate: Gate, environment: Mapping[str, str], port: int | None) -> Member:
    file = gate.name.replace(" ", "-")
    clock = Clock(folder / f"clock-of-{file}")
    address = f"postgresql://postgres@127.0.0.1:{gate.port}/{DATABASE}?sslmode=disable"
    mine = {**environment, "AIRCALL_OAUTH_DATABASE_URL": address, **clock.environment(threads=True)}
    arguments = ("work",) if port is None else ("serve", "--port", str(port))
    member = Member(gate.name, arguments, mine, folder / f"{file}.log")
    member.gate, member.clock, member.port = gate, clock, port
    return member


async def _start_aircall(it: Fleet, stack: AsyncExitStack, url: str, companies: int) -> None:
    redirect_uri = f"{it.url}/aircall/oauth/callback"
    process = await Process.start(
        "aircall",
        "aircall_oauth.sandbox.aircall",
        *("--client-id", CLIENT_ID, "--redirect-uri", redirect_uri, "--port", url.rpartition(":")[2]),
        *("--base-url", url, "--more-companies", str(companies - 3), "--state", str(it.state_file), *TAKING_UP),
        environment=_with_this_python({"PATH": os.environ["PATH"], "SANDBOX_CLIENT_SECRET": CLIENT_SECRET}),
        log=it.folder / "aircall.log",
    )
    stack.push_async_callback(process.close)

    async def answers() -> bool:
        return (await it.aircall.get("/control/state")).status_code == 200

    await eventually(answers, START_SECONDS)


async def _stop(it: Fleet) -> None:
    for member in it.members:
        member.tell(signal.SIGCONT)
    await asyncio.gather(*(member.stop() for member in it.members))


def _with_this_python(environment: dict[str, str]) -> dict[str, str]:
    """Run the code that this process runs: an older checkout's, where PYTHONPATH says so."""
    path = os.environ.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": path} if path else environment


def _restart(postgres: Postgres, clock: Clock) -> None:
    """The launcher starts PostgreSQL with this process's environment."""
    with _environment(clock.environment(threads=False)):
        for attempt in range(5):
            try:
                postgres.restart()
            except PostgresError:
                # What is left of the one that was killed may not be gone yet.
                if attempt == 4:
                    raise
                time.sleep(1)
            else:
                return


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
