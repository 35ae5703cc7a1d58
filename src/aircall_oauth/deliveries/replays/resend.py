"""Send one event to one subscription once more, right now."""

import time

import msgspec

from aircall_oauth.access import audit
from aircall_oauth.access.audit import Action, Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries import auditing, subscriptions
from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Message, attempt, word
from aircall_oauth.deliveries.subscriptions import SampleResult
from aircall_oauth.errors import EventErased
from aircall_oauth.events import feed
from aircall_oauth.events.query import EventJson
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.deliveries import Attempt
from aircall_oauth.storage.stamps import now

MARK = "resend"


async def resend(resources: Resources, key: Caller, who: Who, event_id: str, subscription_id: str) -> SampleResult:
    """Deliver an event once, past the filter and the position; the attempt is kept with the others.

    Raises `EventNotFound`, `EventErased` or `SubscriptionNotFound`.
    """
    subscription = await subscriptions.find(resources, key, subscription_id)
    body = await feed.read_event(resources, key, event_id)
    event = msgspec.json.decode(body, type=EventJson)
    if event.erased:
        raise EventErased
    message = Message(event.id, event.installation_id, event.type, body, replay=MARK)
    destination = await registry.open(resources, subscription)
    at, started = now(), time.perf_counter()
    try:
        outcome = await attempt(destination, message, subscriptions.note_unexpected)
    finally:
        await destination.close()
    tried = SampleResult(outcome, round((time.perf_counter() - started) * 1000))
    resources.metrics.attempted(word(outcome))
    async with resources.database.session() as session:
        session.add(
            Attempt(
                subscription_id=subscription_id,
                event_id=event.id,
                position=event.position,
                at=at,
                outcome=word(outcome),
                milliseconds=tried.milliseconds,
                replay_id=MARK,
            )
        )
        await auditing.record(
            session,
            who,
            Action.EVENT_RESENT,
            subscription_id,
            # Past the filter it may be an event of another owner, and neither may see the other.
            subscription.owners if [event.owner] == subscription.owners else [],
            {"event_id": event.id, "outcome": word(outcome)},
            installation_id=event.installation_id,
            outcome=audit.Outcome.DONE if isinstance(outcome, Delivered) else audit.Outcome.FAILED,
        )
    return tried
