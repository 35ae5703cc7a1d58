"""The statement that adds a group of events to the log: what it takes, and what it returns."""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum, auto

import asyncpg
import msgspec

from aircall_oauth.storage import locks
from aircall_oauth.storage.database import DURABLY
from aircall_oauth.storage.models.events import EventSource
from aircall_oauth.storage.models.installations import InstallationStatus

# An event is answered within this, even if only with a 503: Aircall waits five seconds.
ANSWER_SECONDS = 2.5
# Compress large values with lz4, which costs least, where PostgreSQL has it.
PREPARE = """
    SELECT set_config('default_toast_compression', 'lz4', false) FROM pg_settings
    WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""

# A fingerprint begins with the time of its event. So new fingerprints lie side by side in the index, however large it
# is, and old ones are found by it. The time is Aircall's: a clock of ours that jumps would make a repeat a new event.
# A repeat is answered like the event it repeats, whose commit may still be waiting for a standby. So the commit of a
# repeat waits for the same (`DURABLY`).
FINGERPRINT = """
    int8send(coalesce(extract(epoch FROM a.occurred_at)::bigint, 0)) || sha256(convert_to(i.id, 'UTF8') || a.{})
"""
_TAKE_IN = f"""
    WITH incoming AS MATERIALIZED (
        SELECT a.*, i.id AS installation_id, i.company_id, i.owner,
               {FINGERPRINT.format("content")} AS fingerprint,
               sha256(convert_to(i.id, 'UTF8') || a.call) AS call_fingerprint{{and_unkeyed}}
        FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
                    $8::bytea[], $9::text[]{{unkeyed}})
             WITH ORDINALITY AS a (token, content, id, type, resource, occurred_at, data, call, subject{{named}},
                                   number)
        LEFT JOIN LATERAL (
            SELECT installation_id FROM webhook WHERE token_fingerprint = a.token
            UNION ALL SELECT installation_id FROM retired_webhook WHERE token_fingerprint = a.token
            LIMIT 1
        ) w ON true
        LEFT JOIN installation i ON i.id = w.installation_id
              AND i.status IN ('{InstallationStatus.ACTIVE}', '{InstallationStatus.UNAUTHORIZED}')
    ), locked AS MATERIALIZED (
        SELECT pg_advisory_xact_lock({locks.LOG}), {DURABLY}
    ), known AS MATERIALIZED (
        SELECT DISTINCT ON (fingerprint) incoming.* FROM locked, incoming WHERE installation_id IS NOT NULL
            {{unless_known}}
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
                           subject, occurred_at, source, data)
        SELECT nextval('event_position'), clock_timestamp(), id, installation_id, company_id, owner, type, resource,
               subject, occurred_at, '{EventSource.AIRCALL}', data
        FROM (SELECT known.* FROM known JOIN new USING (fingerprint) LEFT JOIN told
                  ON told.back_filled AND told.fingerprint = call_fingerprint
              WHERE told.fingerprint IS NULL ORDER BY number) AS in_order
        RETURNING id
    )
    SELECT (SELECT array_agg(number) FROM incoming WHERE installation_id IS NULL), (SELECT array_agg(id) FROM kept)
"""  # noqa: S608 - only constants of ours are put in
TAKE_IN = _TAKE_IN.format(unkeyed="", named="", and_unkeyed="", unless_known="")
# The same for redacted events. One that came in before a field was named has a fingerprint without a key.
TAKE_IN_REDACTED = _TAKE_IN.format(
    unkeyed=", $10::bytea[]",
    named=", unkeyed",
    and_unkeyed=f", {FINGERPRINT.format('unkeyed')} AS unkeyed_fingerprint",
    unless_known="AND NOT EXISTS (SELECT FROM event_fingerprint e WHERE e.fingerprint = unkeyed_fingerprint)",
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


async def insert(
    connection: asyncpg.Connection, arrivals: Sequence[Arrival], ids: list[str]
) -> tuple[Collection[int] | None, Collection[str] | None]:
    """Add a group to the log; returns the numbers (from 1) of events with an unknown token, and the ids of new ones."""
    redacted = any(a.unkeyed is not None for a in arrivals)
    unknown, stored = await connection.fetchrow(
        TAKE_IN_REDACTED if redacted else TAKE_IN,
        [a.token_fingerprint for a in arrivals],
        [a.fingerprint for a in arrivals],
        ids,
        [a.type for a in arrivals],
        [a.resource for a in arrivals],
        [a.occurred_at for a in arrivals],
        [a.data for a in arrivals],
        [a.call for a in arrivals],
        [a.subject for a in arrivals],
        *([[a.unkeyed for a in arrivals]] if redacted else []),
        timeout=ANSWER_SECONDS,
    )
    return unknown, stored
