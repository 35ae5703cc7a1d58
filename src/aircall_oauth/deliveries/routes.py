"""The doors of subscriptions, for the partner's systems."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from aircall_oauth.access.dependencies import EventsReader, ResourcesDep, SubscriptionsReader, SubscriptionsWriter
from aircall_oauth.access.doors import StrictRoute
from aircall_oauth.access.problems import problems
from aircall_oauth.deliveries import of_event, subscriptions, views
from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
from aircall_oauth.deliveries.of_event import Became
from aircall_oauth.deliveries.views import AttemptList, DeadList, SubscriptionList, SubscriptionView
from aircall_oauth.errors import EventNotFound, SubscriptionNotFound, SubscriptionsFull, SubscriptionUnsigned
from aircall_oauth.events import feed
from aircall_oauth.events.routes import EventView
from aircall_oauth.storage.models.deliveries import SubscriptionKind, SubscriptionOrder

of_events = APIRouter(prefix="/v1/events", tags=["Events"], route_class=StrictRoute)
api = APIRouter(prefix="/v1/subscriptions", tags=["Subscriptions"], route_class=StrictRoute)

LAST_POSITION = 2**63 - 1
FULL = SubscriptionsFull("MAX_SUBSCRIPTIONS_PER_OWNER")
OF_ONE = problems(401, 403, SubscriptionNotFound(), 422, 503)

SubscriptionId = Annotated[str, Path(pattern=r"^sub_[0-9a-f]{32}$", examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])]
# PostgreSQL has no text with a NUL in it.
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00]*$", examples=["crm"])]
Url = Annotated[
    str, Field(min_length=1, max_length=2048, pattern=r"^[!-~]*$", examples=["https://crm.example.com/aircall"])
]
Word = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-~]*$")]
Types = Annotated[
    list[Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]],
    Field(
        max_length=100, description="Event types; `call.*` is all that begin so; empty is all", examples=[["call.*"]]
    ),
]
Owners = Annotated[
    list[Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]],
    Field(max_length=1000, description="Only events of installations that belong to these; empty is all"),
]
Installations = Annotated[
    list[Annotated[str, Field(pattern=r"^ins_[0-9a-f]{32}$")]],
    Field(max_length=1000, description="Only events of these; empty is all"),
]
Position = Annotated[int, Field(ge=0, le=LAST_POSITION, strict=True)]
Order = Annotated[
    SubscriptionOrder,
    Field(description="`installation`: one event of an installation at a time, and behind one that is parked"),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _New(_Body):
    name: Name
    url: Url
    types: Types = []
    owners: Owners = []
    installations: Installations = []
    order: Order = SubscriptionOrder.NONE
    start: Annotated[Literal["now", "beginning"] | Position, Field(alias="from")] = "now"


class NewHttp(_New):
    kind: Literal[SubscriptionKind.HTTP]


class NewNats(_New):
    kind: Literal[SubscriptionKind.NATS]
    url: Url = Field(examples=["nats://nats.internal:4222"])
    subject: Word = Field(examples=["aircall.events"])


class NewRabbitmq(_New):
    kind: Literal[SubscriptionKind.RABBITMQ]
    url: Url = Field(examples=["amqps://rabbitmq.internal:5671/aircall"])
    exchange: Annotated[str, Field(max_length=255, pattern=r"^[!-~]*$")] = Field(examples=["aircall"])
    routing_key: Word = Field(examples=["events"])


class NewKafka(_New):
    kind: Literal[SubscriptionKind.KAFKA]
    url: Url = Field(examples=["kafka-1.internal:9092,kafka-2.internal:9092"])
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] = Field(examples=["aircall-events"])


NewSubscription = Annotated[NewHttp | NewNats | NewRabbitmq | NewKafka, Field(discriminator="kind")]


class SubscriptionChange(_Body):
    """What is left out stays as it is."""

    # No field has a default that a generated client could send.
    name: Name = Field(default_factory=str)
    url: Url = Field(default_factory=str)
    types: Types = Field(default_factory=list)
    owners: Owners = Field(default_factory=list)
    installations: Installations = Field(default_factory=list)
    order: Order = Field(default_factory=lambda: SubscriptionOrder.NONE)


class SubscriptionCreated(SubscriptionView):
    secret: str | None = Field(
        description="Signs every delivery; shown this once. Null for a broker", examples=["whsec_MfKQ9r8GKYqrTwjU…"]
    )


def _written_out(moment: object) -> object:
    """A bare number is taken for seconds or milliseconds, whatever was meant, and what came in long ago comes again."""
    if not isinstance(moment, str) or re.match("[0-9]{4}-[0-9]{2}-[0-9]{2}", moment) is None:
        raise ValueError("must be written out, such as 2026-01-01T00:00:00Z")
    return moment


def _in_utc(moment: datetime) -> datetime:
    """As PostgreSQL is asked for it: near both ends of the calendar there is none of some zones' moments."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None


class ReplayPast(_Body):
    """Read again what lies past a position."""

    position: Position = Field(examples=[4711])


class ReplaySince(_Body):
    """Read again what came in from a moment on."""

    since: Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)] = Field(
        examples=["2026-01-01T00:00:00Z"]
    )


class Rotation(_Body):
    now: bool = Field(False, description="End the old secret at once, instead of after 24 hours")


class SecretView(BaseModel):
    secret: str = Field(description="Shown this once", examples=["whsec_MfKQ9r8GKYqrTwjU…"])


class TestResult(BaseModel):
    __test__ = False

    delivered: bool
    outcome: str = Field(examples=["delivered"])
    milliseconds: int = Field(examples=[23])


class DeadRetry(_Body):
    event_ids: Annotated[list[Annotated[str, Field(pattern=r"^evt_[0-9a-f]{32}$")]], Field(max_length=1000)] | None = (
        Field(None, description="Left out: all of them")
    )


class DeadRetried(BaseModel):
    retried: int = Field(description="So many were put back", examples=[1])


@api.post("", summary="Make a subscription", status_code=201, responses=problems(401, 403, FULL, 410, 422, 503))
async def create_subscription(
    new: NewSubscription, key: SubscriptionsWriter, resources: ResourcesDep, response: Response
) -> SubscriptionCreated:
    """Begin to deliver events. The answer's `secret` signs them, and is shown this once."""
    fields = new.model_dump(exclude={"order", "start"}) | {"ordering": new.order}
    subscription, secret = await subscriptions.create(resources, key, start=new.start, **fields)
    view = await views.show(resources, key, subscription.id)
    response.headers["cache-control"] = "no-store"
    return SubscriptionCreated(**view.model_dump(), secret=secret and secret.get_secret_value())


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
    subscription_id: SubscriptionId, change: SubscriptionChange, key: SubscriptionsWriter, resources: ResourcesDep
) -> SubscriptionView:
    """Change what it is called, what it wants or where it goes; its position stays."""
    fields: dict[str, Any] = change.model_dump(exclude_unset=True)
    if "order" in fields:
        fields["ordering"] = fields.pop("order")
    await subscriptions.change(resources, key, subscription_id, **fields)
    return await views.show(resources, key, subscription_id)


@api.delete("/{subscription_id}", summary="Delete a subscription", status_code=204, responses=OF_ONE)
async def delete_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, resources: ResourcesDep
) -> None:
    """End it for good; what it had parked goes with it."""
    await subscriptions.delete_one(resources, key, subscription_id)


@api.post("/{subscription_id}/pause", summary="Pause a subscription", responses=OF_ONE)
async def pause_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, resources: ResourcesDep
) -> SubscriptionView:
    """Send nothing more; its position stays, and what comes in meanwhile waits in the log."""
    await subscriptions.pause(resources, key, subscription_id)
    return await views.show(resources, key, subscription_id)


@api.post("/{subscription_id}/resume", summary="Resume a subscription", responses=OF_ONE)
async def resume_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, resources: ResourcesDep
) -> SubscriptionView:
    """Go on where it stood, whether it was paused or disabled. One that is down is tried at once."""
    await subscriptions.resume(resources, key, subscription_id)
    return await views.show(resources, key, subscription_id)


@api.post("/{subscription_id}/replay", summary="Read again from an earlier place", responses=OF_ONE | problems(410))
async def replay_subscription(
    subscription_id: SubscriptionId, replay: ReplayPast | ReplaySince, key: SubscriptionsWriter, resources: ResourcesDep
) -> SubscriptionView:
    """Move the reader: every event past the position, or that came in since, is delivered again."""
    start = replay.position if isinstance(replay, ReplayPast) else replay.since
    await subscriptions.replay(resources, key, subscription_id, start=start)
    return await views.show(resources, key, subscription_id)


@api.post(
    "/{subscription_id}/rotate-secret",
    summary="Make a new signing secret",
    responses=OF_ONE | problems(SubscriptionUnsigned()),
)
async def rotate_subscription_secret(
    subscription_id: SubscriptionId,
    key: SubscriptionsWriter,
    resources: ResourcesDep,
    response: Response,
    rotation: Rotation | None = None,
) -> SecretView:
    """A new secret. For 24 hours every delivery carries a signature of each, unless the old one is to end now."""
    at_once = rotation is not None and rotation.now
    secret = await subscriptions.rotate_secret(resources, key, subscription_id, at_once=at_once)
    response.headers["cache-control"] = "no-store"
    return SecretView(secret=secret.get_secret_value())


@api.post("/{subscription_id}/test", summary="Send a sample event", responses=OF_ONE)
async def test_subscription(
    subscription_id: SubscriptionId, key: SubscriptionsWriter, resources: ResourcesDep
) -> TestResult:
    """Send an event of the type `subscription.test` right now, and say what came of it."""
    tried = await subscriptions.try_out(resources, key, subscription_id)
    return TestResult(
        delivered=isinstance(tried.outcome, Delivered), outcome=word(tried.outcome), milliseconds=tried.milliseconds
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
    resources: ResourcesDep,
    retry: DeadRetry | None = None,
) -> DeadRetried:
    """Try these events again at once, and from then on by the schedule; all of them where none are named."""
    event_ids = None if retry is None else retry.event_ids
    return DeadRetried(retried=await subscriptions.retry_dead(resources, key, subscription_id, event_ids))


class DeliveryView(BaseModel):
    """How far one subscription is with an event."""

    subscription_id: str = Field(examples=["sub_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    name: str = Field(examples=["crm"])
    status: Became
    attempts: int = Field(examples=[1])
    last_outcome: str | None = Field(examples=["delivered"])
    last_at: datetime | None


class EventShown(EventView):
    """One event, and what became of it."""

    deliveries: list[DeliveryView] = Field(description="For each subscription that wants it")


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
