"""The plots of the console, from the numbers over time: no page reads the log to draw one.

A plot ends with the last minute that is written, and its steps are counted back from there. Where no process was alive
that could have counted, or before a destination was made, nothing is known, and nothing is drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aircall_oauth.console import words
from aircall_oauth.console.charts import Chart, Series, number
from aircall_oauth.console.times import length
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.figures import MINUTE, Point
from aircall_oauth.telemetry.figures import ALL, Delivery, Lag, Name

DAY = timedelta(hours=24)
STEP = timedelta(minutes=10)
MINUTES = STEP // MINUTE
STORED, REPEATED = "stored", "repeated"
LATELY = timedelta(minutes=5)
WEB, WORKER = "web", "worker"
# The processes write at the turn of a minute, and are given so long for it.
WRITTEN_WITHIN = timedelta(seconds=3)
LAST_MINUTE = "SELECT date_trunc('minute', now() - $1::interval, 'UTC')"

Amount = Callable[[Point], float]


@dataclass(frozen=True)
class Day:
    """The steps of the last 24 hours, by when each begins, and those in which a process could have counted."""

    moments: Sequence[datetime]
    known: frozenset[datetime]

    @property
    def until(self) -> datetime:
        return self.moments[-1] + STEP


async def of_the_day(resources: Resources) -> list[Chart]:
    """Return the plots of the last 24 hours: events in, deliveries, and the oldest event that waited."""
    days = await _days(resources, [WEB, WORKER])
    return [await _events(resources, days[WEB]), *await _of(resources, ALL, days[WORKER])]


async def of_destination(resources: Resources, subscription_id: str, made_at: datetime) -> list[Chart]:
    """Return the plots of one destination: deliveries, and the oldest event that waited."""
    return await _of(resources, subscription_id, (await _days(resources, [WORKER], made_at))[WORKER])


async def _of(resources: Resources, subscription_id: str, day: Day) -> list[Chart]:
    return [await _deliveries(resources, subscription_id, day), await _oldest(resources, subscription_id, day)]


async def _deliveries(resources: Resources, subscription_id: str, day: Day) -> Chart:
    points = await _read(resources, day, Name.DELIVERIES, [subscription_id])
    taken = _rates("delivered", 2, points, day, lambda point: point.amounts[Delivery.DELIVERED])
    failed = _rates("failed tries", 3, points, day, lambda point: point.amounts[Delivery.FAILED])
    tries = words.count(int(failed.total or 0), "failed try", "failed tries")
    said = f"In 24 hours: {number(taken.total)} delivered, {tries}."
    return _chart("Deliveries", "a minute", day, [taken, failed], "24 hours, in all", said)


async def _oldest(resources: Resources, subscription_id: str, day: Day) -> Chart:
    """Plot the age of the oldest event that waited, in the log or to be tried again."""
    points = await _read(resources, day, Name.LAG, [subscription_id])
    series = _series("at most", 5, points, day, lambda point: point.amounts[-1 if _is_old(point) else Lag.OLDEST])
    most = max((value for value in series.values if value is not None), default=None)
    said = "" if most is None else "In 24 hours no event waited." if not most else f"In 24 hours: {_age(most)} at most."
    series = Series(series.name, series.values, series.colour, most)
    return _chart("Oldest undelivered", "seconds", day, [series], "24 hours, at most", said)


async def events_a_minute(resources: Resources) -> float:
    """Return how many events were stored a minute, lately."""
    found = await figures.totals(resources.database, Name.ACKS, [STORED], within=LATELY)
    return found.get(STORED, [0])[0] / (LATELY / MINUTE)


async def _events(resources: Resources, day: Day) -> Chart:
    points = await _read(resources, day, Name.ACKS, None)
    stored = [point for point in points if point.label == STORED]
    not_taken = [point for point in points if point.label not in {STORED, REPEATED}]
    series = [
        _rates("stored", 1, stored, day, lambda point: point.amounts[0]),
        _rates("not taken", 3, not_taken, day, lambda point: point.amounts[0]),
    ]
    events, requests = (int(each.total or 0) for each in series[:2])
    said = f"In 24 hours: {words.count(events, 'event')} stored, {words.count(requests, 'request')} not taken."
    return _chart("Events in", "a minute", day, series, "24 hours, in all", said)


async def _days(resources: Resources, roles: list[str], made_at: datetime | None = None) -> dict[str, Day]:
    """Return the steps of the last 24 hours, until the last minute that is written down by now, for some roles."""
    async with resources.database.driver_connection() as connection:
        until: datetime = await connection.fetchval(LAST_MINUTE, WRITTEN_WITHIN)
    moments = [until - DAY + n * STEP for n in range(DAY // STEP)]
    alive = await figures.series(resources.database, Name.ALIVE, roles, moments[0], until, STEP, origin=moments[0])
    points = [point for point in alive if made_at is None or point.at + STEP > made_at]
    return {role: Day(moments, frozenset(point.at for point in points if point.label == role)) for role in roles}


async def _read(resources: Resources, day: Day, name: Name, labels: list[str] | None) -> list[Point]:
    first = day.moments[0]
    return await figures.series(resources.database, name, labels, first, day.until, STEP, origin=first)


def _rates(name: str, colour: int, points: list[Point], day: Day, amount: Amount) -> Series:
    """Return a series of amounts a minute, with the sum of all."""
    series = _series(name, colour, points, day, lambda point: amount(point) / MINUTES)
    return Series(name, series.values, colour, sum(amount(point) for point in points))


def _series(name: str, colour: int, points: list[Point], day: Day, amount: Amount) -> Series:
    """Return a series with zero where nothing was counted, and no value where nothing could be."""
    values: dict[datetime, float | None] = {moment: 0.0 if moment in day.known else None for moment in day.moments}
    for point in points:
        values[point.at] = (values.get(point.at) or 0.0) + amount(point)
    return Series(name, [values[moment] for moment in day.moments], colour)


def _is_old(point: Point) -> bool:
    """Whether an earlier version wrote it, which knew the log's part only."""
    return len(point.amounts) <= Lag.OLDEST


def _age(seconds: float) -> str:
    return length(timedelta(seconds=seconds))


def _chart(title: str, unit: str, day: Day, series: list[Series], totals: str, said: str) -> Chart:
    return Chart(title, unit, day.moments, series, STEP, totals=totals, said=said)
