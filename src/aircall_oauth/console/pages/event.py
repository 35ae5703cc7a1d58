"""One event: what came in, what became of it for each destination, and sending it again."""

import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Response
from pydantic import ValidationError

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action
from aircall_oauth.console import acts, corrections, delivery_words, masks, waterfall
from aircall_oauth.console.acts import Act, Field
from aircall_oauth.console.charts import number
from aircall_oauth.console.frame import ActingPage, Form, Page, PageDep
from aircall_oauth.console.routing import OwnRoute, PageRoute
from aircall_oauth.console.visitors import TO_DISCLOSE
from aircall_oauth.deliveries import of_event
from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
from aircall_oauth.deliveries.of_event import DeliveryStatus, Journey
from aircall_oauth.deliveries.replays import resend
from aircall_oauth.deliveries.replays.bodies import Resend
from aircall_oauth.events import feed
from aircall_oauth.events.query import EventJson
from aircall_oauth.storage.statuses import EventSource

MOST_SKIPPED = 100_000

router = APIRouter(route_class=PageRoute)
looking = APIRouter(route_class=OwnRoute)

Skip = Annotated[int, Query(ge=0, le=MOST_SKIPPED)]
EventId = Annotated[str, Path(pattern=r"^evt_[0-9a-f]{32}$")]

# A list of more is no help: then the id is typed in.
MOST_CHOICES = 300
MOST_DIGITS = 100
# So many destinations that get an event are shown at once, and so many that do not: each is drawn.
LANES, OTHERS = 20, 50
# Destinations that go on waiting, or wait in vain, come first.
URGENCY = (DeliveryStatus.DEAD, DeliveryStatus.PARKED, DeliveryStatus.WAITING, DeliveryStatus.DELIVERED)
SOURCES: dict[str, str] = {
    EventSource.AIRCALL: "Aircall sent it",
    EventSource.BACKFILL: "Aircall told it when it was asked: it had been missed",
    EventSource.SERVICE: "This service noticed it",
}


@router.get("/events/{event_id}")
async def show_event(page: PageDep, event_id: EventId, skip: Skip = 0, skip_others: Skip = 0) -> Response:
    """What became of this event?"""
    event = await feed.find_event(page.resources, page.caller, event_id)
    return await _shown(page, event, skip, skip_others, revealed=False)


@looking.post("/events/{event_id}/reveal")
async def reveal(page: PageDep, event_id: EventId) -> Response:
    """Show an event with its personal data, and note that in the audit first."""
    page.visitor.require_reveal()
    event = await feed.find_event(page.resources, page.caller, event_id)
    async with page.resources.database.session() as session:
        await audit.record(
            session,
            page.who,
            Action.PAYLOAD_REVEALED,
            installation_id=event.installation_id,
            owner=event.owner,
            details={"event_id": event.id},
        )
    return await _shown(page, event, revealed=True)


@router.get("/events/{event_id}/resend")
async def ask_resend(page: PageDep, event_id: EventId) -> Response:
    """Ask to which destination an event is sent again."""
    event = await feed.find_event(page.resources, page.caller, event_id)
    return page.ask(_resend_act(page, event, await _destinations(page, event)))


@router.post("/events/{event_id}/resend")
async def send_again(page: ActingPage, event_id: EventId, form: Form) -> Response:
    """Send an event to one destination once more, and say what came of it."""
    event = await feed.find_event(page.resources, page.caller, event_id)
    try:
        wanted = Resend.model_validate(dict(form))
    except ValidationError as error:
        act = _resend_act(page, event, await _destinations(page, event))
        return page.ask(act, wrong=corrections.of(error))
    if not await of_event.is_wanted(page.resources, page.caller, event, wanted.subscription_id):
        # A destination that does not get it may be anybody's.
        page.visitor.require(TO_DISCLOSE)
    sent = await resend.resend(page.resources, page.caller, page.who, event_id, wanted.subscription_id)
    taken = isinstance(sent.outcome, Delivered)
    came = delivery_words.outcome(word(sent.outcome))
    return page.done(
        "Sent again" if taken else "Not taken",
        f"The destination took it in {sent.milliseconds} ms."
        if taken
        else f"The destination did not take it: {came}, after {sent.milliseconds} ms.",
        back=f"/events/{event_id}",
        facts=["Nothing else has changed: neither its position, nor what is parked."],
    )


async def _shown(page: Page, event: EventJson, skip: int = 0, skip_others: int = 0, *, revealed: bool) -> Response:
    deliveries = await of_event.of_each_subscription(page.resources, page.caller, event.id)
    deliveries.sort(key=lambda each: URGENCY.index(each.status))
    others = await of_event.left_out(page.resources, page.caller, event, [each.subscription_id for each in deliveries])
    shown = await of_event.journeys(page.resources, event, deliveries[skip : skip + LANES])
    data = json.loads(bytes(event.data), parse_int=_whole)
    return page.show(
        "event.html",
        title=event.type,
        sentence=delivery_words.of_deliveries(deliveries, others),
        event=event,
        source=SOURCES.get(event.source, event.source),
        journeys=[_lane(each, event) for each in shown],
        part=_part(page, event, "skip", skip, LANES, len(deliveries)),
        left_out=[(each, delivery_words.why_not(each)) for each in others[skip_others : skip_others + OTHERS]],
        others=_part(page, event, "skip_others", skip_others, OTHERS, len(others)),
        data=data if revealed else masks.masked(data),
        revealed=revealed,
        curl=acts.curl(page.settings.public_url, "GET", f"/v1/events/{event.id}"),
    )


def _part(page: Page, event: EventJson, name: str, skip: int, most: int, count: int) -> dict[str, Any]:
    """Return which part of a list is shown, in words, and the addresses of the next part and of the first."""
    given = {each: value for each, value in page.request.query_params.items() if each != name}
    address = f"/events/{event.id}"
    first, last = f"{address}?{urlencode(given)}" if given else address, min(skip + most, count)
    return {
        "said": f"{number(skip + 1)} to {number(last)} of {number(count)}" if last < count or skip else None,
        "older": f"{address}?{urlencode(given | {name: skip + most})}" if last < count else None,
        "newest": first if skip else None,
    }


def _whole(digits: str) -> int | str:
    """Return a whole number exactly; one of more digits than any id has stays text."""
    return int(digits) if len(digits) <= MOST_DIGITS else digits


def _lane(journey: Journey, event: EventJson) -> dict[str, Any]:
    """Return a destination's part of the page: words, picture, tries."""
    said = delivery_words.of_journey(journey, event.received_at)
    last = waterfall.reach(journey.tries, event.received_at)
    return {
        "id": journey.delivery.subscription_id,
        "name": journey.delivery.name,
        "badge": delivery_words.BADGES[journey.delivery.status],
        "said": said,
        "halt": delivery_words.of_halt(journey),
        "picture": waterfall.draw(journey.tries, event.received_at, last, f"{journey.delivery.name}: {said}"),
        "tries": [
            {
                "at": one.at,
                "after": waterfall.after(one, event.received_at),
                "outcome": delivery_words.outcome(one.outcome),
                "tone": "good" if one.outcome == "delivered" else "bad",
                "milliseconds": one.milliseconds,
                "kind": delivery_words.kind_of_try(one.replay_id),
                "replay": one.replay_id if one.replay_id and one.replay_id.startswith("rpl_") else None,
            }
            for one in journey.tries
        ],
    }


async def _destinations(page: Page, event: EventJson) -> dict[str, str]:
    """Return the destinations that the visitor may send an event to, by id, those that it goes to first."""
    found = {
        each.subscription_id: each.name
        for each in await of_event.of_each_subscription(page.resources, page.caller, event.id)
    }
    others = await of_event.left_out(page.resources, page.caller, event, list(found))
    return found | {
        each.subscription_id: f"{each.name} (does not want it)" if each.is_unwanted else each.name
        for each in others
        if page.visitor.reveals or not each.is_unwanted
    }


def _resend_act(page: Page, event: EventJson, destinations: dict[str, str]) -> Act:
    first = next(iter(destinations), "sub_…")
    label, name = "To the destination", "subscription_id"
    if 0 < len(destinations) <= MOST_CHOICES:
        field = Field(name, label, kind="select", value=first, required=True, options=destinations)
    else:
        field = Field(name, label, required=True, hint="Its id, sub_…; the page Destinations has it.")
    return Act(
        title=f"Send {event.type} again",
        sentence="This sends the event to one destination right now, once, whatever its filter says.",
        effects=[
            "It is signed like any other, and marked as sent again: webhook-replay: resend.",
            "The destination may have it already: it can tell by the event's id.",
            "Nothing else changes: neither the destination's position, nor what is parked.",
        ],
        button="Send it again",
        back=f"/events/{event.id}",
        curl=acts.curl(page.settings.public_url, "POST", f"/v1/events/{event.id}/resend", {"subscription_id": first}),
        command=acts.command("events", "resend", event.id, "--to", first),
        fields=[field],
    )
