"""The kill switch: every installation is ended, first here, all of them at once, then at Aircall, one by one.

All that it knows stands in the database: the farewells that are still to be said. So it may be killed and started again
at any moment, and goes on where it was; so may a worker, beside it or after it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import ColumnElement, func
from sqlmodel import col, select

from aircall_oauth.access import audit
from aircall_oauth.access.audit import OPERATOR, Action
from aircall_oauth.installations import lifecycle
from aircall_oauth.installations.disconnect import farewell as leaving
from aircall_oauth.installations.disconnect.farewell import Goodbye
from aircall_oauth.resources import Resources
from aircall_oauth.storage import leases
from aircall_oauth.storage.database import again_if_undone
from aircall_oauth.storage.models.installations import Farewell, Installation, InstallationStatus

BATCH = 50
# Below the connections of a process, as each of them needs one now and then.
GOODBYES_AT_ONCE = 8
LOOK_AGAIN_SECONDS = 1.0
WHY = {Goodbye.REFUSED: "Aircall refuses its token", Goodbye.UNOPENED: "its token does not open"}


@dataclass
class Progress:
    """How far it is."""

    installations: int = 0  # to be ended here
    ended: int = 0
    farewells: int = 0  # to be said at Aircall, those of an earlier run included
    said: int = 0


Tell = Callable[[Progress], None]


@dataclass(frozen=True)
class Left:
    """What could not be undone at Aircall."""

    installation_id: str
    company_id: int
    company_name: str | None
    why: str


@dataclass(frozen=True)
class Report:
    """What came of it. `waiting` farewells are gone on with by a worker, or by the next run."""

    progress: Progress
    refused: list[Left] = field(default_factory=list)
    waiting: list[Left] = field(default_factory=list)


async def count(resources: Resources) -> Progress:
    """What there is to do."""
    await resources.require_ready()
    async with resources.database.session() as session:
        installations = (await session.exec(select(func.count()).select_from(Installation).where(_to_end()))).one()
        farewells = (await session.exec(select(func.count()).select_from(Farewell))).one()
    return Progress(installations=installations, farewells=farewells)


async def revoke_all(resources: Resources, *, give_up_after: timedelta, tell: Tell = lambda _: None) -> Report:
    """End every installation, and undo at Aircall all that can be undone in the time given."""
    progress = await count(resources)
    progress.farewells += progress.installations
    tell(progress)
    refused: list[Left] = []
    while ended := await _end_some(resources):
        progress.ended += len(ended)
        without = [_left(one, WHY[Goodbye.UNOPENED]) for one, farewell_id in ended if farewell_id is None]
        progress.farewells -= len(without)
        refused += without
        tell(progress)
    refused += await _say_all(resources, progress, tell, until=time.monotonic() + give_up_after.total_seconds())
    return Report(progress, refused, await _waiting(resources))


@again_if_undone
async def _end_some(resources: Resources) -> list[tuple[Installation, str | None]]:
    """From here on nothing of them is used any more; each with its farewell's id, if it has one."""
    some = select(Installation).where(_to_end()).order_by(col(Installation.id)).limit(BATCH)
    async with resources.database.session() as session:
        installations = (await session.exec(lifecycle.for_change(some))).all()
        for installation in installations:
            await audit.record(session, OPERATOR, Action.ALL_REVOKED, installation_id=installation.id)
        return [
            (installation, await leaving.take_leave(resources, session, installation, reason="revoked"))
            for installation in installations
        ]


def _to_end() -> ColumnElement[bool]:
    return col(Installation.status) != InstallationStatus.REMOVED


async def _say_all(resources: Resources, progress: Progress, tell: Tell, *, until: float) -> list[Left]:
    """Say every farewell that is due, and wait for those that were put off, while there is time; what was refused."""
    refused: list[Left] = []
    while time.monotonic() < until:
        left, due = await _farewells(resources), await _farewells(resources, of=leases.is_due(Farewell))
        progress.said = max(0, progress.farewells - len(left))
        tell(progress)
        if not left:
            break
        if due:
            refused += await _say_some(resources, due[:BATCH], progress, tell)
        else:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
    return refused


async def _say_some(
    resources: Resources, due: Sequence[tuple[Farewell, Installation]], progress: Progress, tell: Tell
) -> list[Left]:
    turn = asyncio.Semaphore(GOODBYES_AT_ONCE)

    async def say(farewell: Farewell, installation: Installation) -> Left | None:
        async with turn:
            said = await leaving.say_goodbye(resources, farewell.id)
        progress.said += said in {Goodbye.SAID, *WHY}
        tell(progress)
        return _left(installation, WHY[said]) if said in WHY else None

    return [left for left in await asyncio.gather(*(say(*one) for one in due)) if left is not None]


async def _waiting(resources: Resources) -> list[Left]:
    return [
        _left(installation, farewell.last_error or "not tried yet")
        for farewell, installation in await _farewells(resources)
    ]


async def _farewells(
    resources: Resources, of: ColumnElement[bool] | None = None
) -> Sequence[tuple[Farewell, Installation]]:
    every = select(Farewell, Installation).join(Installation, col(Installation.id) == col(Farewell.installation_id))
    chosen = every if of is None else every.where(of)
    async with resources.database.session() as session:
        return (await session.exec(chosen.order_by(col(Farewell.due_at)))).all()


def _left(installation: Installation, why: str) -> Left:
    return Left(installation.id, installation.company_id, installation.company_name, why)
