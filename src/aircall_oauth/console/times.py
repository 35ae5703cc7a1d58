"""Times as the console shows them: in the zone that the viewer chose, UTC by default, always with the zone's name."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from markupsafe import Markup

COOKIE = "__Host-aircall-console-zone"
UNITS = (
    (timedelta(days=1), "d"),
    (timedelta(hours=1), "h"),
    (timedelta(minutes=1), "min"),
    (timedelta(seconds=1), "s"),
)


@cache
def names() -> list[str]:
    """Return the names of all zones, UTC first."""
    return ["UTC", *sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))]


def zone(name: str | None) -> tzinfo:
    """Return the zone of this name; UTC where there is none."""
    if name is None or name not in names():
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def shown(moment: datetime | None, where: tzinfo, *, seconds: bool = True) -> Markup:
    """Return a moment as a `<time>` element, with its UTC time as the tooltip."""
    if moment is None:
        return Markup('<span class="none">never</span>')
    local, utc = moment.astimezone(where), moment.astimezone(UTC)
    said = local.isoformat(" ", "seconds" if seconds else "minutes")[: 19 if seconds else 16]
    title = f"{utc.isoformat(' ', 'seconds')[:19]} UTC, {ago(moment)}"
    # Digits and our own words only: a list has a hundred of them.
    return Markup(f'<time datetime="{utc.isoformat()}" title="{title}">{said}</time>')  # noqa: S704 - see above


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was, or how far ahead it is, in its largest unit: `5 min ago`, `in 2 h`."""
    passed = (now or datetime.now(UTC)) - moment
    return f"{length(passed)} ago" if passed >= timedelta(0) else f"in {length(-passed)}"


def length(span: timedelta) -> str:
    """Return a length of time in its largest unit."""
    for unit, name in UNITS:
        if span >= unit:
            return f"{span // unit} {name}"
    return "0 s"


def exact_length(span: timedelta) -> str:
    """Return a length of time in minutes up to two hours, in hours up to two days, then in days."""
    for unit, name in UNITS:
        if span >= 2 * unit or unit == UNITS[-1][0]:
            return f"{span // unit} {name}"
    return "0 s"
