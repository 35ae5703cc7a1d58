"""The doors for what is held about people and customers."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.dependencies import PrivacyEraser, PrivacyExporter, PrivacyKeeper, ResourcesDep, WhoDep
from aircall_oauth.access.parameters import TEXT, InstallationId
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import ErasureNotFound, InstallationNotFound, NotFound, TooManyStreams
from aircall_oauth.events.streams import RETRY_SECONDS, Streams
from aircall_oauth.privacy import erasures, export, retention
from aircall_oauth.privacy.bodies import NewErasure
from aircall_oauth.privacy.erasures import ErasedPositions, ErasureList, ErasureView
from aircall_oauth.privacy.retention import NewRetention, OwnerRetentionView, RetentionList

api = APIRouter(prefix="/v1/erasures", tags=["Privacy"], route_class=StrictRoute)
keeping = APIRouter(prefix="/v1/retention", tags=["Privacy"], route_class=StrictRoute)
exports = APIRouter(prefix="/v1/installations", tags=["Privacy"], route_class=StrictRoute)

NDJSON = "application/x-ndjson"
EXPORTED: dict[str, Any] = {
    "description": "A JSON object per line: `kind`, and under that name what it holds. The last line is of kind `end`",
    "content": {
        NDJSON: {
            "schema": {"type": "string"},
            "example": '{"kind": "event", "event": {"id": "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8", …}}\n',
        }
    },
}


class Export(StreamingResponse):
    """An export, counted as a stream of its API key for as long as it is sent."""

    media_type = NDJSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams: Streams = scope["app"].state.streams
        with streams.one_of(scope["state"]["caller"].id):
            await super().__call__(scope, receive, send)


@exports.get(
    "/{installation_id}/export",
    summary="Export what is held about a customer",
    response_class=StreamingResponse,
    responses={
        200: EXPORTED,
        **problems(401, 403, InstallationNotFound(), 422, TooManyStreams(RETRY_SECONDS), 503),
    },
)
async def export_installation(
    installation_id: InstallationId, key: PrivacyExporter, who: WhoDep, resources: ResourcesDep
) -> Export:
    """All that is held about one installation as NDJSON: its rows, its events, their deliveries, the audit; no secret.

    A line of kind `end` closes an export that is whole. The events are those up to `up_to_position` of the first line.
    The audit has a line for each export. It counts as one of the key's twenty open streams.
    """
    first = await export.begin(resources, key, who, installation_id)
    return Export(export.lines(resources, key, first), headers={"cache-control": "no-store"})


ERASURE = r"^era_[0-9a-f]{32}$"
ErasureId = Annotated[str, Path(pattern=ERASURE, examples=["era_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])]


@api.post(
    "",
    summary="Erase a person",
    status_code=202,
    responses=problems(401, 403, InstallationNotFound(), 422, 503),
)
async def erase_person(body: NewErasure, key: PrivacyEraser, who: WhoDep, resources: ResourcesDep) -> ErasureView:
    """Erase what is held about one person: every event that has the number, the address or the id anywhere in it.

    Also what else belongs to the calls that are found: transcripts, summaries. Give exactly one of `phone`, `email`,
    `contact_id`, `user_id` and `call_id`. A phone number is found in any spelling; give it with its country (`+33 …`).

    A worker carries it out: 202, and `GET /v1/erasures/{id}` says how far it is. It covers what is in the log when it
    is asked for, and what comes in until its search ends. Each event stays in its place, with `erased: true` and `data`
    null, and Aircall's repeats are recognised. What was delivered before is out of reach; `delivered` counts it.
    """
    return await erasures.create(
        resources, key, who, body.person, owner=body.owner, installation_id=body.installation_id
    )


@api.get("", summary="List erasures", responses=problems(401, 403, 422, 503))
async def list_erasures(
    key: PrivacyEraser,
    resources: ResourcesDep,
    cursor: Annotated[str | None, Query(pattern=ERASURE, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ErasureList:
    """List erasures, newest first. An API key bound to an owner sees only that owner's."""
    return await erasures.list_erasures(resources, key, cursor=cursor, limit=limit)


@api.get("/{erasure_id}", summary="Show an erasure", responses=problems(401, 403, ErasureNotFound(), 422, 503))
async def show_erasure(erasure_id: ErasureId, key: PrivacyEraser, resources: ResourcesDep) -> ErasureView:
    """Show how far an erasure is and what it came to; never whom it was about."""
    return await erasures.show(resources, key, erasure_id)


@api.get(
    "/{erasure_id}/positions",
    summary="List the erased events",
    responses=problems(401, 403, ErasureNotFound(), 422, 503),
)
async def list_erased_positions(
    erasure_id: ErasureId,
    key: PrivacyEraser,
    resources: ResourcesDep,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="`next` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> ErasedPositions:
    """List which events were erased, by position: the receipt."""
    return await erasures.positions(resources, key, erasure_id, after=after, limit=limit)


OwnerInPath = Annotated[
    str, Path(min_length=1, max_length=255, pattern=TEXT, description="The partner's own id", examples=["acme"])
]


@keeping.get("", summary="List how long events are kept", responses=problems(401, 403, 422, 503))
async def list_retention(
    key: PrivacyKeeper,
    resources: ResourcesDep,
    cursor: Annotated[str | None, Query(max_length=255, pattern=TEXT, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> RetentionList:
    """How long events are kept: at most, by type, and for which owners otherwise.

    An API key bound to an owner sees that owner's only.
    """
    return await retention.list_retention(resources, key, cursor=cursor, limit=limit)


@keeping.get(
    "/{owner:path}",
    summary="Show how long an owner's events are kept",
    responses=problems(401, 403, NotFound(), 422, 503),
)
async def show_retention(owner: OwnerInPath, key: PrivacyKeeper, resources: ResourcesDep) -> OwnerRetentionView:
    """Show an owner's own rules; none where the owner's events are kept as long as all others."""
    return await retention.show(resources, key, owner)


@keeping.put(
    "/{owner:path}",
    summary="Say how long an owner's events are kept",
    responses=problems(401, 403, NotFound(), 422, 503),
)
async def set_retention(
    owner: OwnerInPath, body: NewRetention, key: PrivacyKeeper, who: WhoDep, resources: ResourcesDep
) -> OwnerRetentionView:
    """Set an owner's own rules, by event type; they go before those for all. Whatever there was before is replaced.

    No time may be longer than `AIRCALL_OAUTH_EVENT_RETENTION`. A shorter time counts for what is in the log, too:
    what is past it loses its data within minutes, and a longer time does not bring it back.
    """
    return await retention.change(resources, key, who, owner, body.rules)


@keeping.delete(
    "/{owner:path}",
    status_code=204,
    summary="Keep an owner's events as long as all others",
    responses=problems(401, 403, NotFound(), 422, 503),
)
async def reset_retention(owner: OwnerInPath, key: PrivacyKeeper, who: WhoDep, resources: ResourcesDep) -> None:
    """Delete an owner's own rules; done as well where there are none."""
    await retention.change(resources, key, who, owner, {})
