"""The background process: a visible list of chores."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from aircall_oauth import audit, log
from aircall_oauth.errors import AppError
from aircall_oauth.events import retention
from aircall_oauth.installations import (
    backfill,
    claims,
    flow,
    leaving,
    retiring,
    silence,
    uninstalls,
    upkeep,
)
from aircall_oauth.resources import Resources

logger = log.get(__name__)


@dataclass(frozen=True)
class Chore:
    """A periodic piece of work; a failure of one run is logged and the next run comes as ever."""

    name: str
    work: Callable[[Resources], Awaitable[None]]
    pause: timedelta


CHORES = (
    Chore("look after webhooks", upkeep.look_after_webhooks, timedelta(seconds=2)),
    Chore("look after troubles", upkeep.after_troubles, timedelta(seconds=2)),
    Chore("find overlooked webhooks", upkeep.find_overlooked, timedelta(minutes=10)),
    Chore("delete retired webhooks", retiring.delete_retired, timedelta(seconds=5)),
    Chore("forget flows", flow.forget_flows, timedelta(hours=1)),
    Chore("expire claims", claims.expire, timedelta(minutes=1)),
    Chore("notice uninstalls", uninstalls.notice_uninstalls, timedelta(seconds=2)),
    Chore("look at uninstalls", uninstalls.look_at_uninstalls, timedelta(seconds=2)),
    Chore("say goodbyes", leaving.say_goodbyes, timedelta(seconds=5)),
    Chore("fill gaps", backfill.fill_gaps, timedelta(seconds=2)),
    Chore("forget gaps", backfill.forget_gaps, timedelta(hours=1)),
    Chore("learn rhythms", silence.learn_rhythms, timedelta(minutes=1)),
    Chore("make days", retention.make_days, timedelta(hours=1)),
    Chore("drop days", retention.drop_days, timedelta(minutes=10)),
    Chore("forget fingerprints", retention.forget_fingerprints, timedelta(minutes=10)),
    Chore("forget the audit", audit.forget_old, timedelta(hours=1)),
)


@asynccontextmanager
async def working(resources: Resources) -> AsyncIterator[None]:
    """All chores run while the block does; on leaving it what is under way is cancelled and waited for.

    A chore cut short leaves nothing half done: what it had claimed falls due again when its lease is over.
    """
    tasks = [asyncio.create_task(_repeat(chore, resources), name=chore.name) for chore in CHORES]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(chore: Chore, resources: Resources) -> None:
    while True:
        await _run(chore, resources)
        await asyncio.sleep(chore.pause.total_seconds())


async def _run(chore: Chore, resources: Resources) -> None:
    try:
        await resources.require_ready()
        await chore.work(resources)
    except AppError as error:
        logger.warning("chore put off", chore=chore.name, reason=error.detail)
    except Exception:
        logger.exception("chore failed", chore=chore.name)
