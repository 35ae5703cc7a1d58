"""The plots of the console, from the numbers over time: no page reads the log to draw one."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aircall_oauth.console.charts import Chart, Series
from aircall_oauth.resources import Resources
from aircall_oauth.storage import figures
from aircall_oauth.storage.figures import EPOCH, Point
from aircall_oauth.telemetry.figures import ALL, Delivery, Name

DAY = timedelta(hours=24)
STEP = timedelta(minutes=10)
MINUTES = STEP // timedelta(minutes=1)
STORED, REPEATED = "stored", "repeated"
LATELY = timedelta(minutes=5)

Amount = Callable[[Point], float]


async def of_the_day(resources: Resources) -> list[Chart]:
    """Return the plots of the last 24 hours: events in, deliveries, and how far the slowest destination is behind."""
    return [await _events(resources), await deliveries(resources, ALL), await lag(resources, ALL)]


async def deliveries(resources: Resources, subscription_id: str) -> Chart:
    """Plot the deliveries of one destination, or of all of them, by their outcome."""
    points, moments = await _read(resources, Name.DELIVERIES, [subscription_id])
    return _chart(
        "Deliveries",
        "a minute",
        moments,
        [
            _series("delivered", 2, points, moments, lambda point: point.amounts[Delivery.DELIVERED] / MINUTES),
            _series("failed tries", 3, points, moments, lambda point: point.amounts[Delivery.FAILED] / MINUTES),
        ],
    )


async def lag(resources: Resources, subscription_id: str) -> Chart:
    """Plot how many seconds a destination, or the slowest of all, was behind the log at most."""
    points, moments = await _read(resources, Name.LAG, [subscription_id])
    return _chart(
        "Lag", "seconds behind", moments, [_series("at most", 5, points, moments, lambda point: point.amounts[1])]
    )


async def events_a_minute(resources: Resources) -> float:
    """Return how many events were stored a minute, lately."""
    found = await figures.totals(resources.database, Name.ACKS, [STORED], within=LATELY)
    return found.get(STORED, [0])[0] / (LATELY / timedelta(minutes=1))


async def _events(resources: Resources) -> Chart:
    points, moments = await _read(resources, Name.ACKS, None)
    stored = [point for point in points if point.label == STORED]
    not_taken = [point for point in points if point.label not in {STORED, REPEATED}]
    return _chart(
        "Events in",
        "a minute",
        moments,
        [
            _series("stored", 1, stored, moments, lambda point: point.amounts[0] / MINUTES),
            _series("not taken", 3, not_taken, moments, lambda point: point.amounts[0] / MINUTES),
        ],
    )


async def _read(resources: Resources, name: Name, labels: list[str] | None) -> tuple[list[Point], list[datetime]]:
    """Return a figure's points of the last day, and the beginning of each step, whether anything was counted in it.

    The step that is under way is left out: it would look like a fall.
    """
    until = EPOCH + (datetime.now(UTC) - EPOCH) // STEP * STEP
    points = await figures.series(resources.database, name, labels, until - DAY, until, STEP)
    return points, [until - DAY + n * STEP for n in range(DAY // STEP)]


def _series(name: str, colour: int, points: list[Point], moments: list[datetime], amount: Amount) -> Series:
    """Return a series with zero where nothing was counted."""
    values = dict.fromkeys(moments, 0.0)
    for point in points:
        values[point.at] = values.get(point.at, 0.0) + amount(point)
    return Series(name, [values[moment] for moment in moments], colour)


def _chart(title: str, unit: str, moments: list[datetime], series: list[Series]) -> Chart:
    return Chart(title, unit, moments, series, STEP)
