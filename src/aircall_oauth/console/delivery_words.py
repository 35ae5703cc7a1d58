"""How destinations and deliveries do, in words: a badge for lists, and a sentence that says what follows."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from aircall_oauth.console.times import ago, length
from aircall_oauth.console.words import Standing, count, many
from aircall_oauth.deliveries.of_event import Delivery, DeliveryStatus, Halt, Journey, LeftOut, Reason, Untried
from aircall_oauth.deliveries.troubled import Lately
from aircall_oauth.deliveries.views import COUNTED, MOST_BESIDE, SubscriptionView
from aircall_oauth.storage.statuses import Health, SubscriptionStatus

LATE_SECONDS = 60
DAY = timedelta(days=1)
# At the turn of the minute after the one in which something was delivered.
COUNTED_WITHIN = timedelta(minutes=2)
OUTCOMES = {
    "delivered": "taken",
    "timeout": "no answer in time",
    "refused": "refused the connection",
    "dns": "its name is not found",
    "tls": "no secure connection",
    "unreachable": "not reachable",
    "blocked_address": "its address is not allowed",
    "redirect": "answered with a redirect",
    "not_http": "does not speak HTTP",
    "too_large": "the event is too large for it",
    "closed": "closed the connection",
    "reset": "broke the connection off",
    "internal_error": "a fault of this service",
    "subscription_disabled": "the destination wants no more",
}
BADGES = {
    DeliveryStatus.DELIVERED: ("delivered", "good"),
    DeliveryStatus.WAITING: ("waiting", "warn"),
    DeliveryStatus.PARKED: ("tried again", "warn"),
    DeliveryStatus.DEAD: ("given up", "bad"),
}
REASONS = {
    Reason.TYPES: "filter: types",
    Reason.OWNERS: "filter: owners",
    Reason.INSTALLATIONS: "filter: installations",
    Reason.ABOUT_ITSELF: "it is about this destination itself",
    Reason.ERASED: "what it held was erased",
    Reason.LATER: "it was made after the event came in",
    Reason.PASSED: "it had read past the event, and no try is kept",
}
RESENT = "resend"
HALTS = {
    Halt.PAUSED: "is paused: nothing is sent to it until it is resumed.",
    Halt.DISABLED: "answered that it wants no more: nothing is sent to it until it is resumed.",
    Halt.DOWN: "is down: its events wait in order until it takes one again.",
}


def outcome(word: str) -> str:
    """Say an outcome in words; one that is not known stays as it is."""
    if found := re.fullmatch(r"http_(\d{3})", word):
        return f"answered {found[1]}"
    return OUTCOMES.get(word) or OUTCOMES.get(word.partition("_")[0]) or word


def of_destination(view: SubscriptionView, now: datetime | None = None, *, lately: Lately | None = None) -> Standing:
    """Say how a destination does, the most important first; `lately` is how it took its newest tries."""
    word, tone, said = _standing(view, now or datetime.now(UTC), lately or Lately())
    return Standing(word, tone, " ".join(f"{said} {_waiting(view)}".split()))


def _standing(view: SubscriptionView, now: datetime, lately: Lately) -> tuple[str, str, str]:
    if view.status != SubscriptionStatus.ACTIVE:
        return _stopped(view, now)
    error, took = _last_error(view, now), count(view.delivered_24h, "event")
    filters = view.types or view.owners or view.installations
    cases = (
        (
            view.health == Health.DOWN,
            ("down", "bad", f"It is down: it takes nothing, its events wait in order.{error} {_next_probe(view, now)}"),
        ),
        (lately.refuses_all, ("refuses", "bad", f"It is up, but refuses every event.{error}")),
        (
            view.dead > 0,
            (
                "gave up",
                "warn",
                f"It is up, but {counted(view.dead, 'event')} it did not take had to be given up on.{error}",
            ),
        ),
        (lately.untaken > 0, ("refuses some", "warn", _refuses_some(lately))),
        (
            view.failed_24h > view.delivered_24h and not lately.delivers_again,
            (
                "failing",
                "warn",
                f"It is up, but {count(view.failed_24h, 'try', 'tries')} of the last day failed.{error}",
            ),
        ),
        ((view.oldest_undelivered_seconds or 0) > LATE_SECONDS, ("behind", "warn", "It is up, but behind.")),
        (is_new(view, now), ("new", "", "It is new: nothing is counted yet.")),
        (
            not view.matched_24h and not view.failed_24h and not view.lag,
            ("quiet", "", _quiet(view, now)) if filters else ("well", "good", _quiet(view, now)),
        ),
    )
    well = ("well", "good", f"It is up and takes what it wants: {took} in the last day.")
    return next((standing for is_so, standing in cases if is_so), well)


def _refuses_some(lately: Lately) -> str:
    """Say how many of the events that were tried within an hour a destination that is up has not taken."""
    last = f" Its last failure: {outcome(lately.last_failure)}." if lately.last_failure else ""
    of = f"{lately.untaken} of the {count(lately.tried, 'event')} tried within the last hour"
    return f"It is up, but has not taken {of}.{last}"


def wanted(view: SubscriptionView) -> str:
    """Say how many events of the last day it wants: those that it was tried with, and those that still wait."""
    oldest = timedelta(seconds=view.oldest_undelivered_seconds or 0)
    if view.lag and (oldest > DAY or view.lag >= COUNTED):
        # What waits came in earlier, or was counted by positions: some of it, perhaps.
        return many(view.matched_24h, True)
    return many(view.matched_24h + view.lag, False)


def is_new(view: SubscriptionView, now: datetime | None = None) -> bool:
    """Whether it was made so lately that nothing is counted for it: the workers write once a minute."""
    counted_yet = view.lag or view.matched_24h or view.delivered_24h or view.failed_24h
    return not counted_yet and view.created_at > (now or datetime.now(UTC)) - COUNTED_WITHIN


def counted(number: int, noun: str) -> str:
    """Return a number of events beside the log with its noun; of very many not all are counted."""
    return f"{count(number, noun)}{' or more' if number >= MOST_BESIDE else ''}"


def waits(view: SubscriptionView) -> str:
    """Say where the events that wait are, if they wait in two places."""
    log, again = f"{count(view.lag, 'event')} in the log", f"{counted(view.parked, 'event')} tried again by schedule"
    return f"{log}, {again}" if view.lag and view.parked else again if view.parked else log


def _quiet(view: SubscriptionView, now: datetime) -> str:
    """Say that nothing came for a destination that is up, and in what time."""
    filters = view.types or view.owners or view.installations
    age = now - view.created_at
    when = "in the last day" if age >= DAY else f"since it was made, {ago(view.created_at, now)}"
    return f"It is up, but its filter has wanted no event {when}." if filters else f"It is up; no event came {when}."


def _stopped(view: SubscriptionView, now: datetime | None) -> tuple[str, str, str]:
    if view.status == SubscriptionStatus.PAUSED:
        return "paused", "warn", "A person paused it: nothing is sent until it is resumed."
    said = f"It answered that it wants no more: nothing is sent until it is resumed.{_last_error(view, now)}"
    return "wants no more", "bad", said


def _last_error(view: SubscriptionView, now: datetime | None) -> str:
    if view.last_error is None:
        return ""
    since = "" if view.last_error_at is None else f", {ago(view.last_error_at, now)}"
    return f" Its last failure: {outcome(view.last_error)}{since}."


def of_deliveries(deliveries: Sequence[Delivery], left_out: Sequence[LeftOut]) -> str:
    """Say in one sentence what became of an event."""
    if not deliveries and not left_out:
        return "It is in the log; there is no destination yet that it could go to."
    if not deliveries:
        return f"It is in the log; none of the {count(len(left_out), 'destination')} wants it."
    by_status = {status: [each.name for each in deliveries if each.status == status] for status in DeliveryStatus}
    done = len(by_status[DeliveryStatus.DELIVERED])
    said = [f"Delivered to {done} of the {count(len(deliveries), 'destination')} it goes to"]
    for status, what in (
        (DeliveryStatus.DEAD, "given up on for"),
        (DeliveryStatus.PARKED, "tried again for"),
        (DeliveryStatus.WAITING, "waiting for"),
    ):
        if names := by_status[status]:
            said.append(f"{what} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    return "; ".join(said) + "."


def of_journey(journey: Journey, received_at: datetime, now: datetime | None = None) -> str:
    """Say what became of an event for one destination."""
    # What a replay or a person sent again is shown with the tries, and is none of the delivery itself.
    delivery, tries = journey.delivery, [one for one in journey.tries if one.replay_id is None] or journey.tries
    tried = f"after {count(len(tries), 'try', 'tries')}" if tries else "before any try"
    last = outcome(delivery.last_outcome) if delivery.last_outcome else "not tried yet"
    match delivery.status:
        case DeliveryStatus.DELIVERED:
            taken = [one for one in tries if one.outcome == "delivered"]
            when = f", {brief(taken[0].at - received_at)} after it came in" if taken else ""
            return f"Taken {'at the first try' if len(tries) == 1 else tried}{when}."
        case DeliveryStatus.PARKED if journey.due_at is not None:
            return f"Not taken {tried} ({last}); {_next_try(journey, journey.due_at, now or datetime.now(UTC))}."
        case DeliveryStatus.PARKED:
            return f"Waits behind an earlier event that is still tried ({last})."
        case DeliveryStatus.DEAD:
            return f"Given up on {tried} ({last})."
        case _:
            return f"Waits for {'its turn' if journey.halt is None else 'the destination'} ({last})."


def _next_try(journey: Journey, due_at: datetime, now: datetime) -> str:
    if journey.halt is not None:
        return "its next try waits for the destination"
    if due_at <= now:
        return "its next try is due, and waits until the destination is tried again"
    return f"tried again {ago(due_at, now)}"


def of_halt(journey: Journey) -> str | None:
    """Say of a delivery that waits why nothing is sent to its destination, after the destination's name."""
    waits = journey.delivery.status in {DeliveryStatus.WAITING, DeliveryStatus.PARKED}
    return HALTS[journey.halt] if waits and journey.halt is not None else None


def of_untried(delivery: Untried) -> str:
    """Say why a delivery waits that was never tried."""
    if delivery.halt is not None:
        return f"not tried yet: it {HALTS[delivery.halt].rstrip('.')}"
    return f"not tried yet, waits {'behind an earlier event' if delivery.is_parked else 'for its turn'}"


def why_not(left_out: LeftOut) -> str:
    """Say why an event does not go to a destination."""
    return ", ".join(REASONS[reason] for reason in left_out.reasons)


def brief(span: timedelta) -> str:
    """Return a length of time for people, exact below a minute."""
    seconds = max(span.total_seconds(), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else length(span)


def kind_of_try(replay_id: str | None) -> str:
    """Say who sent a try: the live reader, a replay, or a person."""
    return "live" if replay_id is None else "sent again by hand" if replay_id == RESENT else "replay"


def _waiting(view: SubscriptionView) -> str:
    if not view.lag and not view.parked:
        return ""
    oldest = view.oldest_undelivered_seconds
    since = f"; the oldest for {length(timedelta(seconds=oldest))}" if oldest else ""
    both = f" ({waits(view)})" if view.lag and view.parked else " to be tried again" if view.parked else " in the log"
    more = " or more" if view.parked >= MOST_BESIDE else ""
    many = view.lag + view.parked
    return f"{count(many, 'event')}{more} wait{'s' if many == 1 else ''}{both}{since}."


def _next_probe(view: SubscriptionView, now: datetime | None) -> str:
    if view.next_probe_at is None or view.next_probe_at <= (now or datetime.now(UTC)):
        return "The next probe goes out now."
    return f"The next probe goes out {ago(view.next_probe_at, now)}."
