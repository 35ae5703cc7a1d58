"""Runs chores, each after its pause. Those that can say in SQL whether they have work are asked by one statement."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ClauseElement
from sqlalchemy.dialects import postgresql

from aircall_oauth.errors import AppError, DatabaseAway
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import reason
from aircall_oauth.storage.leases import between
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import ChoreOutcome

# The name that these lines of the log have always had.
logger = log.get("aircall_oauth.server.worker")

LOOK_SECONDS = 2.0
# What takes longer is a server that hangs, or a table that is locked.
ANSWER_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Chore:
    """A periodic piece of work. A run that fails is logged; the next one comes after the usual pause.

    `has_work` is a condition in SQL without which the chore would do nothing: then it is not run, and counts as done.
    """

    name: str
    work: Callable[[Resources], Awaitable[None]]
    pause: timedelta
    has_work: ClauseElement | None = None


class Look:
    """One statement that asks for many chores whether they have work."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._names = [chore.name for chore in chores]
        self._statement = f"SELECT {', '.join(map(_question, chores))}"

    async def with_work(self, resources: Resources, asked: Collection[str]) -> set[str]:
        """Return those of the asked chores that have work; raises `DatabaseAway`, or why the process is not ready."""
        await resources.require_ready()
        async with resources.database.driver_connection() as connection:
            try:
                row = await connection.fetchrow(self._statement, list(asked), timeout=ANSWER_SECONDS)
            except TimeoutError:
                # Here, as it says nothing about this and all other connections: a table may be locked.
                raise DatabaseAway from None
        return {name for name, has_work in zip(self._names, row, strict=True) if has_work}


def _question(chore: Chore) -> str:
    """Return the SQL for whether a chore has work; it is not worked out for a chore that is not asked."""
    assert chore.has_work is not None
    compiled = chore.has_work.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    return f"CASE WHEN '{chore.name}' = ANY ($1::text[]) THEN {compiled} END"


class Rounds:
    """Looks for work every `LOOK_SECONDS`, and runs the chores that have some, each beside all others.

    A chore is asked when its pause is over, or would be before the next look.
    """

    def __init__(self, chores: Sequence[Chore], resources: Resources) -> None:
        self._chores = {chore.name: chore for chore in chores}
        self._resources = resources
        self._look = Look(chores)
        self._due_at = dict.fromkeys(self._chores, 0.0)  # by the monotonic clock; infinite while a chore is under way
        self._under_way: set[asyncio.Task[None]] = set()

    async def go(self) -> None:
        """Look and run, until cancelled; what is under way then is cancelled, too."""
        try:
            while True:
                await self._look_once()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _look_once(self) -> None:
        started, next_look_at = time.perf_counter(), time.monotonic() + LOOK_SECONDS
        asked = [name for name, due_at in self._due_at.items() if due_at < next_look_at]
        if not asked:
            return
        with_work = await self._with_work(asked)
        for name in asked:
            if name in with_work:
                self._begin(self._chores[name])
            else:
                _note(self._chores[name], self._resources, ChoreOutcome.DONE, started)
                self._due_at[name] = time.monotonic() + self._chores[name].pause.total_seconds()

    async def _with_work(self, asked: list[str]) -> Collection[str]:
        """Return the chores that have work: all of them where that can't be told, so that each finds out for itself."""
        try:
            return await self._look.with_work(self._resources, asked)
        except AppError:
            return asked
        except Exception:
            logger.exception("chores not asked whether they have work")
            return asked

    def _begin(self, chore: Chore) -> None:
        self._due_at[chore.name] = math.inf
        task = asyncio.create_task(self._run(chore), name=chore.name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _run(self, chore: Chore) -> None:
        await _run(chore, self._resources)
        self._due_at[chore.name] = time.monotonic() + chore.pause.total_seconds()


def begin(chores: Sequence[Chore], resources: Resources) -> list[asyncio.Task[None]]:
    """Begin to run chores, again and again; returns the tasks that do, to be cancelled."""
    rounds = Rounds([chore for chore in chores if chore.has_work is not None], resources)
    others = [chore for chore in chores if chore.has_work is None]
    return [
        asyncio.create_task(rounds.go(), name="look for work"),
        *(asyncio.create_task(_repeat(chore, resources), name=chore.name) for chore in others),
    ]


async def _repeat(chore: Chore, resources: Resources) -> None:
    while True:
        await _run(chore, resources)
        # Never longer, and rarely the same: chores that began together come to need a connection one after the other.
        await asyncio.sleep(between(0.9 * chore.pause, chore.pause).total_seconds())


async def _run(chore: Chore, resources: Resources) -> None:
    started = time.perf_counter()
    _note(chore, resources, await _outcome(chore, resources), started)


def _note(chore: Chore, resources: Resources, outcome: ChoreOutcome, started: float) -> None:
    resources.chore_ended_at = time.monotonic()
    resources.metrics.chore_ran(chore.name, outcome, started=started)


async def _outcome(chore: Chore, resources: Resources) -> ChoreOutcome:
    try:
        await resources.require_ready()
        await chore.work(resources)
    except AppError as error:
        logger.warning("chore put off", chore=chore.name, reason=reason(error))
        return ChoreOutcome.PUT_OFF
    except Exception:
        logger.exception("chore failed", chore=chore.name)
        return ChoreOutcome.FAILED
    return ChoreOutcome.DONE
