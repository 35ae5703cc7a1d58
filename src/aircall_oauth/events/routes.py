"""The HTTP endpoints that read the log, for the partner's systems."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.dependencies import EventsReader, ResourcesDep
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import InvalidRequest, PositionUnknown, TooManyStreams
from aircall_oauth.events import feed
from aircall_oauth.events.feed import Wanted
from aircall_oauth.events.notify import Notifier
from aircall_oauth.events.query import Filter
from aircall_oauth.events.streams import RETRY_SECONDS, Streams

api = APIRouter(prefix="/v1/events", tags=["Events"], route_class=StrictRoute)

LAST_POSITION = 2**63 - 1
LONGEST_WAIT_SECONDS = 30
MOST_TYPES = 100
RESTORED = PositionUnknown(resume_from=4711, newest=4800)
STREAMED = 'id: 4711\ndata: {"id": "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8", "position": 4711, …}\n\n'


class EventView(BaseModel):
    """One event of the log, the same for every reader."""

    id: str = Field(examples=["evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    position: int = Field(examples=[4711])
    type: str = Field(examples=["call.ended"])
    resource: str | None = Field(examples=["call"])
    installation_id: str = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    company_id: int = Field(examples=[70077])
    owner: str | None = Field(examples=["acme"])
    occurred_at: datetime | None
    received_at: datetime
    source: str = Field(description="`aircall`; `backfill`: told when asked; `service`: noticed by this service")
    data: Any = Field(description="What Aircall sent, byte for byte")


class EventPage(BaseModel):
    events: list[EventView]
    next: int = Field(description="The `after` of the next page", examples=[4711])
    more: bool = Field(description="Whether there is more to read right now")
    epoch: str = Field(
        description="Which log this is: another one after a restore. Keep it with `next` and pass both",
        examples=["log_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"],
    )


After = Annotated[
    int, Query(ge=0, le=LAST_POSITION, description="Read past this position; 0 is the beginning of what is kept")
]
Epoch = Annotated[
    str | None,
    Query(pattern=r"^[a-z0-9_]{0,64}$", description="The `epoch` of the page whose `next` is passed as `after`"),
]
TypePattern = Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]
OwnerName = Annotated[str | None, Query(max_length=255, pattern=r"^[^\x00]*$")]


def filters(
    type_: Annotated[
        list[TypePattern],
        Query(
            alias="type",
            max_length=MOST_TYPES,
            description=f"Event types; `call.*` is all that begin so; at most {MOST_TYPES}, separated by commas or not",
            examples=[["call.*"]],
        ),
    ] = [],  # noqa: B006 - the framework copies it
    installation: Annotated[str | None, Query(pattern=r"^ins_[0-9a-f]{32}$")] = None,
    owner: OwnerName = None,
) -> Filter:
    """Read the filter from the query parameters; raises `InvalidRequest` for too many types."""
    types = [*dict.fromkeys(pattern for given in type_ for pattern in given.split(",") if pattern)]
    if len(types) > MOST_TYPES:
        raise InvalidRequest(f"query.type: At most {MOST_TYPES} patterns, however they are separated")
    return Filter(
        types,
        owners=[] if owner is None else [owner],
        installations=[] if installation is None else [installation],
    )


Filters = Annotated[Filter, Depends(filters)]


def notifier_of(request: Request) -> Notifier:
    notifier: Notifier = request.app.state.notifier
    return notifier


NotifierDep = Annotated[Notifier, Depends(notifier_of)]


async def streams_of(request: Request) -> Streams:
    streams: Streams = request.app.state.streams
    return streams


StreamsDep = Annotated[Streams, Depends(streams_of)]


@api.get("", summary="Read the log", response_model=EventPage, responses=problems(401, 403, RESTORED, 410, 422, 503))
async def list_events(
    key: EventsReader,
    resources: ResourcesDep,
    notifier: NotifierDep,
    wanted: Filters,
    after: After = 0,
    epoch: Epoch = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Fewer come where they are large")] = 100,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for the first event")] = 0,
) -> Response:
    """A page of events in order. Keep `next` and pass it as `after`: nothing is skipped, nothing comes twice.

    Keep `epoch` too and pass it with `after`: a log that was restored, and lacks what you have read, is answered
    409 `position_unknown` with `resume_from`. Without it only a log that is shorter than `after` is noticed.
    """
    asked = Wanted(after, limit, wanted, epoch)
    page = await feed.wait_for_page(resources, key, asked, notifier=notifier, seconds=wait)
    return Response(feed.as_json(page), media_type="application/json")


@api.get(
    "/stream",
    summary="Follow the log",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"example": STREAMED}}},
        **problems(401, 403, RESTORED, 410, 422, TooManyStreams(RETRY_SECONDS), 503),
    },
)
async def stream_events(
    key: EventsReader,
    resources: ResourcesDep,
    notifier: NotifierDep,
    streams: StreamsDep,
    wanted: Filters,
    after: After = 0,
    epoch: Epoch = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=LAST_POSITION)] = None,
) -> Response:
    """The log as server-sent events: `id` is the position, `data` the event. Resumed by `Last-Event-ID`.

    The header `Log-Epoch` is the log's epoch, for `epoch` when you resume: see "Read the log". One API key may have
    twenty streams open in each process.
    """
    start = after if last_event_id is None else last_event_id
    asked = Wanted(start, feed.STREAM_PAGE, wanted, epoch)
    first = await feed.first_page(resources, key, asked)
    body = feed.stream(resources, key, asked, first, notifier=notifier)
    return EventStream(body, streams.one_of(key.id), epoch=first.epoch)


class EventStream(StreamingResponse):
    """Server-sent events, counted for as long as they are sent."""

    media_type = "text/event-stream"

    def __init__(self, body: AsyncIterator[bytes], counted: AbstractContextManager[None], *, epoch: str) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "log-epoch": epoch}
        super().__init__(body, headers=headers)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await super().__call__(scope, receive, send)
