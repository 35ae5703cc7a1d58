"""Reads the log by position, in pages and in streams.

Positions commit in order, so `position > after` skips no event.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import asyncpg
import msgspec

from aircall_oauth.access import known_keys
from aircall_oauth.access.callers import Caller
from aircall_oauth.errors import DataKeyUnusable, EventNotFound, PositionGone, PositionUnknown, Unauthenticated
from aircall_oauth.events import notify, spans
from aircall_oauth.events.notify import Notifier
from aircall_oauth.events.query import COLUMNS, EventJson, Filter, events_of, next_events
from aircall_oauth.events.spans import EVER, Span
from aircall_oauth.resources import Resources
from aircall_oauth.storage import epochs

HEARTBEAT_SECONDS = 15.0
# The bytes of a stream's page, exceeded by one event at most. A stream that is not read holds two pages.
STREAM_PAGE = 200
STREAM_BYTES = 128 * 1024
# Positions that one statement searches, and statements for one request: a filter may leave out almost everything.
WINDOW = 50_000
WINDOWS = 20
# A page that was searched for this long is returned as it is, so that no request holds a connection for long.
LOOK_SECONDS = 1.0
MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Wanted:
    """Which events to read, and past which position; `after` 0 is the beginning of what is kept.

    `epoch` is the epoch of the log in which the reader reached `after`; None where the reader did not say.
    """

    after: int
    limit: int
    filter: Filter
    epoch: str | None = None
    span: Span = EVER

    def at(self, after: int, limit: int) -> "Wanted":
        """Return a copy that reads past another position."""
        return replace(self, after=after, limit=limit)

    def of(self, epoch: str) -> "Wanted":
        """Return a copy with the epoch in which the reader reached `after`."""
        return replace(self, epoch=epoch)


@dataclass(frozen=True)
class Page:
    """Events in order, as JSON; `next` is the `after` of the next page."""

    events: list[EventJson]
    next: int
    more: bool
    epoch: str


async def read_page(resources: Resources, key: Caller, wanted: Wanted, *, most_bytes: int) -> Page:
    """Return at most `limit` events past a position: fewer if they are large, but one at least if there is any.

    An API key bound to an owner reads that owner's events only.

    Raises `PositionGone` if events past `after` were already dropped, `PositionUnknown` if the log does not have
    `after`, or had it only in an epoch that was lost, and `DataKeyUnusable` if the first event does not open.
    """
    conditions, values = replace(wanted.filter, bound_to=key.owner).sql(first=5)
    received, moments = wanted.span.sql(first=5 + len(values))
    conditions, values = f"{conditions} {received}".strip(), [*values, *moments]
    async with resources.database.driver_connection() as connection:
        enough_at = time.monotonic() + LOOK_SECONDS
        log = await epochs.newest(connection)
        await _refuse_unknown(connection, wanted, log)
        before, head = await spans.ends(connection, wanted.span, log.head)
        far = not conditions or wanted.span.is_indexed
        end, rows, bytes_left = max(wanted.after, before), list[asyncpg.Record](), most_bytes
        for _ in range(WINDOWS):
            start, end = end, head if far else min(head, end + WINDOW)
            some = wanted.limit + 1 - len(rows)
            rows += await connection.fetch(next_events(conditions), start, end, some, bytes_left, *values)
            bytes_left = most_bytes - sum(len(row["data"]) for row in rows)
            full = len(rows) > wanted.limit or bytes_left <= 0
            if full or end >= head or time.monotonic() > enough_at:
                break
        await _refuse_gone(connection, wanted.after)
        events = await events_of(connection, resources.data_keys, rows[: wanted.limit])
    if full or len(events) < len(rows):
        return Page(events, next=events[-1].position, more=True, epoch=log.epoch)
    return Page(events, next=max(end, wanted.after), more=end < head, epoch=log.epoch)


async def wait_for_page(
    resources: Resources, key: Caller, wanted: Wanted, *, notifier: Notifier, seconds: float
) -> Page:
    """Return the next page, and wait so many seconds for its first event.

    A reader that waits takes turns with the others, within these seconds.

    Raises as `read_page` does, and `Unauthenticated` if the API key was revoked or expired meanwhile.
    """
    if seconds <= 0:
        return await read_page(resources, key, wanted, most_bytes=MOST_BYTES)
    answer_by, waited = time.monotonic() + seconds, False
    while True:
        async with notifier.turn(answer_by - time.monotonic()):
            growth = notifier.next_growth()
            page = await read_page(resources, key, wanted, most_bytes=MOST_BYTES)
        if page.events and waited and not await known_keys.still_opens(resources, key):
            raise Unauthenticated
        rest = answer_by - time.monotonic()
        if page.events or rest <= 0 or notifier.stopped:
            return page
        wanted, waited = wanted.at(page.next, wanted.limit).of(page.epoch), True
        if not page.more:
            await notify.wait_for(growth, rest)


async def first_page(resources: Resources, key: Caller, wanted: Wanted, *, notifier: Notifier) -> Page:
    """Return the page that a stream begins with; raises `PositionGone` or `PositionUnknown`."""
    async with notifier.turn(HEARTBEAT_SECONDS):
        return await read_page(resources, key, wanted, most_bytes=STREAM_BYTES)


async def stream(
    resources: Resources, key: Caller, wanted: Wanted, page: Page, *, notifier: Notifier
) -> AsyncIterator[bytes]:
    """Yield every event from a first page on as server-sent events, and a comment now and then to keep it alive.

    The stream ends when the process is about to stop or the database is away; the reader resumes where it was. It ends
    for good when the API key is revoked or expires: no event is sent after that. And it ends when the log was restored:
    a reader that resumes is told where to go on from.
    """
    yield b": connected\n\n"
    while True:
        if page.events:
            yield b"".join(_sent_event(event) for event in page.events)
        wanted = wanted.at(page.next, STREAM_PAGE).of(page.epoch)
        if notifier.stopped:
            return
        try:
            async with notifier.turn(HEARTBEAT_SECONDS):
                growth = notifier.next_growth()
                page = await read_page(resources, key, wanted, most_bytes=STREAM_BYTES)
        except (PositionUnknown, DataKeyUnusable):
            return
        silent = not page.events and not page.more and not await notify.wait_for(growth, HEARTBEAT_SECONDS)
        if (silent or page.events) and not await known_keys.still_opens(resources, key):
            return
        if silent:
            yield b": still here\n\n"


async def read_event(resources: Resources, key: Caller, event_id: str) -> bytes:
    """Return one event as JSON; raises `EventNotFound` or `DataKeyUnusable`."""
    return msgspec.json.encode(await find_event(resources, key, event_id))


async def find_event(resources: Resources, key: Caller, event_id: str) -> EventJson:
    """Return one event; raises `EventNotFound` or `DataKeyUnusable`."""
    conditions, values = Filter(bound_to=key.owner).sql(first=2)
    async with resources.database.driver_connection() as connection:
        rows = await connection.fetch(f"SELECT {COLUMNS} FROM event WHERE id = $1 {conditions}", event_id, *values)
        if not rows:
            raise EventNotFound
        return (await events_of(connection, resources.data_keys, rows))[0]


def as_json(page: Page) -> bytes:
    return msgspec.json.encode({"events": page.events, "next": page.next, "more": page.more, "epoch": page.epoch})


async def _refuse_unknown(connection: asyncpg.Connection, wanted: Wanted, log: epochs.Log) -> None:
    """Raise `PositionUnknown` if the reader has read another log to `after`."""
    common = None if wanted.epoch is None else await epochs.common_to(connection, log, wanted.epoch)
    if common is not None and common < wanted.after:
        raise PositionUnknown(resume_from=min(common, log.head), newest=log.head)
    if wanted.after > log.head:
        raise PositionUnknown(resume_from=min(log.began_after, log.head), newest=log.head)


async def _refuse_gone(connection: asyncpg.Connection, after: int) -> None:
    """Raise `PositionGone` if events past `after` were dropped.

    To be called after the events were read: a day may be dropped between two statements.
    """
    dropped_to = await connection.fetchval(f"SELECT {epochs.DROPPED_TO}")
    if dropped_to is not None and 0 < after < dropped_to:
        raise PositionGone(dropped_to)


def _sent_event(event: EventJson) -> bytes:
    """Return an event as one server-sent event; line ends inside its JSON begin a new `data:` line."""
    body = msgspec.json.encode(event).replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"id: %d\ndata: %s\n\n" % (event.position, body)
