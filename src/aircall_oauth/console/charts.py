"""Charts, drawn as SVG here: no script, axes with units and the time zone, tooltips, and the numbers as a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from math import ceil, floor, log10

from markupsafe import Markup, escape

from aircall_oauth.telemetry.text import readable

WIDTH, HEIGHT = 460, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 10, 26
TICKS_OF_VALUES = 4
LABELS_OF_TIME = 6
# A table of more rows than these helps no one; neighbours are then put together.
MOST_ROWS = 48
# So many charts are remembered as they were drawn, of 40 KB each.
MOST_DRAWN = 32


@dataclass(frozen=True)
class Series:
    """One line or one kind of bar: its name, its colour's number, and a value for each moment; None where unknown."""

    name: str
    values: Sequence[float | None]
    colour: int = 1
    total: float | None = None  # of all of its time, in the unit that the chart's `totals` says


@dataclass(frozen=True)
class Chart:
    """Values over time. `unit` is what one is counted in, `step` how long each value stands for."""

    title: str
    unit: str
    moments: Sequence[datetime]
    series: Sequence[Series]
    step: timedelta = timedelta(minutes=1)
    bars: bool = False
    totals: str = ""  # what the series' totals are, such as "24 hours, events in all"
    said: str = ""  # its totals in words


def draw(chart: Chart, zone: tzinfo) -> Markup:
    """Return a figure: the picture, its legend, and its numbers behind a "show the numbers".

    The same chart is drawn once: what it shows changes once a minute, and many look at it.
    """
    series = tuple(replace(each, values=tuple(each.values)) for each in chart.series)
    return _figure(replace(chart, moments=tuple(chart.moments), series=series), zone)


@lru_cache(MOST_DRAWN)
def _figure(chart: Chart, zone: tzinfo) -> Markup:
    chart, name = _readable(chart), str(zone)
    top = _top(chart)
    times = _times(chart, zone)
    parts = [_grid(top), _axis_of_time(chart, zone), *(_drawn(chart, each, top, times) for each in chart.series)]
    picture = Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}: {}. The numbers are in the table below.">{}</svg>'
    ).format(WIDTH, HEIGHT, chart.title, _summary(chart), Markup("").join(parts))
    caption = Markup("<figcaption><strong>{}</strong> <span>{}; times in {}</span>{}</figcaption>").format(
        chart.title, chart.unit, name, _legend(chart)
    )
    said = Markup('<p class="hint">{}</p>').format(chart.said) if chart.said else Markup("")
    return Markup('<figure class="chart">{}{}{}{}</figure>').format(caption, picture, said, _table(chart, zone))


def spark(values: Sequence[float], label: str) -> Markup:
    """Return a small line without axes; `label` says what it shows."""
    label, most = readable(label), max(values, default=0) or 1
    across = 100 / max(1, len(values) - 1)
    points = " ".join(f"{n * across:.1f},{22 - 20 * value / most:.1f}" for n, value in enumerate(values))
    return Markup(
        '<svg class="spark" viewBox="0 0 100 24" role="img" aria-label="{}" preserveAspectRatio="none">'
        '<title>{}</title><polyline class="line c1" points="{}"/></svg>'
    ).format(label, label, points)


def heat(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[int]], most: int, unit: str) -> Markup:
    """Return a heat map as a table: each cell says its number, and its class (`heat-0` … `heat-4`) its shade."""
    rows, columns, unit = [readable(each) for each in rows], [readable(each) for each in columns], readable(unit)
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(column) for column in columns)
    body = Markup("").join(_heat_row(row, columns, each, most, unit) for row, each in zip(rows, values, strict=True))
    return Markup(
        '<table class="heat"><thead><tr><td class="corner"></td>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(head, body)


def _heat_row(row: str, columns: Sequence[str], values: Sequence[int], most: int, unit: str) -> Markup:
    cells = [
        Markup('<td class="heat-{}" title="{} {}: {} {}"><span>{}</span></td>').format(
            ceil(4 * value / most) if most else 0, row, column, value, unit, value
        )
        for column, value in zip(columns, values, strict=True)
    ]
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(row, Markup("").join(cells))


def _readable(chart: Chart) -> Chart:
    """Return a chart with the control characters of its texts as escapes: a name may come from outside."""
    series = [replace(each, name=readable(each.name)) for each in chart.series]
    return replace(
        chart,
        title=readable(chart.title),
        unit=readable(chart.unit),
        totals=readable(chart.totals),
        said=readable(chart.said),
        series=series,
    )


def _top(chart: Chart) -> float:
    """Return a round value that all fit under."""
    most = max((value for each in chart.series for value in each.values if value is not None), default=0)
    if most <= 0:
        return 1.0
    size = 10 ** floor(log10(most))
    return float(next(step * size for step in (1, 2, 4, 8, 10) if step * size >= most))


def _x(chart: Chart, index: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / max(1, len(chart.moments))


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def _grid(top: float) -> Markup:
    lines = []
    for tick in range(TICKS_OF_VALUES + 1):
        value = top * tick / TICKS_OF_VALUES
        lines.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, _y(value, top), _y(value, top), LEFT - 6, _y(value, top) + 4, number(value))
        )
    return Markup("").join(lines)


def _axis_of_time(chart: Chart, zone: tzinfo) -> Markup:
    if not chart.moments:
        return Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">nothing yet</text>').format(
            WIDTH / 2, HEIGHT / 2
        )
    every = max(1, ceil(len(chart.moments) / LABELS_OF_TIME))
    form = "%H:%M" if chart.step * len(chart.moments) <= timedelta(days=2) else "%d %b"
    labels = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            _x(chart, index), HEIGHT - 8, chart.moments[index].astimezone(zone).strftime(form)
        )
        for index in range(0, len(chart.moments), every)
    ]
    return Markup("").join(labels)


def _drawn(chart: Chart, series: Series, top: float, times: Sequence[str]) -> Markup:
    return _bars(chart, series, top, times) if chart.bars else _line(chart, series, top, times)


def _line(chart: Chart, series: Series, top: float, times: Sequence[str]) -> Markup:
    """Return a line, interrupted where nothing is known, with a wide invisible mark on each value for its tooltip."""
    pieces, piece = list[str](), list[str]()
    for index, value in enumerate(series.values):
        if value is None:
            pieces, piece = [*pieces, " ".join(piece)], []
        else:
            piece.append(f"{_x(chart, index):.1f},{_y(value, top):.1f}")
    drawn = [_piece(points, series.colour) for points in [*pieces, " ".join(piece)] if points]
    return Markup("").join([*drawn, _tips(chart, series, top, times)])


def _piece(points: str, colour: int) -> Markup:
    """Return a line through points; of one alone, which has no line, a dot."""
    if " " in points:
        return Markup('<polyline class="line c{}" points="{}"/>').format(colour, points)
    x, _, y = points.partition(",")
    return Markup('<circle class="dot c{}" cx="{}" cy="{}" r="2.5"/>').format(colour, x, y)


def _tips(chart: Chart, series: Series, top: float, times: Sequence[str]) -> Markup:
    said = _said(chart, series)
    return _joined(
        f'<circle class="tip c{series.colour}" cx="{_x(chart, index):.1f}" cy="{_y(value, top):.1f}" r="5">'
        f"<title>{times[index]}: {number(value)}{said}</title></circle>"
        for index, value in enumerate(series.values)
        if value is not None
    )


def _bars(chart: Chart, series: Series, top: float, times: Sequence[str]) -> Markup:
    width = (WIDTH - LEFT - RIGHT) / max(1, len(chart.moments))
    each = width * 0.8 / len(chart.series)
    beside, said = list(chart.series).index(series) * each, _said(chart, series)
    return _joined(
        f'<rect class="bar c{series.colour}" x="{_x(chart, index) - width * 0.4 + beside:.1f}" '
        f'y="{_y(value, top):.1f}" width="{max(each, 1):.1f}" height="{_y(0, top) - _y(value, top):.1f}">'
        f"<title>{times[index]}: {number(value)}{said}</title></rect>"
        for index, value in enumerate(series.values)
        if value is not None
    )


def _said(chart: Chart, series: Series) -> str:
    """Return what is said of each value of a series, behind its time and itself."""
    return escape(f" {chart.unit}, {series.name}")


def _times(chart: Chart, zone: tzinfo) -> list[str]:
    """Return each moment of a chart in words, escaped."""
    name = escape(str(zone))
    return [f"{moment.astimezone(zone):%Y-%m-%d %H:%M} {name}" for moment in chart.moments]


def _joined(parts: Iterable[str]) -> Markup:
    """Return what is made of numbers and of escaped text only; escaping each part again costs more than all else."""
    return Markup("".join(parts))  # noqa: S704 - see above


def _summary(chart: Chart) -> str:
    """Return what a chart says in words: for those who do not see it."""
    said = []
    for series in chart.series:
        known = [value for value in series.values if value is not None]
        if known:
            said.append(
                f"{series.name} between {number(min(known))} and {number(max(known))}, last {number(known[-1])}"
            )
    return "; ".join(said) or "no values yet"


def _legend(chart: Chart) -> Markup:
    if len(chart.series) < 2:
        return Markup("")
    keys = [Markup('<li><i class="key c{}"></i>{}</li>').format(each.colour, each.name) for each in chart.series]
    return Markup("<ul>{}</ul>").format(Markup("").join(keys))


def _table(chart: Chart, zone: tzinfo) -> Markup:
    """Return the numbers as a table; where there are too many, each row has the largest of some neighbours."""
    every = max(1, ceil(len(chart.moments) / MOST_ROWS))
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(each.name) for each in chart.series)
    rows = [
        _joined(
            [
                f'<tr><th scope="row">{chart.moments[index].astimezone(zone):%Y-%m-%d %H:%M}</th>',
                *(f"<td>{number(_most(each.values[index : index + every]))}</td>" for each in chart.series),
                "</tr>",
            ]
        )
        for index in range(0, len(chart.moments), every)
    ]
    if chart.totals:
        rows.append(
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                chart.totals,
                Markup("").join(Markup("<td>{}</td>").format(number(each.total)) for each in chart.series),
            )
        )
    said = "Show the numbers (the highest in each row’s time)" if every > 1 else "Show the numbers"
    return Markup(
        '<details><summary>{}</summary><div class="scroll" tabindex="0" role="region" aria-label="{}"><table>'
        '<thead><tr><th scope="col">Time ({})</th>{}</tr></thead><tbody>{}</tbody></table></div></details>'
    ).format(said, f"{chart.title}: numbers", zone, head, Markup("").join(rows))


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def number(value: float | None) -> str:
    """Return a number for people: as many digits as say something, thousands apart; exact where it is whole."""
    if value is None:
        return "–"
    if value == int(value):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:,.2f}".replace(",", "\u202f") if abs(value) < 10 else f"{value:,.1f}".replace(",", "\u202f")
