"""The HTTP endpoints that read the log, for the partner's systems."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.dependencies import EventsReader, ResourcesDep
from aircall_oauth.access.parameters import ID, Moment
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import InvalidRequest, PositionUnknown, TooManyStreams
from aircall_oauth.events import feed, newest
from aircall_oauth.events.feed import Wanted
from aircall_oauth.events.newest import Search
from aircall_oauth.events.notify import Notifier
from aircall_oauth.events.query import Filter
from aircall_oauth.events.spans import Span
from aircall_oauth.events.streams import RETRY_SECONDS, Streams

api = APIRouter(prefix="/v1/events", tags=["Events"], route_class=StrictRoute)

LAST_POSITION = 2**63 - 1
LONGEST_WAIT_SECONDS = 30
MOST_TYPES = 100
NOON, EVENING = "2026-01-01T12:00:00Z", "2026-01-01T18:00:00Z"
ABOUT = (
    "What the event is about: its `resource`, and the `id` in its `data`. An event of the service itself is about an "
    "`installation`. Events received before this was kept have none"
)
RESTORED = PositionUnknown(resume_from=4711, newest=4800)
# OpenAPI 3.1 has no place for the items of a stream (3.2 has `itemSchema`): tools take the schema of one for them all.
STREAM_ITEM: dict[str, Any] = {
    "title": "StreamItem",
    "type": "object",
    "description": "One server-sent event. A line that begins with `:` only keeps the connection open.",
    "required": ["id", "data"],
    "properties": {
        "id": {
            "type": "string",
            "description": "The event's position: the `after` or `Last-Event-ID` to resume with",
            "examples": ["4711"],
        },
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/EventView"},
        },
    },
}
STREAMED = 'id: 4711\ndata: {"id": "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8", "position": 4711, …}\n\n'


class EventView(BaseModel):
    """One event of the log, the same for every reader."""

    id: str = Field(examples=["evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    position: int = Field(examples=[4711])
    type: str = Field(examples=["call.ended"])
    resource: str | None = Field(examples=["call"])
    subject: str | None = Field(
        description="What it is about: a call, a user, a contact …; null where that is not known", examples=["call:123"]
    )
    installation_id: str = Field(examples=["ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])
    company_id: int = Field(examples=[70077])
    owner: str | None = Field(examples=["acme"])
    occurred_at: datetime | None
    received_at: datetime
    source: str = Field(description="`aircall`; `backfill`: told when asked; `service`: noticed by this service")
    data: Any = Field(description="What Aircall sent, byte for byte; null once it is erased")
    erased: bool = Field(
        False,
        exclude_if=lambda erased: not erased,
        description="Present, and true, if what the event held was erased: a person's, or kept long enough",
    )


class EventPage(BaseModel):
    events: list[EventView]
    next: int = Field(
        description="The `after` of the next page; newest first, its `before`",
        examples=[4711],
    )
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
    installation_id: Annotated[str | None, Query(pattern=ID)] = None,
    installation: Annotated[
        str | None, Query(pattern=ID, deprecated=True, description="The old name of `installation_id`")
    ] = None,
    owner: OwnerName = None,
) -> Filter:
    """Read the filter from the query parameters; raises `InvalidRequest` for too many types, or a filter twice."""
    if installation_id is not None and installation is not None:
        raise InvalidRequest("query.installation: is the old name of `installation_id`; give that one only")
    chosen = installation_id or installation
    types = [*dict.fromkeys(pattern for given in type_ for pattern in given.split(",") if pattern)]
    if len(types) > MOST_TYPES:
        raise InvalidRequest(f"query.type: At most {MOST_TYPES} patterns, however they are separated")
    return Filter(
        types,
        owners=[] if owner is None else [owner],
        installations=[] if chosen is None else [chosen],
    )


Filters = Annotated[Filter, Depends(filters)]


def span(
    since: Annotated[Moment | None, Query(description="Received then or later", examples=[NOON])] = None,
    until: Annotated[Moment | None, Query(description="Received before", examples=[EVENING])] = None,
    occurred_since: Annotated[
        Moment | None, Query(description="Happened then or later, as Aircall tells it", examples=[NOON])
    ] = None,
    occurred_until: Annotated[Moment | None, Query(description="Happened before", examples=[EVENING])] = None,
    subject: Annotated[
        str | None,
        Query(pattern=r"^[!-~]{1,255}:[!-~]{1,64}$", description=ABOUT, examples=["call:2481173905"]),
    ] = None,
    call_id: Annotated[
        int | None, Query(ge=0, le=LAST_POSITION, description="The same as `subject=call:…`", examples=[2481173905])
    ] = None,
) -> Span:
    """Read what is looked for; raises `InvalidRequest` for a span that ends before it begins, or two subjects."""
    if subject is not None and call_id is not None:
        raise InvalidRequest("query.call_id: is the same as `subject=call:…`; give one of them")
    for name, begin, end in (("", since, until), ("occurred_", occurred_since, occurred_until)):
        if begin is not None and end is not None and begin >= end:
            raise InvalidRequest(f"query.{name}since: must be before `{name}until`")
    about = subject if call_id is None else f"call:{call_id}"
    return Span(since, until, occurred_since, occurred_until, about)


Times = Annotated[Span, Depends(span)]


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
    times: Times,
    order: Annotated[Literal["asc", "desc"], Query(description="`desc`: newest first, to look for something")] = "asc",
    after: After = 0,
    before: Annotated[
        int | None, Query(ge=0, le=LAST_POSITION, description="Newest first only: read below this position")
    ] = None,
    epoch: Epoch = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Fewer come where they are large")] = 100,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for the first event")] = 0,
) -> Response:
    """A page of events in order. Keep `next` and pass it as `after`: nothing is skipped, nothing comes twice.

    Keep `epoch` too and pass it with `after`: a log that was restored, and lacks what you have read, is answered
    409 `position_unknown` with `resume_from`. Without it only a log that is shorter than `after` is noticed.

    With `order=desc` the newest event comes first, and `next` is the `before` of the next page. What is rare may lie
    far back: then a page has fewer events than `limit`, or none, and `more` says whether to go on.
    """
    _refuse_what_does_not_go_together(order, after, before, epoch, wait, times)
    if order == "desc":
        back = await newest.read_back(resources, key, Search(limit, wanted, times, before))
        return Response(feed.as_json(back), media_type="application/json")
    asked = Wanted(after, limit, wanted, epoch, times)
    page = await feed.wait_for_page(resources, key, asked, notifier=notifier, seconds=wait)
    return Response(feed.as_json(page), media_type="application/json")


def _refuse_what_does_not_go_together(
    order: str, after: int, before: int | None, epoch: str | None, wait: float, times: Span
) -> None:
    """Raise `InvalidRequest` for parameters that would say nothing, or something else than was meant."""
    faults = (
        (order == "desc" and after > 0, "query.after: newest first is read with `before`"),
        (order == "desc" and epoch is not None, "query.epoch: goes with `after`; there is none with `order=desc`"),
        (order == "desc" and wait > 0, "query.wait: newest first never waits; follow the log with `after`"),
        (order == "asc" and before is not None, "query.before: goes with `order=desc`; in order, read with `after`"),
        (wait > 0 and times.until is not None, "query.wait: there is nothing to wait for with `until`"),
    )
    if said := [fault for is_so, fault in faults if is_so]:
        raise InvalidRequest("; ".join(said))


@api.get(
    "/stream",
    summary="Follow the log",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": f"Server-sent events, each a `StreamItem`; on the wire:\n\n```\n{STREAMED}```",
            "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/StreamItem"}}},
        },
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
    first = await feed.first_page(resources, key, asked, notifier=notifier)
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
