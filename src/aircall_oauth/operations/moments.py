"""Repairs due times and leases that were written while a clock was ahead.

They are written as the current time plus an interval. A clock that is a month ahead for a moment puts them off by a
month: until then no webhook would be checked, and no subscription read for. So a moment that lies further ahead than
any writer puts it is brought back: the end of a lease or of a validity to the furthest one allowed, work to soon, as
trying it early harms nothing and most pauses are short.
"""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from aircall_oauth.resources import Resources
from aircall_oauth.storage.statuses import InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# Work that is brought back is due within this time, spread over it.
SOON = timedelta(minutes=5)
OF_ACTIVE = f"installation_id IN (SELECT id FROM installation WHERE status = '{InstallationStatus.ACTIVE}')"  # noqa: S608


@dataclass(frozen=True)
class Moment:
    """A column with future moments, how far ahead they may lie, with some margin, and whether they are due times."""

    table: str
    column: str
    furthest: timedelta
    only: str = "true"
    is_work: bool = False

    @property
    def is_too_far_ahead(self) -> str:
        """The condition for a row whose moment lies too far ahead."""
        return f"{self.column} > now() + interval '{self.furthest.total_seconds():.0f} s' AND {self.only}"

    @property
    def brought_to(self) -> timedelta:
        """Within what time work is due that is brought back, or when a lease or a validity then ends."""
        return min(SOON, self.furthest) if self.is_work else self.furthest


MOMENTS = (
    Moment("webhook", "leased_until", timedelta(minutes=5)),
    Moment("webhook", "due_at", timedelta(minutes=20), only=OF_ACTIVE, is_work=True),
    Moment("webhook", "due_at", timedelta(hours=30), is_work=True),
    Moment("retired_webhook", "due_at", timedelta(hours=2), is_work=True),
    Moment("installation", "switch_on_at", timedelta(hours=2), is_work=True),
    Moment("uninstall", "due_at", timedelta(hours=1), is_work=True),
    Moment("farewell", "due_at", timedelta(hours=2), is_work=True),
    Moment("gap", "due_at", timedelta(hours=2), is_work=True),
    Moment("claim", "expires_at", timedelta(hours=1)),
    Moment("subscription", "lease_until", timedelta(minutes=1)),
    Moment("subscription", "quiet_until", timedelta(hours=25), is_work=True),
    Moment("subscription", "old_secret_until", timedelta(hours=24)),
    Moment("parked", "due_at", timedelta(hours=30), is_work=True),
    Moment("replay", "lease_until", timedelta(minutes=1)),
    Moment("erasure", "due_at", timedelta(minutes=5), is_work=True),
    Moment("console_link", "expires_at", timedelta(minutes=2)),
    Moment("console_session", "expires_at", timedelta(hours=13)),
    Moment("console_form", "expires_at", timedelta(hours=2)),
)

# In one statement, as there is hardly ever anything to bring back. Not asked with the worker's other chores: a column
# without an index is read to its end.
LOOK = "SELECT " + ", ".join(f"EXISTS (SELECT FROM {each.table} WHERE {each.is_too_far_ahead})" for each in MOMENTS)  # noqa: S608 - names are ours


async def bring_back(resources: Resources) -> None:
    """The worker's chore: bring back each moment that lies too far ahead."""
    async with resources.database.driver_connection() as connection:
        for moment, has_some in zip(MOMENTS, await connection.fetchrow(LOOK), strict=True):
            if has_some:
                await _bring_back(connection, moment)


async def _bring_back(connection: asyncpg.Connection, moment: Moment) -> None:
    answer = await connection.execute(_statement(moment), moment.brought_to)
    if rows := int(answer.split()[-1]):
        logger.warning("moments brought back: was a clock ahead?", table=moment.table, column=moment.column, rows=rows)


def _statement(moment: Moment) -> str:
    spread = "random()" if moment.is_work else "1"
    return f"""
        UPDATE {moment.table} SET {moment.column} = now() + $1::interval * {spread} WHERE {moment.is_too_far_ahead}
    """  # noqa: S608 - names are ours
