"""The rows of docs/high-availability.md: what happens to PostgreSQL, and what an operator does about it."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg

from tests.crash.availability.stage import ROLE, Ground, Stage
from tests.crash.clocks import find_library
from tests.support.poolers import PGBOUNCER
from tests.support.standbys import hanging, sql

Happens = Callable[[Stage, float], Awaitable[None]]
# As long as it takes a manager of clusters to be sure that a primary is gone.
NOTICED_SECONDS = 5.0
ALONE = Ground(standby="")


@dataclass(frozen=True)
class Row:
    """A drill."""

    name: str
    happens: Happens
    seconds: float  # how long the fault lasts
    ground: Ground = field(default_factory=Ground)
    is_possible: Callable[[], bool] = lambda: True


async def primary_killed(stage: Stage, seconds: float) -> None:
    """The primary dies, and its standby is promoted."""
    stage.breaks("primary killed")
    if stage.link is not None:
        # What a machine has not sent when it dies is gone with it.
        stage.link.go_silent(random.Random(0), 1, newcomers=True)
    await asyncio.to_thread(stage.primary.kill)
    await asyncio.sleep(seconds)
    await stage.promote()
    stage.heals()


async def primary_hung(stage: Stage, seconds: float) -> None:
    """The primary keeps its connections and answers nothing. It wakes later, and was told nothing meanwhile."""
    sessions = await sql(stage.primary, "SELECT pid FROM pg_stat_activity")
    with hanging(stage.primary, sessions):
        stage.breaks("primary hung")
        await asyncio.sleep(seconds)
        await stage.promote()
        stage.heals()
        await stage.comes_home()


async def standby_lost(stage: Stage, seconds: float) -> None:
    """Commits wait for a standby that is away, until it is back."""
    assert stage.standby
    stage.breaks("standby lost, and back")
    await asyncio.to_thread(stage.standby.kill)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(stage.standby.restart)
    await stage.has_standby()
    stage.heals()


async def standby_taken_out(stage: Stage, seconds: float) -> None:
    """Commits wait for a standby that is away, until an operator has them wait no more."""
    assert stage.standby
    stage.breaks("standby lost, and taken out")
    await asyncio.to_thread(stage.standby.kill)
    await asyncio.sleep(seconds)
    await stage.waits_for("")
    stage.heals()


async def switchover(stage: Stage, _seconds: float) -> None:
    """The primary is shut down in order, its standby promoted, and the old one follows the new one."""
    old = stage.primary
    stage.breaks("switchover")
    await asyncio.to_thread(old.stop)
    await stage.promote()
    stage.heals()
    await stage.rejoin(old)


async def read_only(stage: Stage, seconds: float) -> None:
    """Every transaction only reads, as where a provider's disk is nearly full."""
    stage.breaks("read-only")
    await _only_reads(stage, "on")
    await asyncio.sleep(seconds)
    await _only_reads(stage, "off")
    stage.heals()


async def _only_reads(stage: Stage, value: str) -> None:
    await stage.as_superuser(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await stage.as_superuser("SELECT pg_reload_conf()")


async def connections_exhausted(stage: Stage, seconds: float) -> None:
    """The service has lost its connections, and PostgreSQL gives it no other: by its role's limit, with 53300."""
    stage.breaks("connections exhausted")
    await stage.as_superuser(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    await stage.as_superuser(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")
    await asyncio.sleep(seconds)
    await stage.as_superuser(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
    stage.heals()


async def disk_full(stage: Stage, seconds: float) -> None:
    """No block is left, then all are again. A server that ended over it is started again, as a supervisor does."""
    await asyncio.to_thread(stage.disk.fill)
    stage.breaks("disk full")
    await asyncio.sleep(seconds)
    stage.disk.clear()
    while not await _answers(stage):
        if stage.primary.has_ended:
            await asyncio.to_thread(stage.primary.kill)
            await asyncio.to_thread(stage.primary.restart)
        await asyncio.sleep(0.05)
    stage.heals()


async def _answers(stage: Stage) -> bool:
    try:
        return bool(await stage.as_superuser("SELECT 1"))
    except (OSError, asyncpg.PostgresError):
        return False


async def pooler_restarted(stage: Stage, seconds: float) -> None:
    """PgBouncer dies, and is started again."""
    assert stage.pooler
    stage.breaks("PgBouncer restarted")
    await stage.pooler.kill()
    await asyncio.sleep(seconds)
    await stage.pooler.start()
    stage.heals()


async def clocks_apart(stage: Stage, seconds: float) -> None:
    """The clocks of replicas are five minutes apart; a company connects by one replica and comes back to the other."""
    it = stage.world
    stage.breaks("clocks apart")
    for member, by in zip(stage.members, stage.ground.clocks, strict=True):
        member.clock.set(by)
    stage.heals()
    ahead, behind = (f"http://localhost:{web.port}" for web in stage.webs)
    for one, other in ((ahead, behind), (behind, ahead)):
        back = (await it.consent(by=one)).replace(it.service_url, other)
        answer = await it.browser.get(back)
        if answer.status_code != 303:
            stage.records.failures.append(f"an install over two replicas was answered {answer.status_code}")
    await asyncio.sleep(seconds)


ROWS = {
    row.name: row
    for row in (
        Row("primary-killed", primary_killed, NOTICED_SECONDS),
        Row(
            "primary-killed-asynchronous",
            primary_killed,
            NOTICED_SECONDS,
            Ground(standby="asynchronous", link_seconds=0.1),
        ),
        Row("primary-hung", primary_hung, NOTICED_SECONDS),
        Row("standby-lost", standby_lost, 10.0),
        Row("standby-taken-out", standby_taken_out, 10.0),
        Row("switchover", switchover, 0.0),
        Row("switchover-asynchronous", switchover, 0.0, Ground(standby="asynchronous")),
        Row("read-only", read_only, 60.0, ALONE),
        Row("connections-exhausted", connections_exhausted, 10.0, ALONE),
        Row("disk-full", disk_full, 10.0, Ground(standby="", is_small=True), lambda: os.geteuid() == 0),
        Row("pooler-restarted", pooler_restarted, 2.0, Ground(standby="", pooler="session"), lambda: bool(PGBOUNCER)),
        Row(
            "pooler-restarted-transaction",
            pooler_restarted,
            2.0,
            Ground(standby="", pooler="transaction"),
            lambda: bool(PGBOUNCER),
        ),
        Row(
            "clocks-apart",
            clocks_apart,
            20.0,
            Ground(standby="", clocks=(150, -150, 150, -150)),
            lambda: find_library(threads=True) is not None,
        ),
    )
}
