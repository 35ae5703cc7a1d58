"""Keeps us from asking Aircall more than it allows: one row per Aircall company, drawn from before every call.

Aircall counts the requests of a company and minute, whoever makes them, and does not say where its minute begins. So
a row counts what was drawn in each of the last seconds, and no minute, wherever it begins, holds more than the
budget. The database's clock is the only one, for every replica. docs/decisions/0012 says what else was weighed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from aircall_oauth.errors import BudgetSpent
from aircall_oauth.http_client import retry_after_seconds
from aircall_oauth.storage.database import Database
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# A minute, the second that has begun, and three for a request that is slow to arrive.
SECONDS = 64
# The window that is waited for. What lies beyond it guards Aircall's minute, wherever that begins.
WINDOW_SECONDS = 60
# Two processes may draw in another order than they looked at the clock; more than this is a clock set back.
SKEW_SECONDS = 5
LONGEST_CLOSED_SECONDS = 120
USUAL_CLOSED_SECONDS = 60
# Reset is a point in time of a unit that Aircall does not document; a small number can only be a length of time.
MILLISECONDS_FROM = 1e12
TIMESTAMPS_FROM = 1e9

NOW = "floor(extract(epoch FROM clock_timestamp()))::bigint"
# The row as it stands in this second: what was spent in each second, this one first.
TURNED = f"""
    SELECT greatest(budget.second, now) AS second, (array_fill(0, ARRAY[passed]) || budget.spent)[1:{SECONDS}] AS spent
    FROM (SELECT {NOW} AS now) AS clock,
        LATERAL (SELECT least(greatest(now - budget.second, 0), {SECONDS})::integer AS passed) AS since
"""
TOTAL = f"(SELECT sum(calls) FROM ({TURNED}) AS turned, unnest(turned.spent) AS calls)"
OPEN = "coalesce(budget.closed_until <= clock_timestamp(), true)"


def drawing(companies: str, *, calls: str) -> str:
    """The statement that counts `calls` for each `company_id` of `companies`, to be limited by `within`."""
    return f"""
        INSERT INTO budget (company_id, second, spent)
        SELECT company_id, {NOW}, ARRAY[{calls}::integer] || array_fill(0, ARRAY[{SECONDS - 1}]) FROM {companies}
        ON CONFLICT (company_id) DO UPDATE SET (second, spent) = (
            SELECT turned.second, ARRAY[turned.spent[1] + {calls}] || turned.spent[2:] FROM ({TURNED}) AS turned
        )
    """


def within(*, calls: str, allowed: str) -> str:
    """The end of a statement that draws: a company for which more would be drawn than allowed is not returned."""
    return f"WHERE {OPEN} AND {TOTAL} + {calls} <= {allowed} RETURNING company_id"


# A draw need not survive PostgreSQL's own crash, so nobody waits for the disk while he holds the row.
HURRIED = "(SELECT $1::bigint AS company_id WHERE set_config('synchronous_commit', 'off', true) = 'off') AS hurried"
SPEND = drawing(HURRIED, calls="$2")
DRAW = f"{SPEND} {within(calls='$2', allowed='$3')}"
# A row far ahead of the clock was written before the clock was set back. It would be full until the clock is there.
FOLLOW_CLOCK = f"""
    UPDATE budget
    SET second = least(second, {NOW} + {SKEW_SECONDS}),
        closed_until = least(closed_until, clock_timestamp() + interval '{LONGEST_CLOSED_SECONDS} seconds')
    WHERE company_id = $1 AND (second > {NOW} + {SKEW_SECONDS}
        OR closed_until > clock_timestamp() + interval '{LONGEST_CLOSED_SECONDS} seconds')
"""
LOOK = f"""
    SELECT turned.spent,
        CASE WHEN {OPEN} THEN 0 ELSE extract(epoch FROM closed_until - clock_timestamp())::float END AS closed_seconds
    FROM budget, LATERAL ({TURNED}) AS turned WHERE company_id = $1
"""
CLOSE = f"""
    INSERT INTO budget (company_id, second, spent, closed_until)
    SELECT $1, {NOW}, array_fill(0, ARRAY[{SECONDS}]), clock_timestamp() + make_interval(secs => greatest(1, least(
        CASE WHEN $2 >= {TIMESTAMPS_FROM} THEN $2 - extract(epoch FROM clock_timestamp())::float ELSE $2 END,
        {LONGEST_CLOSED_SECONDS})))
    ON CONFLICT (company_id) DO UPDATE SET closed_until = excluded.closed_until
"""
SPEND_DOWN_TO = f"""
    UPDATE budget SET (second, spent) = (
        SELECT turned.second, ARRAY[turned.spent[1] + ($3 - $2 - {TOTAL})::integer] || turned.spent[2:]
        FROM ({TURNED}) AS turned
    )
    WHERE company_id = $1 AND $3 - {TOTAL} > $2
"""


@dataclass(frozen=True)
class Told:
    """What an answer says of Aircall's own count: how many requests are left, and when there are more again.

    `until` is seconds from now, or a UNIX time; None where it is not told.
    """

    remaining: int
    until: float | None = None


async def draw(database: Database, company_id: int, *, per_minute: int, chore: bool = False, calls: int = 1) -> None:
    """Take so many calls out of the company's budget, all or none; raises `BudgetSpent`.

    A chore takes only while more than half of the budget is left, so that callers find the other half. A piece of
    work that is larger than the budget takes all of it.
    """
    allowed = per_minute - per_minute // 2 if chore else per_minute
    calls = min(calls, allowed)
    async with database.driver_connection() as connection:
        if await connection.fetchval(DRAW, company_id, calls, allowed) is None:
            raise await refusal(connection, company_id, calls=calls, allowed=allowed)


async def refusal(connection: asyncpg.Connection, company_id: int, *, calls: int, allowed: int) -> BudgetSpent:
    """Why nothing was drawn, with the time to come back."""
    await connection.execute(FOLLOW_CLOCK, company_id)
    row = await connection.fetchrow(LOOK, company_id)
    until_free = min(_seconds_until_free(row["spent"], calls, allowed), WINDOW_SECONDS)
    wait = max(until_free, math.ceil(row["closed_seconds"]))
    return BudgetSpent(wait)


async def spend(database: Database, company_id: int, *, calls: int) -> None:
    """Count calls that were made before anybody knew for which company."""
    async with database.driver_connection() as connection:
        await connection.execute(SPEND, company_id, calls)


async def correct(database: Database, company_id: int, told: Told | None, *, per_minute: int) -> None:
    """Believe Aircall's own count where it says that less is left than we think."""
    if told is None:
        return
    async with database.driver_connection() as connection:
        if told.remaining:
            await connection.execute(SPEND_DOWN_TO, company_id, told.remaining, per_minute)
        else:
            until = USUAL_CLOSED_SECONDS if told.until is None else told.until
            await connection.execute(CLOSE, company_id, float(until))
            logger.info("Aircall's own limit is reached", company_id=company_id)


def told(status: int, headers: Mapping[str, str]) -> Told | None:
    """What an answer says of Aircall's own count; most say nothing.

    The `X-AircallApi-*` headers are documented for the moment the limit is reached
    (developer.aircall.io/api-references, Rate Limiting).
    """
    remaining = _number(headers.get("x-aircallapi-remaining"))
    if status != 429 and remaining is None:
        return None
    until = retry_after_seconds(headers.get("retry-after"), most=LONGEST_CLOSED_SECONDS)
    if until is None:
        until = _number(headers.get("x-aircallapi-reset"))
    if until is not None and until >= MILLISECONDS_FROM:
        until /= 1000
    return Told(0 if status == 429 else int(remaining or 0), until)


def _number(text: str | None) -> float | None:
    return float(text) if text and text.isdecimal() and len(text) < 16 else None


def _seconds_until_free(spent: Sequence[int], calls: int, allowed: int) -> int:
    """When enough of what was spent is past; the oldest second ends first."""
    too_many = sum(spent) + calls - allowed
    for seconds, past in enumerate(reversed(spent), start=1):
        too_many -= past
        if too_many <= 0:
            return seconds
    return SECONDS
