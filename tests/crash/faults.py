"""One fault after another, drawn by seed: each is made, lasts, and is undone, and says what it was."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg

from tests.crash.churn import Churn
from tests.crash.clocks import find_library
from tests.crash.processes import DATABASE, Fleet, Member
from tests.crash.records import Occurrence
from tests.support.processes import eventually

THIRTY_TWO_DAYS = 32 * 86_400
LONGEST_STOP_SECONDS = 30.0
MOST_BYTES_BEFORE_SILENCE = 12_000
STIRRED = 12
SLOW_REQUESTS = 30
POSTGRES_SECONDS = 30.0


@dataclass
class Scene:
    """Where faults happen."""

    fleet: Fleet
    churn: Churn
    stirred: Sequence[int]  # companies; their webhooks may be switched off
    chance: random.Random
    tell: Callable[[str], None]

    def by_itself(self) -> random.Random:
        """For draws as many as there are connections or moments, so that the faults after it stay the seed's."""
        return random.Random(self.chance.getrandbits(64))


Fault = Callable[[Scene], Awaitable[None]]


async def kill_a_web(scene: Scene) -> None:
    await _kill(scene, scene.chance.choice(scene.fleet.webs))


async def kill_a_worker(scene: Scene) -> None:
    await _kill(scene, scene.chance.choice(scene.fleet.workers))


async def stop_a_web(scene: Scene) -> None:
    await _freeze(scene, scene.chance.choice(scene.fleet.webs))


async def stop_a_worker(scene: Scene) -> None:
    await _freeze(scene, scene.chance.choice(scene.fleet.workers))


async def silence_before_a_worker(scene: Scene) -> None:
    await _silence(scene, scene.chance.choice(scene.fleet.workers))


async def silence_before_a_web(scene: Scene) -> None:
    await _silence(scene, scene.chance.choice(scene.fleet.webs))


async def slow_network(scene: Scene) -> None:
    """PostgreSQL is far from a web and a worker, or from all."""
    chance = scene.chance
    some = [chance.choice(scene.fleet.webs), chance.choice(scene.fleet.workers)]
    slow = some if chance.random() < 0.5 else scene.fleet.members
    round_trip, seconds = chance.uniform(0.3, 1.0), 12.0
    async with _happening(
        scene, "slow network", f"{round_trip:.2f} s to PostgreSQL from {_names(slow)}, {seconds:.0f} s"
    ):
        for member in slow:
            member.gate.delay_seconds = round_trip / 2
        # What has begun by then would make the fault last longer than it is said to.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await scene.churn.collide(seconds, scene.by_itself())
        for member in slow:
            member.gate.delay_seconds = 0.0


async def crash_postgres(scene: Scene) -> None:
    down = scene.chance.uniform(0.0, 3.0)
    async with _happening(scene, "PostgreSQL crash", f"kill -9, back {down:.1f} s later", excused=True):
        await asyncio.to_thread(scene.fleet.postgres.kill)
        await asyncio.sleep(down)
        await scene.fleet.restart_postgres()


async def fill_the_disk(scene: Scene) -> None:
    """Where that ends PostgreSQL, it is started again when there is room."""
    seconds = scene.chance.uniform(3.0, 8.0)
    async with _happening(scene, "disk full", f"{seconds:.1f} s", excused=True):
        await asyncio.to_thread(scene.fleet.disk.fill)
        await asyncio.sleep(seconds)
        scene.fleet.disk.clear()
        await _running_again(scene.fleet)


async def set_the_clock_of_postgres(scene: Scene) -> None:
    fleet, direction = scene.fleet, scene.chance.choice((1, -1))
    seconds = scene.chance.uniform(4.0, 10.0)
    async with _happening(scene, "PostgreSQL's clock", f"{32 * direction:+d} days, for {seconds:.0f} s"):
        fleet.note_clock()
        fleet.postgres_clock.set(direction * THIRTY_TWO_DAYS)
        await asyncio.sleep(seconds)
        fleet.postgres_clock.set(0)
        fleet.note_clock()


async def set_the_clock_of_a_process(scene: Scene) -> None:
    member, direction = scene.chance.choice(scene.fleet.members), scene.chance.choice((1, -1))
    seconds = scene.chance.uniform(4.0, 10.0)
    async with _happening(scene, "a process's clock", f"{member.name}, {32 * direction:+d} days, for {seconds:.0f} s"):
        member.clock.set(direction * THIRTY_TWO_DAYS)
        await asyncio.sleep(seconds)
        member.clock.set(0)


async def slow_aircall(scene: Scene) -> None:
    how = scene.chance.choice(("slow", "slow_reply", "error_500", "drop_reply", "status_429"))
    seconds = scene.chance.uniform(3.0, 12.0)
    async with _happening(scene, "Aircall", f"{how} {seconds:.0f} s, {SLOW_REQUESTS} requests"):
        order = {"how": how, "times": SLOW_REQUESTS, "seconds": seconds}
        await scene.fleet.aircall.post("/control/break", json=order)
        await scene.churn.stir(scene.chance.sample(scene.stirred, STIRRED // 2))
        await asyncio.sleep(12)
        await scene.fleet.aircall.post("/control/heal")


async def rolling_restart(scene: Scene) -> None:
    async with _happening(scene, "rolling restart", "every process, one after the other"):
        for member in scene.fleet.members:
            await member.stop()
            await member.start()
            if member.port is not None:
                await scene.fleet.ready(member)


FAULTS: dict[str, Fault] = {
    "kill-web": kill_a_web,
    "kill-worker": kill_a_worker,
    "stop-web": stop_a_web,
    "stop-worker": stop_a_worker,
    "silence-worker": silence_before_a_worker,
    "silence-web": silence_before_a_web,
    "slow-network": slow_network,
    "crash-postgres": crash_postgres,
    "disk-full": fill_the_disk,
    "clock-of-postgres": set_the_clock_of_postgres,
    "clock-of-process": set_the_clock_of_a_process,
    "slow-aircall": slow_aircall,
    "rolling-restart": rolling_restart,
}


def left_out(fleet: Fleet) -> dict[str, str]:
    """The faults that can't be made here, and why."""
    reasons: dict[str, str] = {}
    if not fleet.disk.can_be_full:
        reasons["disk-full"] = "no file system may be mounted here (root may)"
    if find_library(threads=True) is None:
        reasons["clock-of-postgres"] = reasons["clock-of-process"] = "libfaketime is not installed"
    return reasons


def deck(chance: random.Random, names: Sequence[str]) -> list[str]:
    """The faults in some order; each comes once before any comes twice."""
    return chance.sample(names, len(names))


async def _kill(scene: Scene, member: Member) -> None:
    away = scene.chance.uniform(0.2, 4.0)
    async with _happening(scene, "kill -9", f"{member.name}, back {away:.1f} s later"):
        await member.kill()
        await asyncio.sleep(away)
        await member.start()


async def _freeze(scene: Scene, member: Member) -> None:
    seconds = scene.chance.uniform(1.0, LONGEST_STOP_SECONDS)
    async with _happening(scene, "SIGSTOP", f"{member.name}, for {seconds:.1f} s"):
        await scene.churn.stir(scene.chance.sample(scene.stirred, STIRRED // 2))
        member.tell(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        member.tell(signal.SIGCONT)


async def _silence(scene: Scene, member: Member) -> None:
    """The connections that are there fall silent for good, each at a byte of its own; half the time new ones too."""
    chance = scene.chance
    newcomers, seconds, drawn = chance.random() < 0.5, chance.uniform(16.0, 25.0), scene.by_itself()
    which = "new ones too" if newcomers else "new ones work"
    async with _happening(scene, "silence", f"{member.name} to PostgreSQL, {which}, {seconds:.0f} s"):
        stirring = asyncio.create_task(scene.churn.stir(chance.sample(scene.stirred, STIRRED)))
        await asyncio.sleep(0.3)
        member.gate.go_silent(drawn, MOST_BYTES_BEFORE_SILENCE, newcomers=newcomers)
        await stirring
        await asyncio.sleep(seconds)
        member.gate.let_in()


@asynccontextmanager
async def _happening(scene: Scene, fault: str, detail: str, *, excused: bool = False) -> AsyncIterator[None]:
    fleet = scene.fleet
    occurrence = Occurrence(fault, fleet.now(), detail=detail)
    fleet.records.occurrences.append(occurrence)
    scene.tell(f"{fault}: {detail}")
    try:
        yield
    finally:
        occurrence.ended = fleet.now()
        if excused:
            fleet.records.excused.append((occurrence.began, occurrence.ended))


async def _running_again(fleet: Fleet) -> None:
    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(fleet.postgres.dsn(DATABASE), timeout=2)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    try:
        await eventually(answers, 8)
    except TimeoutError:
        await asyncio.to_thread(fleet.postgres.kill)
        await fleet.restart_postgres()
        await eventually(answers, POSTGRES_SECONDS)


def _names(members: Sequence[Member]) -> str:
    return " and ".join(member.name for member in members)
