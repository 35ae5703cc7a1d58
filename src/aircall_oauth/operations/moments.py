"""Repairs due times and leases that were written while a clock was ahead.

They are written as the current time plus an interval. A clock that is a month ahead for a moment puts them off by a
month: until then no webhook would be checked, and no subscription read for. So a moment that lies further ahead than
any writer puts it is brought back.
"""

from dataclasses import dataclass
from datetime import timedelta

from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import database_errors
from aircall_oauth.storage.models.installations import InstallationStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

OF_ACTIVE = f"installation_id IN (SELECT id FROM installation WHERE status = '{InstallationStatus.ACTIVE}')"  # noqa: S608


@dataclass(frozen=True)
class Moment:
    """A column with future moments, and how far ahead they may lie, with some margin."""

    table: str
    column: str
    furthest: timedelta
    only: str = "true"


MOMENTS = (
    Moment("webhook", "leased_until", timedelta(minutes=5)),
    Moment("webhook", "due_at", timedelta(minutes=20), only=OF_ACTIVE),
    Moment("webhook", "due_at", timedelta(hours=30)),
    Moment("retired_webhook", "due_at", timedelta(hours=2)),
    Moment("installation", "switch_on_at", timedelta(hours=2)),
    Moment("uninstall", "due_at", timedelta(hours=1)),
    Moment("farewell", "due_at", timedelta(hours=2)),
    Moment("gap", "due_at", timedelta(hours=2)),
    Moment("claim", "expires_at", timedelta(hours=1)),
    Moment("subscription", "lease_until", timedelta(minutes=1)),
    Moment("subscription", "quiet_until", timedelta(hours=25)),
    Moment("subscription", "old_secret_until", timedelta(hours=24)),
    Moment("parked", "due_at", timedelta(hours=30)),
    Moment("replay", "lease_until", timedelta(minutes=1)),
    Moment("console_link", "expires_at", timedelta(minutes=2)),
    Moment("console_session", "expires_at", timedelta(hours=13)),
)


async def bring_back(resources: Resources) -> None:
    """The worker's chore: set each moment that lies too far ahead to the furthest one allowed."""
    with database_errors():
        async with resources.database.driver_connection() as connection:
            for moment in MOMENTS:
                answer = await connection.execute(_statement(moment), moment.furthest)
                if rows := int(answer.split()[-1]):
                    logger.warning(
                        "moments brought back: was a clock ahead?", table=moment.table, column=moment.column, rows=rows
                    )


def _statement(moment: Moment) -> str:
    return f"""
        UPDATE {moment.table} SET {moment.column} = now() + $1::interval
        WHERE {moment.column} > now() + $1::interval AND {moment.only}
    """  # noqa: S608 - names are ours
