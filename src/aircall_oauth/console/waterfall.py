"""The tries of an event for one destination as a waterfall: a mark for each, over the time since the event came in.

The scale is logarithmic, since a first try comes after milliseconds and a last one after days.
"""

from collections.abc import Sequence
from datetime import datetime
from math import log10

from markupsafe import Markup

from aircall_oauth.console.delivery_words import brief, outcome
from aircall_oauth.deliveries.destinations.outcomes import DELIVERED
from aircall_oauth.deliveries.of_event import Try
from aircall_oauth.telemetry.text import readable

WIDTH, HEIGHT = 600, 34
FIRST_SECONDS = 0.01
LEAST_LAST_SECONDS = 100.0
MARK_WIDTH = 5
TICKS = (
    (0.01, "10 ms"),
    (0.1, "100 ms"),
    (1, "1 s"),
    (10, "10 s"),
    (60, "1 min"),
    (600, "10 min"),
    (3600, "1 h"),
    (21_600, "6 h"),
    (86_400, "1 d"),
    (432_000, "5 d"),
    (2_592_000, "30 d"),
)
LEAST_APART = 46


def draw(tries: Sequence[Try], since: datetime, last: float, label: str) -> Markup:
    """Return a lane with a mark for each try; `last` is how many seconds the scale reaches."""
    marks = Markup("").join(_mark(one, since, last) for one in tries)
    return Markup(
        '<svg class="lane" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<line class="grid" x1="0" x2="{}" y1="8" y2="8"/>{}</svg>'
    ).format(WIDTH, HEIGHT, readable(label), _scale(last), WIDTH, marks)


def reach(tries: Sequence[Try], since: datetime) -> float:
    """Return how many seconds a scale must reach to hold all tries."""
    ends = [(one.at - since).total_seconds() + one.milliseconds / 1000 for one in tries]
    return max([*ends, LEAST_LAST_SECONDS])


def after(one: Try, since: datetime) -> str:
    """Return how long after an event came in a try began."""
    return brief(one.at - since)


def _mark(one: Try, since: datetime, last: float) -> Markup:
    begin = (one.at - since).total_seconds()
    left, right = _x(begin, last), _x(begin + one.milliseconds / 1000, last)
    return Markup(
        '<rect class="bar c{}" x="{:.1f}" y="1" width="{:.1f}" height="14" rx="2"><title>{}</title></rect>'
    ).format(
        2 if one.outcome == DELIVERED else 3,
        min(left, WIDTH - MARK_WIDTH),
        max(right - left, MARK_WIDTH),
        f"{after(one, since)} after it came in: {outcome(one.outcome)}, {one.milliseconds} ms",
    )


def _scale(last: float) -> Markup:
    """Return the ticks that the scale has room for."""
    drawn, free_from = [], 0.0
    for seconds, name in TICKS:
        x = _x(seconds, last)
        if seconds <= last and x >= free_from and x <= WIDTH - LEAST_APART / 2:
            anchor = "start" if x == 0 else "middle"
            drawn.append(
                Markup('<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="18"/>').format(x)
                + Markup('<text class="tick" x="{:.1f}" y="31" text-anchor="{}">{}</text>').format(x, anchor, name)
            )
            free_from = x + LEAST_APART
    return Markup("").join(drawn)


def _x(seconds: float, last: float) -> float:
    share = log10(max(seconds, FIRST_SECONDS) / FIRST_SECONDS) / log10(last / FIRST_SECONDS)
    return WIDTH * min(share, 1.0)
