"""The statement that adds a group of events to the log: what it takes, and what it returns."""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum, auto
from operator import attrgetter
from typing import Any, NamedTuple

import asyncpg
import msgspec

from aircall_oauth.events.query import EventJson
from aircall_oauth.storage import locks
from aircall_oauth.storage.data_keys import NULL
from aircall_oauth.storage.durability import DURABLY
from aircall_oauth.storage.statuses import EventSource, InstallationStatus

# An event is answered within this, even if only with a 503: Aircall waits five seconds.
ANSWER_SECONDS = 2.5
# Compress large values with lz4, which costs least, where PostgreSQL has it.
PREPARE = """
    SELECT set_config('default_toast_compression', 'lz4', false) FROM pg_settings
    WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""

# Each event's installation, by its webhook's token.
OF_TOKEN = f"""LEFT JOIN LATERAL (
            SELECT installation_id FROM webhook WHERE token_fingerprint = a.token
            UNION ALL SELECT installation_id FROM retired_webhook WHERE token_fingerprint = a.token
            LIMIT 1
        ) w ON true
        LEFT JOIN installation i ON i.id = w.installation_id
              AND i.status IN ('{InstallationStatus.ACTIVE}', '{InstallationStatus.UNAUTHORIZED}')"""  # noqa: S608 - only constants of ours are put in
# A fingerprint begins with the time of its event. So new fingerprints lie side by side in the index, however large it
# is, and old ones are found by it. The time is Aircall's: a clock of ours that jumps would make a repeat a new event.
# A repeat is answered like the event it repeats: that one's commit may still wait for a standby. So the commit of a
# repeat waits for the same (`DURABLY`).
FINGERPRINT = """
    int8send(coalesce(extract(epoch FROM a.occurred_at)::bigint, 0)) || sha256(convert_to(i.id, 'UTF8') || a.{})
"""
TAKE_IN_ANY = """
    WITH {keys}incoming AS MATERIALIZED (
        SELECT a.*, i.id AS installation_id, i.company_id, i.owner,
               {fingerprint} AS fingerprint,
               sha256(convert_to(i.id, 'UTF8') || a.call) AS call_fingerprint{and_other}
        FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
                    $8::bytea[], $9::text[]{given})
             WITH ORDINALITY AS a (token, content, id, type, resource, occurred_at, data, call, subject{named}, number)
        {of_token}
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock({lock}), {durably}{held}
    ), known AS MATERIALIZED (
        SELECT DISTINCT ON (fingerprint) incoming.* FROM locked, incoming WHERE installation_id IS NOT NULL
            {unless_known}
        ORDER BY fingerprint, number
    ), new AS (
        INSERT INTO event_fingerprint (fingerprint, received_at) SELECT fingerprint, now() FROM known
        ON CONFLICT (fingerprint) DO NOTHING
        RETURNING fingerprint
    ), told AS (
        INSERT INTO told_call (fingerprint, received_at, back_filled)
        SELECT DISTINCT call_fingerprint, now(), false FROM known WHERE call_fingerprint IS NOT NULL
        ON CONFLICT (fingerprint) DO UPDATE SET back_filled = true WHERE told_call.back_filled
        RETURNING fingerprint, back_filled
    ), kept AS (
        INSERT INTO event (position, received_at, id, installation_id, company_id, owner, type, resource,
                           subject, occurred_at, source, data{stored})
        SELECT nextval('event_position'), clock_timestamp(), id, installation_id, company_id, owner, type, resource,
               subject, occurred_at, '{source}', data{stored}
        FROM (SELECT known.* FROM known JOIN new USING (fingerprint) LEFT JOIN told
                  ON told.back_filled AND told.fingerprint = call_fingerprint
              WHERE told.fingerprint IS NULL ORDER BY number) AS in_order
        RETURNING id{returned}
    )
    SELECT (SELECT array_agg(number) FROM incoming WHERE installation_id IS NULL), kept.*{refused}
    FROM (SELECT array_agg(id){collected} FROM kept) AS kept
"""
ALWAYS = {
    "of_token": OF_TOKEN,
    "fingerprint": FINGERPRINT.format("content"),
    "lock": locks.LOG,
    "durably": DURABLY,
    "source": EventSource.AIRCALL,
}
UNCOVERED = {"keys": "", "held": "", "stored": "", "refused": ""}
PLAIN = {"given": "", "named": "", "and_other": "", "unless_known": ""}
# Whether the statement also returns what only PostgreSQL knows of each new event.
BRIEF = {"returned": "", "collected": ""}
WHOLE = {
    "returned": ", position, received_at, installation_id, company_id, owner",
    "collected": "".join(
        f", array_agg({column})" for column in ("position", "received_at", "installation_id", "company_id", "owner")
    ),
}
AND_OTHER = f""",
               {FINGERPRINT.format("other")} AS other_fingerprint"""
UNLESS_KNOWN = "AND NOT EXISTS (SELECT FROM event_fingerprint e WHERE e.fingerprint = other_fingerprint)"
# For redacted events. One that came in before a field was named has a fingerprint without a key.
REDACTED = {"given": ", $10::bytea[]", "named": ", other", "and_other": AND_OTHER, "unless_known": UNLESS_KNOWN}
# By whether there are redacted events in the group, and whether the new ones are wanted whole.
TAKE_IN = {
    (redacted, whole): TAKE_IN_ANY.format(
        **ALWAYS, **UNCOVERED, **(REDACTED if redacted else PLAIN), **(WHOLE if whole else BRIEF)
    )
    for redacted in (False, True)
    for whole in (False, True)
}
# Where events are encrypted, or were. The data keys are held before the log's lock is taken, so that what waits for a
# key, to erase it, holds up nothing; one that is being erased is skipped. An event that is not encrypted under its
# customer's key of this moment is refused. An event whose repeat came in before encryption was switched on, or off, is
# recognised too: by its other hash.
TAKE_IN_COVERED = TAKE_IN_ANY.format(
    **ALWAYS,
    **BRIEF,
    keys="""keys AS MATERIALIZED (
        SELECT id, installation_id, owner FROM data_key
        WHERE id = ANY ($10::text[]) AND erased_at IS NULL FOR KEY SHARE SKIP LOCKED
    ), """,
    given=", $10::text[], $11::bytea[], $12::bytea[]",
    named=", data_key, sealed, other",
    and_other=f"""{AND_OTHER},
               CASE WHEN a.data_key IS NULL THEN NOT $13 ELSE EXISTS (
                   SELECT FROM keys k WHERE k.id = a.data_key AND k.installation_id = i.id
                      AND k.owner IS NOT DISTINCT FROM i.owner
               ) END AS fits""",  # noqa: S608 - only constants of ours are put in
    held=", (SELECT count(*) FROM keys) AS held",
    unless_known=f"AND fits {UNLESS_KNOWN}",
    stored=", data_key, sealed",
    refused=", (SELECT array_agg(number) FROM incoming WHERE installation_id IS NOT NULL AND NOT fits)",
)

# Needs of the database what a group needs: that it may write, the log's lock, and a commit.
PROVE = f"SELECT current_setting('transaction_read_only') = 'off', pg_advisory_xact_lock({locks.LOG}), {DURABLY}"


class TakenIn(Enum):
    """The outcome for one event."""

    STORED = auto()
    REPEATED = auto()
    UNKNOWN_TOKEN = auto()


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """An event as Aircall sent it, its token as a fingerprint; `call` is the key of the call that it ends, if any."""

    token_fingerprint: bytes
    type: str
    resource: str | None
    occurred_at: datetime | None
    fingerprint: bytes
    data: str
    call: bytes | None = None
    subject: str | None = None
    unkeyed: bytes | None = None  # where `fingerprint` is keyed: the one that it had without a key


class Cover(msgspec.Struct, frozen=True, gc=False):
    """What is stored of an event in place of its text and its hash; `other` is the hash it would have had otherwise.

    Without a key the text is stored as it is, or, where everything is to be encrypted, the event is not.
    """

    key_id: str | None
    sealed: bytes | None
    content: bytes
    other: bytes


class Inserted(NamedTuple):
    """What became of a group: numbers in it are from 1, None is none."""

    unknown: Collection[int] | None  # the numbers of events with an unknown token
    stored: Collection[str] | None  # the ids of new ones
    refused: Collection[int] | None = None  # the numbers of those that were not encrypted under the key of now
    events: Sequence[EventJson] = ()  # the new ones, in position order, if they were wanted whole


async def insert(
    connection: asyncpg.Connection, arrivals: Sequence[Arrival], ids: list[str], *, whole: bool
) -> Inserted:
    """Add a group to the log; with `whole`, its new events are returned as readers see them."""
    contents, texts = [a.fingerprint for a in arrivals], [a.data for a in arrivals]
    redacted = any(a.unkeyed is not None for a in arrivals)
    unknown, stored, *columns = await connection.fetchrow(
        TAKE_IN[redacted, whole],
        *_columns(arrivals, ids, contents, texts),
        *([[a.unkeyed for a in arrivals]] if redacted else []),
        timeout=ANSWER_SECONDS,
    )
    if not (whole and stored):
        return Inserted(unknown, stored)
    arrival_of = dict(zip(ids, arrivals, strict=True))
    events = [_event(arrival_of[id_], id_, *row) for id_, *row in zip(stored, *columns, strict=True)]
    return Inserted(unknown, stored, events=sorted(events, key=attrgetter("position")))


def _event(
    arrival: Arrival,
    id_: str,
    position: int,
    received_at: datetime,
    installation_id: str,
    company_id: int,
    owner: str | None,
) -> EventJson:
    return EventJson(
        id=id_,
        position=position,
        type=arrival.type,
        resource=arrival.resource,
        subject=arrival.subject,
        installation_id=installation_id,
        company_id=company_id,
        owner=owner,
        occurred_at=arrival.occurred_at,
        received_at=received_at,
        source=EventSource.AIRCALL,
        data=msgspec.Raw(arrival.data.encode()),
    )


async def insert_covered(
    connection: asyncpg.Connection, arrivals: Sequence[Arrival], ids: list[str], covers: Sequence[Cover], *, all_: bool
) -> Inserted:
    """Add a group to the log as `insert` does, encrypted; with `all_`, nothing of it in clear."""
    texts = [a.data if cover.sealed is None and not all_ else NULL for a, cover in zip(arrivals, covers, strict=True)]
    unknown, stored, refused = await connection.fetchrow(
        TAKE_IN_COVERED,
        *_columns(arrivals, ids, [cover.content for cover in covers], texts),
        [cover.key_id for cover in covers],
        [cover.sealed for cover in covers],
        [cover.other for cover in covers],
        all_,
        timeout=ANSWER_SECONDS,
    )
    return Inserted(unknown, stored, refused)


def _columns(arrivals: Sequence[Arrival], ids: list[str], contents: list[bytes], texts: list[str]) -> tuple[Any, ...]:
    return (
        [a.token_fingerprint for a in arrivals],
        contents,
        ids,
        [a.type for a in arrivals],
        [a.resource for a in arrivals],
        [a.occurred_at for a in arrivals],
        texts,
        [a.call for a in arrivals],
        [a.subject for a in arrivals],
    )
