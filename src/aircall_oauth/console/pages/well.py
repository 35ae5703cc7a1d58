"""Is it well? What needs a person, each with its cause and one button; for three in the morning."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from fastapi import APIRouter, Response

from aircall_oauth.console import delivery_words, plots, words
from aircall_oauth.console.charts import number
from aircall_oauth.console.frame import NAVIGATION, PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.console.times import length
from aircall_oauth.deliveries.waiting import Waiting
from aircall_oauth.operations import wellness
from aircall_oauth.operations.destinations_in_need import LATE_SECONDS
from aircall_oauth.operations.doctor import Level
from aircall_oauth.operations.needs import Cause, Need, Touched
from aircall_oauth.operations.wellness import SLOW_SECONDS, Wellness
from aircall_oauth.storage.statuses import InstallationStatus

router = APIRouter(route_class=PageRoute)

# What a person who may act can do about it at once, for the first that is touched.
CHECK = ("check", "Check {} now")
ACTS = {
    Cause.SILENT: CHECK,
    Cause.WEBHOOKS_OFF: CHECK,
    Cause.WEBHOOKS_PENDING: CHECK,
    Cause.TOKENS_REFUSED: ("link", "Make an install link"),
}
# Where to look at what touches everyone.
OF_ALL = {
    Cause.WORKER: ("/destinations", "See what waits"),
    Cause.SLOW_ANSWERS: ("/events", "See what comes in"),
}
# The lists of customers that have a need.
STATUSES = {
    Cause.SILENT: "silent",
    Cause.TOKENS_REFUSED: "unauthorized",
    Cause.UNCLAIMED: "unclaimed",
}


@dataclass(frozen=True)
class Figure:
    """One number of the page: its name, its value, a line below, and how bad it is."""

    name: str
    value: str
    more: str = ""
    tone: str = ""


@router.get("/")
async def well(page: PageDep) -> Response:
    """Is it well?"""
    found = await wellness.examine(page.resources)
    return page.show(
        "well.html",
        title="Is it well?",
        sentence=_sentence(found),
        tone=_tone(found),
        needs=[(need, _button(page.visitor.acts, need)) for need in found.needs],
        address_of=_address,
        failures=_failures,
        figures=_figures(found, await plots.events_a_minute(page.resources)),
        plots=await plots.of_the_day(page.resources),
    )


def _sentence(found: Wellness) -> str:
    if not found.needs:
        return "All well: events come in, and every destination takes them."
    return "One thing needs you." if len(found.needs) == 1 else f"{len(found.needs)} things need you."


def _failures(need: Need) -> str:
    """Say why deliveries failed."""
    said = ", ".join(dict.fromkeys(map(delivery_words.outcome, need.failures)))
    return f"Its last failure: {said}." if need.count == 1 else f"Their last failures: {said}."


def _tone(found: Wellness) -> str:
    if not found.needs:
        return ""
    return "bad" if found.needs[0].level == Level.PROBLEM else "warn"


def _figures(found: Wellness, events_a_minute: float) -> list[Figure]:
    measured, ack_seconds = found.measured, found.ack_seconds
    readings = measured.subscriptions.values()
    late = max((reading.lag_seconds for reading in readings), default=0.0)
    oldest = max((reading.oldest_seconds for reading in readings), default=0.0)
    down = sum(not reading.up for reading in readings)
    again = sum(reading.parked for reading in readings)
    return [
        Figure("Events a minute", number(round(events_a_minute, 1)), "of the last five"),
        Figure("Acknowledged in", _milliseconds(ack_seconds), "99 of 100, last hour", _slow(ack_seconds)),
        Figure(
            "Oldest undelivered",
            _age(oldest),
            _waiting(found.waiting, again),
            "bad" if late > LATE_SECONDS else "",
        ),
        Figure("Destinations down", number(down), f"of {number(len(readings))}", "bad" if down else ""),
        Figure(
            "Customers silent",
            number(measured.silent),
            _connected(measured.installations),
            "warn" if measured.silent else "",
        ),
        Figure(
            "Worker",
            "alive" if found.worker_alive else "not seen",
            f"the log has {measured.days_ahead} days ahead",
            "" if found.worker_alive else "bad",
        ),
    ]


def _waiting(waiting: Waiting, again: int) -> str:
    """Say how many deliveries wait: an event that waits for two destinations is two of them."""
    deliver = "delivery waits" if waiting == Waiting(1) else "deliveries wait"
    tried = "is tried again" if again == 1 else "are tried again"
    return f"{words.many(waiting.events, waiting.more)} {deliver} in the log, {number(again)} {tried}"


def _connected(installations: Mapping[str, int]) -> str:
    connected = f"of {number(installations[InstallationStatus.ACTIVE])} connected"
    unclaimed = installations[InstallationStatus.UNCLAIMED]
    return f"{connected}, {number(unclaimed)} unclaimed" if unclaimed else connected


def _milliseconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{number(round(seconds * 1000))} ms"


def _slow(seconds: float | None) -> str:
    return "bad" if seconds is not None and seconds >= SLOW_SECONDS else ""


def _age(seconds: float) -> str:
    return "none" if seconds <= 0 else length(timedelta(seconds=seconds))


def _address(touched: Touched) -> str:
    """Return the page of a customer or a destination; without pages of destinations, what the audit has of it."""
    if not touched.id.startswith("sub_"):
        return f"/customers/{touched.id}"
    return f"/destinations/{touched.id}" if "/destinations" in NAVIGATION else f"/audit?subscription_id={touched.id}"


def _button(acts: bool, need: Need) -> tuple[str, str]:
    """Return the one button of a need: where it leads, and what it says."""
    if not need.touched:
        return OF_ALL[need.cause]
    first = need.touched[0]
    if need.count > 1 and (need.cause not in ACTS or not acts):
        return _list_of(need)
    if acts and need.cause in ACTS:
        act, said = ACTS[need.cause]
        return f"{_address(first)}/{act}", said.format(first.name)
    return _address(first), f"Open {first.name}"


def _list_of(need: Need) -> tuple[str, str]:
    """Return the page that lists all that a need touches."""
    if need.touched[0].id.startswith("sub_"):
        return "/destinations", "See all destinations"
    status = STATUSES.get(need.cause)
    return (f"/customers?status={status}", "See them all") if status else ("/customers", "See all customers")
