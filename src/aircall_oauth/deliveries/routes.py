"""The doors of subscriptions, for the partner's systems."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Path, Query, Response

from aircall_oauth.access.dependencies import (
    EventsReader,
    ResourcesDep,
    SubscriptionsReader,
    SubscriptionsWriter,
    WhoDep,
)
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.deliveries import filters, of_event, subscriptions, views
from aircall_oauth.deliveries.bodies import (
    LAST_POSITION,
    DeadRetried,
    DeadRetry,
    EventShown,
    NewSubscription,
    Rotation,
    SecretView,
    SubscriptionChange,
    SubscriptionCreated,
    SubscriptionSaved,
    TestResult,
)
from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
from aircall_oauth.deliveries.repeated import Repeat
from aircall_oauth.deliveries.views import AttemptList, DeadList, SubscriptionList, SubscriptionView
from aircall_oauth.errors import EventNotFound, SubscriptionNotFound, SubscriptionsFull, SubscriptionUnsigned
from aircall_oauth.events import feed

of_events = APIRouter(prefix="/v1/events", tags=["Events"], route_class=StrictRoute)
api = APIRouter(prefix="/v1/subscriptions", tags=["Subscriptions"], route_class=StrictRoute)

FULL = SubscriptionsFull("MAX_SUBSCRIPTIONS_PER_OWNER")
MADE_BEFORE: dict[int | str, dict[str, Any]] = {
    200: {"model": SubscriptionCreated, "description": "What an earlier request made"}
}
OF_ONE = problems(401, 403, SubscriptionNotFound(), 422, 503)

SubscriptionId = Annotated[str, Path(pattern=r"^sub_[0-9a-f]{32}$", examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])]


@api.post(
    "",
    summary="Make a subscription",
    status_code=201,
    responses=problems(401, 403, FULL, 410, 422, 503) | MADE_BEFORE,
)
async def create_subscription(
    new: NewSubscription,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[!-~]+$",
            description="A value of your own for this subscription, such as a UUID. Within 24 hours, a repeat with the "
            "same key and body makes no second one: it is answered 200, with the secret. With another body it is a 422",
        ),
    ] = None,
) -> SubscriptionCreated:
    """Begin to deliver events. The answer's `secret` signs them, and is shown this once."""
    fields = new.model_dump(exclude={"order", "start", "ensure"}) | {"ordering": new.order}
    repeat = Repeat(idempotency_key, new.model_dump_json(), new.ensure)
    made = await subscriptions.create(resources, key, who, start=new.start, repeat=repeat, **fields)
    view = await views.show(resources, key, made.subscription_id)
    response.headers["cache-control"] = "no-store"
    if not made.is_new:
        response.status_code = 200
    warnings = await filters.warnings(resources, key, view.types)
    secret = made.secret and made.secret.get_secret_value()
    return SubscriptionCreated(**view.model_dump(), warnings=warnings, secret=secret)


@api.get("", summary="List subscriptions", responses=problems(401, 403, 422, 503))
async def list_subscriptions(
    key: SubscriptionsReader,
    resources: ResourcesDep,
    cursor: Annotated[str | None, Query(pattern=r"^sub_[0-9a-f]{32}$", description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> SubscriptionList:
    """Subscriptions, oldest first. An API key bound to an owner sees those for exactly that owner."""
    return await views.list_all(resources, key, cursor=cursor, limit=limit)


@api.get("/{subscription_id}", summary="Show a subscription", responses=OF_ONE)
async def show_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsReader, resources: ResourcesDep
) -> SubscriptionView:
    """One subscription, where it stands, and how its destination does; never a secret."""
    return await views.show(resources, key, subscription_id)


@api.patch("/{subscription_id}", summary="Change a subscription", responses=OF_ONE | problems(FULL))
async def change_subscription(
    subscription_id: SubscriptionId,
    change: SubscriptionChange,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
) -> SubscriptionSaved:
    """Change what it is called, what it wants or where it goes; its position stays."""
    await subscriptions.change(resources, key, who, subscription_id, **change.fields)
    view = await views.show(resources, key, subscription_id)
    return SubscriptionSaved(**view.model_dump(), warnings=await filters.warnings(resources, key, view.types))


@api.delete("/{subscription_id}", summary="Delete a subscription", status_code=204, responses=OF_ONE)
async def delete_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, who: WhoDep, resources: ResourcesDep
) -> None:
    """End it for good; what it had parked goes with it."""
    await subscriptions.delete_one(resources, key, who, subscription_id)


@api.post("/{subscription_id}/pause", summary="Pause a subscription", responses=OF_ONE)
async def pause_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, who: WhoDep, resources: ResourcesDep
) -> SubscriptionView:
    """Send nothing more; its position stays, and what comes in meanwhile waits in the log."""
    await subscriptions.pause(resources, key, who, subscription_id)
    return await views.show(resources, key, subscription_id)


@api.post("/{subscription_id}/resume", summary="Resume a subscription", responses=OF_ONE)
async def resume_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, who: WhoDep, resources: ResourcesDep
) -> SubscriptionView:
    """Go on where it stood, whether it was paused or disabled. One that is down is tried at once."""
    await subscriptions.resume(resources, key, who, subscription_id)
    return await views.show(resources, key, subscription_id)


@api.post(
    "/{subscription_id}/rotate-secret",
    summary="Make a new signing secret",
    responses=OF_ONE | problems(SubscriptionUnsigned()),
)
async def rotate_subscription_secret(
    subscription_id: SubscriptionId,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
    response: Response,
    rotation: Rotation | None = None,
) -> SecretView:
    """A new secret. For 24 hours every delivery carries a signature of each, unless the old one is to end now."""
    at_once = rotation is not None and rotation.now
    secret = await subscriptions.rotate_secret(resources, key, who, subscription_id, at_once=at_once)
    response.headers["cache-control"] = "no-store"
    return SecretView(secret=secret.get_secret_value())


@api.post("/{subscription_id}/test", summary="Send a sample event", responses=OF_ONE)
async def test_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, who: WhoDep, resources: ResourcesDep
) -> TestResult:
    """Send an event of the type `subscription.test` right now, and say what came of it."""
    result = await subscriptions.try_out(resources, key, who, subscription_id)
    return TestResult(
        delivered=isinstance(result.outcome, Delivered), outcome=word(result.outcome), milliseconds=result.milliseconds
    )


@api.get("/{subscription_id}/attempts", summary="List what was tried", responses=OF_ONE)
async def list_subscription_attempts(
    subscription_id: SubscriptionId,
    key: SubscriptionsReader,
    resources: ResourcesDep,
    event_id: Annotated[str | None, Query(pattern=r"^evt_[0-9a-f]{32}$")] = None,
    cursor: Annotated[int | None, Query(ge=0, le=LAST_POSITION, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> AttemptList:
    """Every try of a delivery and its outcome, newest first; kept as long as events are."""
    return await views.list_attempts(resources, key, subscription_id, event_id=event_id, cursor=cursor, limit=limit)


@api.get("/{subscription_id}/dead", summary="List the events given up on", responses=OF_ONE)
async def list_dead_events(
    subscription_id: SubscriptionId,
    key: SubscriptionsReader,
    resources: ResourcesDep,
    cursor: Annotated[int | None, Query(ge=0, le=LAST_POSITION, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeadList:
    """Events that failed by the whole schedule; kept as long as events are."""
    return await views.list_dead(resources, key, subscription_id, cursor=cursor, limit=limit)


@api.post("/{subscription_id}/dead/retry", summary="Put events given up on back", responses=OF_ONE)
async def retry_dead_events(
    subscription_id: SubscriptionId,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
    retry: DeadRetry | None = None,
) -> DeadRetried:
    """Try these events again at once, and from then on by the schedule; all of them where none are named."""
    event_ids = None if retry is None else retry.event_ids
    return DeadRetried(retried=await subscriptions.retry_dead(resources, key, who, subscription_id, event_ids))


@of_events.get(
    "/{event_id}",
    summary="Show an event",
    response_model=EventShown,
    responses=problems(401, 403, EventNotFound(), 422, 503),
)
async def show_event(
    event_id: Annotated[str, Path(pattern=r"^evt_[0-9a-f]{32}$")], key: EventsReader, resources: ResourcesDep
) -> Response:
    """One event of the log, and what became of it for each subscription."""
    event = await feed.read_event(resources, key, event_id)
    deliveries = msgspec.json.encode(await of_event.of_each_subscription(resources, key, event_id))
    return Response(b'%s,"deliveries":%s}' % (event[:-1], deliveries), media_type="application/json")
