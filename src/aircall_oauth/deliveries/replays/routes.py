"""The endpoints of replays, for the partner's systems."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from aircall_oauth.access.dependencies import ResourcesDep, SubscriptionsReader, SubscriptionsWriter, WhoDep
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.deliveries import subscriptions, views
from aircall_oauth.deliveries.bodies import TestResult
from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
from aircall_oauth.deliveries.replays import jobs, resend
from aircall_oauth.deliveries.replays.bodies import NewReplay, ReplayPast, ReplaySince, ReplayWindow, Resend
from aircall_oauth.deliveries.replays.jobs import ReplayList, ReplayPreview, ReplayView
from aircall_oauth.deliveries.routes import SubscriptionId
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.errors import EventErased, EventNotFound, OwnerNotAllowed, ReplayNotFound, SubscriptionNotFound

api = APIRouter(prefix="/v1/subscriptions", tags=["Subscriptions"], route_class=StrictRoute)
of_events = APIRouter(prefix="/v1/events", tags=["Events"], route_class=StrictRoute)

OF_ONE = problems(401, 403, SubscriptionNotFound(), 422, 503)
REPLAY = r"^rpl_[0-9a-f]{32}$"
ReplayId = Annotated[str, Path(pattern=REPLAY, examples=["rpl_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])]


@api.post(
    "/{subscription_id}/replay",
    summary="Deliver events once more",
    responses=OF_ONE | problems(410) | {202: {"model": ReplayView, "description": "The replay was started"}},
)
async def replay_subscription(
    subscription_id: SubscriptionId,
    replay: NewReplay,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
    response: Response,
) -> SubscriptionView | ReplayPreview | ReplayView:
    """Replay a window, or move the live reader back.

    With both ends (`since` or `from`, `until` or `to`) the events in between are delivered once more, beside the live
    reader, whose position does not move: 202, and `GET …/replays/{id}` tells how far it is. Each delivery carries the
    header `webhook-replay` with the replay's id. `dry_run: true` only counts.

    With `position` or `since` alone the live reader itself is moved: everything from there on is delivered again.
    """
    match replay:
        case ReplayWindow():
            return await _replay_window(resources, key, who, subscription_id, replay, response)
        case ReplayPast():
            await subscriptions.replay(resources, key, who, subscription_id, start=replay.position)
        case ReplaySince():
            await subscriptions.replay(resources, key, who, subscription_id, start=replay.since)
    return await views.show(resources, key, subscription_id)


async def _replay_window(
    resources: ResourcesDep,
    key: SubscriptionsWriter,
    who: WhoDep,
    subscription_id: str,
    asked: ReplayWindow,
    response: Response,
) -> ReplayPreview | ReplayView:
    if key.owner is not None and set(asked.owners) - {key.owner}:
        raise OwnerNotAllowed
    if asked.dry_run:
        return await jobs.preview(resources, key, subscription_id, asked.window, asked.wanted)
    started = await jobs.start(
        resources, key, who, subscription_id, asked.window, asked.wanted, per_second=asked.per_second
    )
    response.status_code = 202
    return started


@api.get("/{subscription_id}/replays", summary="List replays", responses=OF_ONE)
async def list_replays(
    subscription_id: SubscriptionId,
    key: SubscriptionsReader,
    resources: ResourcesDep,
    cursor: Annotated[str | None, Query(pattern=REPLAY, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ReplayList:
    """Replays of a subscription and how far each is, newest first. The newest 500 are kept."""
    return await jobs.list_of(resources, key, subscription_id, cursor=cursor, limit=limit)


@api.get(
    "/{subscription_id}/replays/{replay_id}", summary="Show a replay", responses=OF_ONE | problems(ReplayNotFound())
)
async def show_replay(
    subscription_id: SubscriptionId, replay_id: ReplayId, key: SubscriptionsReader, resources: ResourcesDep
) -> ReplayView:
    """One replay and how far it is."""
    return await jobs.show(resources, key, subscription_id, replay_id)


@api.post(
    "/{subscription_id}/replays/{replay_id}/stop",
    summary="Stop a replay",
    responses=OF_ONE | problems(ReplayNotFound()),
)
async def stop_replay(
    subscription_id: SubscriptionId, replay_id: ReplayId, key: SubscriptionsWriter, who: WhoDep, resources: ResourcesDep
) -> ReplayView:
    """End a replay where it is. What is out at that moment may still arrive; one that has ended stays as it is."""
    return await jobs.stop(resources, key, who, subscription_id, replay_id)


@of_events.post(
    "/{event_id}/resend",
    summary="Send one event again",
    responses=problems(401, 403, EventNotFound(), SubscriptionNotFound(), EventErased(), 422, 503),
)
async def resend_event(
    event_id: Annotated[str, Path(pattern=r"^evt_[0-9a-f]{32}$")],
    body: Resend,
    key: SubscriptionsWriter,
    who: WhoDep,
    resources: ResourcesDep,
) -> TestResult:
    """Send an event to a subscription right now, once, whatever its filter says; and say what came of it.

    The delivery is signed like any other and carries the header `webhook-replay: resend`. Nothing else changes: not the
    position, and not whether the event is parked.
    """
    sent = await resend.resend(resources, key, who, event_id, body.subscription_id)
    return TestResult(
        delivered=isinstance(sent.outcome, Delivered), outcome=word(sent.outcome), milliseconds=sent.milliseconds
    )
