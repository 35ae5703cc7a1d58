"""The numbers over time: adds what a process counted, and reads series and totals.

Every amount is added to its minute and to its hour in one statement, so hours need no chore that rolls minutes up, and
none is missed by one. Minutes are kept for 48 hours, hours for 400 days. There is a row only where something was
counted: at most 2,880 minutes and 9,600 hours for each name and label.

All times are the database's: a process says how long ago it counted, and its own clock is not asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aircall_oauth.storage import batches, clocks
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.statuses import Step

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MINUTES_KEPT, HOURS_KEPT = timedelta(hours=48), timedelta(days=400)
# Rows further ahead were written under a clock that was wrong.
AHEAD = timedelta(hours=1)
MOST_POINTS = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# In the order of the key, so that processes that write at once do not deadlock.
ADD = f"""
    INSERT INTO figure (name, label, step, at, highest, amounts)
    SELECT c.name, c.label, s.step, date_trunc(s.step, now() - $1::interval, 'UTC'), c.highest, c.amounts::bigint[]
    FROM unnest($2::text[], $3::text[], $4::boolean[], $5::text[]) AS c (name, label, highest, amounts)
    CROSS JOIN unnest('{{{",".join(Step)}}}'::text[]) AS s (step)
    ORDER BY 1, 2, 3
    ON CONFLICT (name, label, step, at) DO UPDATE SET amounts = (
        SELECT array_agg(
            CASE WHEN figure.highest THEN greatest(had, more) ELSE coalesce(had, 0) + coalesce(more, 0) END ORDER BY n
        ) FROM unnest(figure.amounts, excluded.amounts) WITH ORDINALITY AS pair (had, more, n)
    )
"""  # noqa: S608 - only constants of ours are put in
# Of every label where none is named: those are found first, so that both ways read along the key.
SERIES = """
    SELECT label, at, array_agg(amount ORDER BY n) AS amounts FROM (
        SELECT label, date_bin($4, at, $7) AS at, n,
            CASE WHEN bool_or(highest) THEN max(amount) ELSE sum(amount) END::bigint AS amount
        FROM figure, unnest(amounts) WITH ORDINALITY AS one (amount, n)
        WHERE name = $1 AND step = $3 AND figure.at >= $5 AND figure.at < $6
            AND label = ANY (coalesce($2::text[], ARRAY(
                SELECT DISTINCT label FROM figure WHERE name = $1 AND step = $3 AND at >= $5 AND at < $6
            )))
        GROUP BY 1, 2, 3
    ) AS binned
    GROUP BY 1, 2 ORDER BY 2, 1
"""
# Whole hours, and the minutes of the first one, which is not whole.
TOTALS = f"""
    SELECT label, array_agg(amount ORDER BY n) AS amounts FROM (
        SELECT label, n, CASE WHEN bool_or(highest) THEN max(amount) ELSE sum(amount) END::bigint AS amount
        FROM figure, unnest(amounts) WITH ORDINALITY AS one (amount, n)
        WHERE name = $1 AND label = ANY ($2::text[]) AND (
            (step = '{Step.HOUR}' AND at >= date_trunc('hour', now() - $3::interval, 'UTC') + interval '1 hour'
             AND at <= now())
            OR (step = '{Step.MINUTE}' AND at >= now() - $3::interval
                AND at < date_trunc('hour', now() - $3::interval, 'UTC') + interval '1 hour')
        )
        GROUP BY 1, 2
    ) AS summed
    GROUP BY 1
"""  # noqa: S608 - only constants of ours are put in
LAST = f"""
    SELECT at FROM figure WHERE name = $1 AND label = $2 AND step = '{Step.MINUTE}' AND at <= now()
    ORDER BY at DESC LIMIT 1
"""  # noqa: S608 - likewise
# The last hour that was good, the last minute of it that was; then the first that was bad. Each is read along the key.
BEGAN = f"""
    WITH good AS MATERIALIZED (SELECT (
        SELECT at FROM figure WHERE name = $1 AND label = $2 AND step = '{Step.HOUR}' AND amounts[$4] > 0
        ORDER BY at DESC LIMIT 1
    ) AS hour)
    SELECT (
        SELECT at FROM figure WHERE name = $1 AND label = $2 AND step = '{Step.MINUTE}' AND amounts[$3] > 0
            AND at > coalesce((
                SELECT at FROM figure WHERE name = $1 AND label = $2 AND step = '{Step.MINUTE}' AND amounts[$4] > 0
                    AND at >= good.hour AND at < good.hour + interval '1 hour' ORDER BY at DESC LIMIT 1
            ), good.hour, '-infinity') ORDER BY at LIMIT 1
    ) AS minute, (
        SELECT at FROM figure WHERE name = $1 AND label = $2 AND step = '{Step.HOUR}' AND amounts[$3] > 0
            AND at > coalesce(good.hour, '-infinity') ORDER BY at LIMIT 1
    ) AS hour
    FROM good
"""  # noqa: S608 - likewise
FORGET = """
    DELETE FROM figure WHERE (name, label, step, at) IN (
        SELECT name, label, step, at FROM figure WHERE step = $1 AND {} $2 LIMIT $3
    )
"""


@dataclass(frozen=True)
class Count:
    """What was counted under a name and a label."""

    name: str
    label: str
    amounts: Sequence[int]
    highest: bool = False


@dataclass(frozen=True)
class Point:
    """A step of a series: what was counted from `at` on, until the next step."""

    at: datetime
    label: str
    amounts: list[int]


async def add(database: Database, counts: Sequence[Count], *, ago: timedelta) -> None:
    """Add what was counted so long ago to its minute and its hour, in one statement; raises `DatabaseAway`."""
    async with database.driver_connection() as connection:
        await connection.execute(
            ADD,
            ago,
            [count.name for count in counts],
            [count.label for count in counts],
            [count.highest for count in counts],
            ["{" + ",".join(map(str, count.amounts)) + "}" for count in counts],
        )


async def series(
    database: Database,
    name: str,
    labels: Sequence[str] | None,
    since: datetime,
    until: datetime,
    step: timedelta,
    *,
    origin: datetime = EPOCH,
) -> list[Point]:
    """Read a series in the order of time, in steps of whole minutes or, from an hour on, of whole hours.

    With `labels` None, those of every label. The first step begins at or before `since`, and steps in which nothing was
    counted are left out. A step begins at `origin`, a whole minute or hour, as do all others from there. Raises
    `ValueError` for more than `MOST_POINTS` steps, and for a step that is not whole.
    """
    kept = Step.MINUTE if step < HOUR else Step.HOUR
    whole = MINUTE if kept == Step.MINUTE else HOUR
    if step < MINUTE or step % whole:
        raise ValueError("A step is some whole minutes, or some whole hours.")
    first = origin + (since - origin) // step * step
    if (until - first) / step > MOST_POINTS:
        raise ValueError(f"More than {MOST_POINTS:,} steps.")
    async with database.driver_connection() as connection:
        rows = await connection.fetch(SERIES, name, labels, kept, step, first, until, origin)
    return [Point(row["at"], row["label"], row["amounts"]) for row in rows]


async def totals(
    database: Database, name: str, labels: Sequence[str], *, within: timedelta = timedelta(hours=24)
) -> dict[str, list[int]]:
    """Read what was counted within so long, which `MINUTES_KEPT` bounds; a label without any is left out."""
    async with database.driver_connection() as connection:
        rows = await connection.fetch(TOTALS, name, labels, min(within, MINUTES_KEPT))
    return {row["label"]: row["amounts"] for row in rows}


async def last(database: Database, name: str, label: str) -> datetime | None:
    """Return the last minute of the last 48 hours in which anything was counted."""
    async with database.driver_connection() as connection:
        found: datetime | None = await connection.fetchval(LAST, name, label)
    return found


async def began(database: Database, name: str, label: str, *, bad: int, good: int) -> datetime | None:
    """Return when one amount began to be counted after another was counted last; None if it was not since.

    `bad` and `good` are places of the amounts. To the minute within 48 hours, to the hour beyond.
    """
    async with database.driver_connection() as connection:
        row = await connection.fetchrow(BEGAN, name, label, bad + 1, good + 1)
    minute, hour = row["minute"], row["hour"]
    found: datetime | None = hour if minute is None or (hour is not None and minute - hour >= HOUR) else minute
    return found


async def forget(database: Database) -> None:
    """Delete minutes older than 48 hours, hours older than 400 days, and what a wrong clock has put ahead.

    Raises `ClocksDisagree`.
    """
    at = await clocks.agreed_now(database)
    for step, kept in ((Step.MINUTE, MINUTES_KEPT), (Step.HOUR, HOURS_KEPT)):
        await batches.delete(database, FORGET.format("at <"), step, at - kept)
        await batches.delete(database, FORGET.format("at >"), step, at + AHEAD)
