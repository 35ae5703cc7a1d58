"""An event as every reader sees it, and the filter that says which events a reader wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from aircall_oauth.aircall import payloads
from aircall_oauth.errors import DataKeyUnusable
from aircall_oauth.storage.data_keys import DataKeys
from aircall_oauth.storage.statuses import EventSource

if TYPE_CHECKING:
    from aircall_oauth.storage.models.deliveries import Replay, Subscription

SUBSCRIPTION = "subscription"
# `data` as bytes: it is sent as it is, so decoding and encoding it would be wasted. Of an encrypted event, as stored.
COLUMNS = """
    id, position, type, resource, subject, installation_id, company_id, owner, occurred_at, received_at, source,
    coalesce(sealed, convert_to(data, 'UTF8')) AS data, erased_at IS NOT NULL AS erased, data_key
"""
WIDTH, SUBJECT = 14, 4
# The bytes of an event, for the bounds of statements.
SIZE = "coalesce(octet_length(sealed), octet_length(data))"


class _About(msgspec.Struct):
    subscription_id: str


class EventJson(msgspec.Struct, omit_defaults=True):
    """An event as every reader sees it; `data` is the text that Aircall sent, and null once it is erased."""

    id: str
    position: int
    type: str
    resource: str | None
    subject: str | None
    installation_id: str
    company_id: int
    owner: str | None
    occurred_at: Any
    received_at: Any
    source: str
    data: msgspec.Raw
    erased: bool = False

    @property
    def about(self) -> str:
        """What it is about, for its order; without an id its kind, as another event of the kind may be about the same.

        An event that an earlier version stored has no subject, but mostly its id.
        """
        return self.subject or payloads.subject(self.resource, _id_in(self.data)) or self.resource or ""

    @property
    def has_number_as_id(self) -> bool:
        """Whether its payload's `id` is a number, as Aircall's ids are."""
        return isinstance(_id_in(self.data), int)


class _WithId(msgspec.Struct):
    id: int | str | None = None


def _id_in(data: msgspec.Raw) -> int | str | None:
    try:
        return _decoder.decode(data).id
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


_decoder = msgspec.json.Decoder(_WithId)


def event_of(row: Any, keys: DataKeys) -> EventJson:
    """Return the event of a row that begins with `COLUMNS`, with its data key loaded; raises `DataKeyUnusable`.

    One whose data key was erased is erased.
    """
    *fields, data, erased, key_id = row[:WIDTH]
    if key_id is not None and not erased:
        data = keys.open(key_id, row["installation_id"], row["id"], data)
        if data is None:
            fields[SUBJECT], data, erased = None, b"null", True
    fields += (msgspec.Raw(data), erased)
    return EventJson(*fields)


async def events_of(connection: asyncpg.Connection, keys: DataKeys, rows: Sequence[Any]) -> list[EventJson]:
    """Return the events of rows that begin with `COLUMNS`, up to the first that does not open.

    Raises `DataKeyUnusable` if that is the very first one: so no reader passes it over.
    """
    await keys.load(connection, {row["data_key"] for row in rows})
    events: list[EventJson] = []
    for row in rows:
        try:
            events.append(event_of(row, keys))
        except DataKeyUnusable:
            if not events:
                raise
            break
    return events


def stubs_of(rows: Sequence[Any]) -> list[EventJson]:
    """Return events of rows that begin with `COLUMNS` without what they hold, and without opening anything."""
    return [EventJson(*[*row[: WIDTH - 3], msgspec.Raw(b"null")]) for row in rows]


def next_events(conditions: str) -> str:
    """Return the statement for the events past position $1, up to $2; the parameters of `conditions` begin at $5.

    At most $3 events, and no more than fit into $4 bytes, but one at least: a few events may be as large as thousands
    of others. `found` is their number without the bound on bytes.
    """
    return f"""
        SELECT {COLUMNS}, found FROM (
            SELECT *, count(*) OVER () AS found,
                   sum({SIZE}) OVER (ORDER BY position) - {SIZE} AS past
            FROM (
                SELECT * FROM event WHERE position > $1 AND position <= $2 {conditions} ORDER BY position LIMIT $3
            ) AS next
        ) AS next
        WHERE past < $4 ORDER BY position
    """  # noqa: S608 - conditions are ours, values are bound


async def page_of(
    connection: asyncpg.Connection, keys: DataKeys, rows: Sequence[Any], limit: int
) -> tuple[list[EventJson], bool]:
    """Return the events of the rows of `next_events`, and whether there may be others before its end.

    Raises as `events_of` does.
    """
    events = await events_of(connection, keys, rows)
    return events, is_cut(rows, limit) or len(events) < len(rows)


def is_cut(rows: Sequence[Any], limit: int) -> bool:
    """Whether the bounds of `next_events` may have left out others."""
    return bool(rows) and (rows[0]["found"] == limit or rows[0]["found"] > len(rows))


def previous_events(conditions: str) -> str:
    """Return the statement for the events past position $1 and below $2, newest first; bounded as `next_events` is.

    No more than fit into $4 bytes, but one at least.
    """
    return f"""
        SELECT {COLUMNS} FROM (
            SELECT *, sum({SIZE}) OVER (ORDER BY position DESC) - {SIZE} AS past
            FROM (
                SELECT * FROM event WHERE position > $1 AND position < $2 {conditions} ORDER BY position DESC LIMIT $3
            ) AS previous
        ) AS previous
        WHERE past < $4 ORDER BY position DESC
    """  # noqa: S608 - conditions are ours, values are bound


def like(pattern: str) -> str:
    """Return an event type's pattern as SQL's LIKE takes it; `call.*` is every type that begins so."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped[:-1] + "%" if escaped.endswith("*") else escaped


def matches(type_: str, pattern: str) -> bool:
    """Whether an event's type is one that a filter's pattern means."""
    return type_.startswith(pattern[:-1]) if pattern.endswith("*") else type_ == pattern


@dataclass(frozen=True)
class Filter:
    """Which events a reader wants; an empty list leaves nothing out.

    `bound_to` is the owner that an API key is bound to: the reader gets no other owner's events, whatever it asks for.
    """

    types: Sequence[str] = ()
    owners: Sequence[str] = ()
    installations: Sequence[str] = ()
    bound_to: str | None = None
    own_id: str | None = None  # of the subscription that reads: it gets no event about itself

    @classmethod
    def of(cls, row: "Subscription | Replay") -> "Filter":
        """Return what a subscription or a replay wants."""
        own_id = getattr(row, "subscription_id", row.id)  # of a replay
        return cls(row.types, row.owners, row.installations, own_id=own_id)

    def sql(self, *, first: int) -> tuple[str, list[Any]]:
        """Return the conditions, and the values for their parameters, numbered from `first`."""
        wanted = (
            ("owner = {}", self.bound_to),
            ("type LIKE ANY ({}::text[])", [like(pattern) for pattern in self.types] or None),
            (f"(source <> '{EventSource.SERVICE}' OR subject IS DISTINCT FROM {{}})", self._own_subject),
            _any_of("owner", self.owners),
            _any_of("installation_id", self.installations),
        )
        asked = [(condition, value) for condition, value in wanted if value is not None]
        conditions = [f"AND {condition.format(f'${n}')}" for n, (condition, _) in enumerate(asked, start=first)]
        return " ".join(conditions), [value for _, value in asked]

    def takes(self, event: EventJson) -> bool:
        """Whether an event is wanted: what `sql` says, in memory. What is erased is delivered to no subscription."""
        return (
            (self.bound_to is None or event.owner == self.bound_to)
            and (not self.owners or event.owner in self.owners)
            and (not self.installations or event.installation_id in self.installations)
            and (not self.types or any(matches(event.type, pattern) for pattern in self.types))
            and not event.erased
            and not self.is_about_itself(event)
        )

    def is_about_itself(self, event: EventJson) -> bool:
        """Whether an event is about the subscription that reads."""
        if self.own_id is None or event.resource != SUBSCRIPTION or event.source != EventSource.SERVICE:
            return False
        return msgspec.json.decode(event.data, type=_About).subscription_id == self.own_id

    @property
    def _own_subject(self) -> str | None:
        return None if self.own_id is None else f"{SUBSCRIPTION}:{self.own_id}"


def _any_of(column: str, values: Sequence[str]) -> tuple[str, Any]:
    if len(values) == 1:
        # The column's index gives the events in order; with `= ANY` they would have to be sorted.
        return f"{column} = {{}}", values[0]
    return f"{column} = ANY ({{}}::text[])", list(values) or None


def like_patterns(row: str) -> str:
    """Return a subquery with a column `types`: a subscription's patterns as `like` makes them; NULL where it has none.

    `row` is the subscription's name in the statement. For a lateral join, so that it is asked once per subscription.
    """
    return rf"""(
        SELECT array_agg(regexp_replace(regexp_replace(t, '([\\%_])', '\\\1', 'g'), '\*$', '%')) AS types
        FROM unnest({row}.types) AS t
    )"""  # noqa: S608 - only names of ours are put in


def wanted_by(row: str, event: str, patterns: str) -> str:
    """Return the condition that an event is wanted by a subscription: what `Filter` says, for many of them at once.

    The names are those of the subscription's row, the event's row and the join of `like_patterns` in the statement.
    """
    return f"""(
        ({row}.owners = '{{}}' OR {event}.owner = ANY ({row}.owners))
        AND ({row}.installations = '{{}}' OR {event}.installation_id = ANY ({row}.installations))
        AND ({patterns}.types IS NULL OR {event}.type LIKE ANY ({patterns}.types))
        AND ({event}.source <> '{EventSource.SERVICE}'
             OR {event}.subject IS DISTINCT FROM '{SUBSCRIPTION}:' || {row}.id)
        AND {event}.erased_at IS NULL
    )"""
