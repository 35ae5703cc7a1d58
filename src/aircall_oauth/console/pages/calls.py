"""A call from ring to delivery: everything with its id."""

from collections import defaultdict
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Response

from aircall_oauth.console import acts, delivery_words, words
from aircall_oauth.console.frame import Page, PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.deliveries import of_event, views
from aircall_oauth.deliveries.of_event import Try, Untried
from aircall_oauth.errors import NotFound
from aircall_oauth.events import newest
from aircall_oauth.events.newest import Search
from aircall_oauth.events.query import EventJson, Filter
from aircall_oauth.events.routes import LAST_POSITION
from aircall_oauth.events.spans import Span
from aircall_oauth.installations.outages import backfill
from aircall_oauth.storage.models.installations import Gap
from aircall_oauth.storage.statuses import EventSource

router = APIRouter(route_class=PageRoute)

MOST = 100
GAPS = 100
# A proxied request about a call is made while it lasts, or soon after.
AROUND = timedelta(minutes=10)

CallId = Annotated[int, Path(ge=0, le=LAST_POSITION)]


@router.get("/calls/{call_id}")
async def show_call(page: PageDep, call_id: CallId) -> Response:
    """What became of this call?"""
    search = Search(MOST, Filter(), Span(subject=f"call:{call_id}"))
    found = await newest.read_back(page.resources, page.caller, search)
    if not found.events:
        raise NotFound(f"The log has no event of a call {call_id}.")
    events = list(reversed(found.events))
    tries = await of_event.tries_of(page.resources, [event.id for event in events])
    waiting = await of_event.untried(page.resources, page.caller, events)
    names = await views.names_of(page.resources, page.caller, {one.subscription_id for one in tries})
    return page.show(
        "call.html",
        title=f"Call {call_id}",
        sentence=_sentence(events, tries, len(waiting), found.more),
        events=_with_deliveries(events, tries, waiting, names),
        looked_at=_looked_at(page, len(events)),
        gaps=await _gaps(page, events),
        proxied=_proxied(events),
        curl=acts.curl(page.settings.public_url, "GET", f"/v1/events?call_id={call_id}&order=desc"),
        command=acts.command("events", "list", "--call-id", str(call_id)),
    )


def _looked_at(page: Page, events: int) -> int | None:
    """Return at how many destinations was looked for deliveries that wait; None if it was at all there may be."""
    looked_at = of_event.untried_of(events)
    return looked_at if looked_at < page.settings.max_subscriptions else None


def _sentence(events: list[EventJson], tries: list[Try], waiting: int, more: bool) -> str:
    """Say how far a call has come, and whether it has reached its destinations."""
    first, last = events[0], events[-1]
    said = f"{'More than ' if more else ''}{words.count(len(events), 'event')}, from {first.type}"
    said += (
        f" to {last.type}, in {delivery_words.brief(last.received_at - first.received_at)}" if len(events) > 1 else ""
    )
    got = {(one.event_id, one.subscription_id) for one in tries if one.outcome == "delivered"}
    missing = {(one.event_id, one.subscription_id) for one in tries} - got
    said += f"; {words.count(len(got), 'delivery', 'deliveries')}"
    said += f", {len(missing)} not taken" if missing else ""
    untried = words.many(waiting, waiting >= of_event.MOST_UNTRIED)
    return f"{said}, {untried} not tried yet." if waiting else f"{said}."


def _with_deliveries(
    events: list[EventJson], tries: list[Try], waiting: list[Untried], names: dict[str, str]
) -> list[tuple[EventJson, str, list[Any]]]:
    """Return each event with its lines and their worst tone: one for each destination it was tried at or waits for."""
    by_event: dict[str, dict[str, list[Try]]] = defaultdict(lambda: defaultdict(list))
    for one in tries:
        by_event[one.event_id][one.subscription_id].append(one)
    lines = {event.id: [_line(event, *tried, names) for tried in by_event[event.id].items()] for event in events}
    for each in waiting:
        lines[each.event_id].append(_waiting_line(each))
    return [(event, _worst(lines[event.id]), lines[event.id]) for event in events]


def _worst(lines: list[dict[str, Any]]) -> str:
    tones = {line["tone"] for line in lines}
    return next((tone for tone in ("bad", "warn", "good") if tone in tones), "")


def _waiting_line(waiting: Untried) -> dict[str, Any]:
    said = delivery_words.of_untried(waiting)
    line = {"id": waiting.subscription_id, "name": waiting.name, "said": said, "tries": 0}
    return line | {"tone": "warn", "badge": "waiting"}


def _line(event: EventJson, subscription_id: str, tried: list[Try], names: dict[str, str]) -> dict[str, Any]:
    taken = [one for one in tried if one.outcome == "delivered"]
    last = (taken or tried)[-1]
    return {
        "id": subscription_id if subscription_id in names else None,
        "name": names.get(subscription_id, subscription_id),
        "tone": "good" if taken else "bad",
        "badge": "delivered" if taken else "not taken",
        "said": f"taken {delivery_words.brief(taken[0].at - event.received_at)} after it came in"
        if taken
        else delivery_words.outcome(last.outcome),
        "tries": len(tried),
    }


async def _gaps(page: Page, events: list[EventJson]) -> list[Gap]:
    """Return the gaps of the call's customer in which the call, or one of its events, fell."""
    happened = [event.occurred_at or event.received_at for event in events]
    found = await backfill.list_gaps(page.resources, installation_id=events[0].installation_id, limit=GAPS)
    told = any(event.source == EventSource.BACKFILL for event in events)
    return [
        gap
        for gap in found
        if told and any(gap.since <= at and (gap.until is None or at <= gap.until) for at in happened)
    ]


def _proxied(events: list[EventJson]) -> str:
    """Return the audit's address with the calls to Aircall for this customer around the call."""
    since, until = events[0].received_at - AROUND, events[-1].received_at + AROUND
    asked = {
        "action": "aircall.*",
        "installation_id": events[0].installation_id,
        "since": f"{since:%Y-%m-%dT%H:%M}",
        "until": f"{until:%Y-%m-%dT%H:%M}",
    }
    return f"/audit?{urlencode(asked)}"
