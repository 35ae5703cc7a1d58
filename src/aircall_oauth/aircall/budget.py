"""The budget of requests to Aircall: one row per Aircall company, drawn from before every request.

Aircall counts all requests for a company per minute, and does not say when its minute begins. So a row counts what was
drawn in each of the last seconds, and no minute, wherever it begins, holds more than the budget. Every replica goes by
the database's clock. docs/decisions/0012 says what else was weighed.
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

# A minute, the current second, and three for a request that is slow to arrive.
SECONDS = 64
# The longest that a caller is told to wait. The seconds beyond it guard Aircall's minute, wherever that begins.
WINDOW_SECONDS = 60
# Two processes may draw in another order than they read the clock; a larger difference is a clock that was set back.
SKEW_SECONDS = 5
LONGEST_CLOSED_SECONDS = 120
USUAL_CLOSED_SECONDS = 60
# `X-AircallApi-Reset` is a point in time in a unit that Aircall does not document; a small number can only be a length.
MILLISECONDS_FROM = 1e12
TIMESTAMPS_FROM = 1e9

NOW = "floor(extract(epoch FROM clock_timestamp()))::bigint"
# The row brought to the current second: what was spent in each second, the current one first.
TURNED = f"""
    SELECT greatest(budget.second, now) AS second, (array_fill(0, ARRAY[passed]) || budget.spent)[1:{SECONDS}] AS spent
    FROM (SELECT {NOW} AS now) AS clock,
        LATERAL (SELECT least(greatest(now - budget.second, 0), {SECONDS})::integer AS passed) AS since
"""
TOTAL = f"(SELECT sum(calls) FROM ({TURNED}) AS turned, unnest(turned.spent) AS calls)"
OPEN = "coalesce(budget.closed_until <= clock_timestamp(), true)"


def drawing(companies: str, *, calls: str) -> str:
    """Return the statement that draws `calls` for each `company_id` of `companies`; `within` is its end."""
    return f"""
        INSERT INTO budget (company_id, second, spent)
        SELECT company_id, {NOW}, ARRAY[{calls}::integer] || array_fill(0, ARRAY[{SECONDS - 1}]) FROM {companies}
        ON CONFLICT (company_id) DO UPDATE SET (second, spent) = (
            SELECT turned.second, ARRAY[turned.spent[1] + {calls}] || turned.spent[2:] FROM ({TURNED}) AS turned
        )
    """


def within(*, calls: str, allowed: str) -> str:
    """Return the end of a drawing statement: it leaves out companies for which the draw would exceed `allowed`."""
    return f"WHERE {OPEN} AND {TOTAL} + {calls} <= {allowed} RETURNING company_id"


# A draw need not survive a crash of PostgreSQL, so no transaction waits for the disk while it holds the row.
HURRIED = "(SELECT $1::bigint AS company_id WHERE set_config('synchronous_commit', 'off', true) = 'off') AS hurried"
SPEND = drawing(HURRIED, calls="$2")
DRAW = f"{SPEND} {within(calls='$2', allowed='$3')}"
# A row far ahead of the clock was written before the clock was set back. Until the clock is there it would look full.
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
    """Aircall's own count, as an answer tells it: how many requests are left, and when there are more again.

    `until` is seconds from now or a UNIX time; None where the answer has neither.
    """

    remaining: int
    until: float | None = None


async def draw(database: Database, company_id: int, *, per_minute: int, chore: bool = False, calls: int = 1) -> None:
    """Draw so many calls from a company's budget, all or none; raises `BudgetSpent`.

    A chore may draw the first half of the budget only, so that callers find the other half. Work that needs more calls
    than it may draw draws all of them.
    """
    allowed = per_minute - per_minute // 2 if chore else per_minute
    calls = min(calls, allowed)
    async with database.driver_connection() as connection:
        if await connection.fetchval(DRAW, company_id, calls, allowed) is None:
            raise await refusal(connection, company_id, calls=calls, allowed=allowed)


async def refusal(connection: asyncpg.Connection, company_id: int, *, calls: int, allowed: int) -> BudgetSpent:
    """Return the error for a draw that did not fit, with the seconds to wait."""
    await connection.execute(FOLLOW_CLOCK, company_id)
    row = await connection.fetchrow(LOOK, company_id)
    until_free = min(_seconds_until_free(row["spent"], calls, allowed), WINDOW_SECONDS)
    wait = max(until_free, math.ceil(row["closed_seconds"]))
    return BudgetSpent(wait)


async def spent(database: Database, company_id: int) -> tuple[int, float]:
    """Return how many calls of the last minute are spent, and for how many seconds Aircall still refuses any."""
    async with database.driver_connection() as connection:
        row = await connection.fetchrow(LOOK, company_id)
    return (0, 0.0) if row is None else (sum(row["spent"]), max(0.0, row["closed_seconds"]))


async def spend(database: Database, company_id: int, *, calls: int) -> None:
    """Count calls that were made before their company was known."""
    async with database.driver_connection() as connection:
        await connection.execute(SPEND, company_id, calls)


async def correct(database: Database, company_id: int, told: Told | None, *, per_minute: int) -> None:
    """Adopt Aircall's own count where less is left by it than by ours."""
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
    """Return what an answer tells of Aircall's own count; None for most answers.

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
    """Return after how many seconds enough of the spent calls leave the window; the oldest leave first."""
    too_many = sum(spent) + calls - allowed
    for seconds, past in enumerate(reversed(spent), start=1):
        too_many -= past
        if too_many <= 0:
            return seconds
    return SECONDS
