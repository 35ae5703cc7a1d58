"""The kill switch: end all installations, first here, in batches, then at Aircall, one by one.

Its whole state is in the database: the farewells that are not finished. So it may be killed at any moment; a second run
goes on where it was, and so does a worker, at the same time or later.
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
from aircall_oauth.installations.disconnect.farewell import Outcome, begin_farewell, finish_farewell
from aircall_oauth.resources import Resources
from aircall_oauth.storage import leases
from aircall_oauth.storage.away import again_if_undone
from aircall_oauth.storage.models.installations import Farewell, Installation
from aircall_oauth.storage.statuses import InstallationStatus

BATCH = 50
# Fewer than the database connections of a process, as each farewell needs one now and then.
AT_ONCE = 8
POLL_SECONDS = 1.0
WHY = {Outcome.REFUSED: "Aircall refuses its token", Outcome.UNOPENED: "its token does not open"}


@dataclass
class Progress:
    """How far a run is."""

    installations: int = 0  # to be ended here
    ended: int = 0
    farewells: int = 0  # to be finished at Aircall, those of an earlier run included
    said: int = 0  # finished ones; a field of `revoke-all --json`, so the name stays


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Left:
    """An installation that could not be undone at Aircall, and why."""

    installation_id: str
    company_id: int
    company_name: str | None
    why: str


@dataclass(frozen=True)
class Report:
    """The result of a run. A worker, or the next run, goes on with the `waiting` farewells."""

    progress: Progress
    refused: list[Left] = field(default_factory=list)
    waiting: list[Left] = field(default_factory=list)


async def count(resources: Resources) -> Progress:
    """Count the installations to end and the farewells to finish."""
    await resources.require_ready()
    async with resources.database.session() as session:
        installations = (await session.exec(select(func.count()).select_from(Installation).where(_to_end()))).one()
        farewells = (await session.exec(select(func.count()).select_from(Farewell))).one()
    return Progress(installations=installations, farewells=farewells)


async def revoke_all(
    resources: Resources, *, give_up_after: timedelta, on_progress: OnProgress = lambda _: None
) -> Report:
    """End all installations, and undo at Aircall as many as possible within `give_up_after`."""
    progress = await count(resources)
    progress.farewells += progress.installations
    on_progress(progress)
    refused: list[Left] = []
    while ended := await _end_some(resources):
        progress.ended += len(ended)
        without = [_left(one, WHY[Outcome.UNOPENED]) for one, farewell_id in ended if farewell_id is None]
        progress.farewells -= len(without)
        refused += without
        on_progress(progress)
    refused += await _finish_all(
        resources, progress, on_progress, until=time.monotonic() + give_up_after.total_seconds()
    )
    return Report(progress, refused, await _waiting(resources))


@again_if_undone
async def _end_some(resources: Resources) -> list[tuple[Installation, str | None]]:
    """End a batch here; from now on their tokens are no longer used. Returns each with its farewell's id, if any."""
    some = select(Installation).where(_to_end()).order_by(col(Installation.id)).limit(BATCH)
    async with resources.database.session() as session:
        installations = (await session.exec(lifecycle.for_change(some))).all()
        for installation in installations:
            await audit.record(
                session, OPERATOR, Action.ALL_REVOKED, installation_id=installation.id, owner=installation.owner
            )
        return [
            (installation, await begin_farewell(resources, session, installation, reason="revoked"))
            for installation in installations
        ]


def _to_end() -> ColumnElement[bool]:
    return col(Installation.status) != InstallationStatus.REMOVED


async def _finish_all(resources: Resources, progress: Progress, on_progress: OnProgress, *, until: float) -> list[Left]:
    """Finish the farewells that are due, and wait for those put off, until `until`. Returns those refused."""
    refused: list[Left] = []
    while time.monotonic() < until:
        left, due = await _farewells(resources), await _farewells(resources, of=leases.is_due(Farewell))
        progress.said = max(0, progress.farewells - len(left))
        on_progress(progress)
        if not left:
            break
        if due:
            refused += await _finish_some(resources, due[:BATCH], progress, on_progress)
        else:
            await asyncio.sleep(POLL_SECONDS)
    return refused


async def _finish_some(
    resources: Resources, due: Sequence[tuple[Farewell, Installation]], progress: Progress, on_progress: OnProgress
) -> list[Left]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def finish(farewell: Farewell, installation: Installation) -> Left | None:
        async with turn:
            outcome = await finish_farewell(resources, farewell.id)
        progress.said += outcome in {Outcome.UNDONE, *WHY}
        on_progress(progress)
        return _left(installation, WHY[outcome]) if outcome in WHY else None

    return [left for left in await asyncio.gather(*(finish(*one) for one in due)) if left is not None]


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
