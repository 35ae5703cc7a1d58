"""The rows of docs/high-availability.md: what happens to PostgreSQL, and what an operator does about it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.crash.availability.stage import Ground, Stage
from tests.support.standbys import hanging, sql

Happens = Callable[[Stage, float], Awaitable[None]]
# As long as it takes a manager of clusters to be sure that a primary is gone; ten and more are usual.
NOTICED_SECONDS = 2.0


@dataclass(frozen=True)
class Row:
    """A drill."""

    name: str
    happens: Happens
    seconds: float  # how long the fault lasts
    ground: Ground = field(default_factory=Ground)


async def primary_killed(stage: Stage, seconds: float) -> None:
    """The primary dies, and its standby is promoted."""
    stage.breaks("primary killed")
    await asyncio.to_thread(stage.primary.kill)
    await asyncio.sleep(seconds)
    await stage.promote()
    stage.heals()


async def primary_hung(stage: Stage, seconds: float) -> None:
    """The primary keeps its connections and answers nothing; then it wakes, and nobody has told it that it is none."""
    old = stage.primary
    sessions = await sql(old, "SELECT pid FROM pg_stat_activity")
    with hanging(old, sessions):
        stage.breaks("primary hung")
        await asyncio.sleep(seconds)
        await stage.promote()
        stage.heals()
        await stage.comes_home()


ROWS = {
    row.name: row
    for row in (
        Row("primary-killed", primary_killed, NOTICED_SECONDS),
        Row("primary-hung", primary_hung, NOTICED_SECONDS),
    )
}
