"""Runs a chore: a periodic piece of work of the worker."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from aircall_oauth.errors import AppError
from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import reason
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.metrics import ChoreOutcome

# The name that these lines of the log have always had.
logger = log.get("aircall_oauth.server.worker")


@dataclass(frozen=True)
class Chore:
    """A periodic piece of work. A run that fails is logged; the next one comes after the usual pause."""

    name: str
    work: Callable[[Resources], Awaitable[None]]
    pause: timedelta


async def repeat(chore: Chore, resources: Resources) -> None:
    """Run a chore again and again, until cancelled."""
    while True:
        await _run(chore, resources)
        await asyncio.sleep(chore.pause.total_seconds())


async def _run(chore: Chore, resources: Resources) -> None:
    started = time.perf_counter()
    outcome = await _outcome(chore, resources)
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
