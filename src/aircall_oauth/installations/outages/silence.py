"""Silence: notice an installation that used to send events at hours like these and has stopped.

Aircall says nothing when events no longer come. So for each installation it is kept in which hours of the last four
weeks it sent events. With each event the moment is computed from which on its silence is unusual: the end of the third
hour without events in which it sent some in three of those four weeks. An installation without calls at night or on
weekends has no such hours then.
"""

from datetime import UTC, datetime

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col, select

from aircall_oauth.events import follow
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import RHYTHM_HOURS, Rhythm
from aircall_oauth.storage.statuses import EventSource, GapReason

READER = "rhythms"
HAS_NEW_EVENTS = follow.has_more(READER)
WEEK = 7 * 24
USUAL_WEEKS = 3
USUAL_HOURS = 3

# The end of the third usual hour after the last one with events; NULL where a week has fewer than three. Hours in which
# this service was away do not count.
SILENT_AT = f"""
    (SELECT to_timestamp(3600 * (rhythm.hour + later + 1)) FROM generate_series(1, {WEEK}) AS later
     WHERE {" + ".join(f"get_bit(rhythm.spoke, {weeks * WEEK} - later)" for weeks in range(1, 5))} >= {USUAL_WEEKS}
       AND to_timestamp(3600 * (rhythm.hour + later)) >= coalesce(
           (SELECT max(gap.until) FROM gap WHERE gap.installation_id = rhythm.installation_id
              AND gap.reason = '{GapReason.SERVICE_AWAY}'), '-infinity')
     ORDER BY later OFFSET {USUAL_HOURS - 1} LIMIT 1)
"""  # noqa: S608 - only constants of ours are put in
# An hour that is recorded already changes nothing.
NOTE = text(f"""
    WITH told AS (
        SELECT DISTINCT e.installation_id, floor(extract(epoch FROM e.received_at) / 3600)::bigint AS hour
        FROM event e JOIN installation i ON i.id = e.installation_id
        WHERE e.position > :stand AND e.position <= :end AND e.source = '{EventSource.AIRCALL}'
    ), fresh AS (
        SELECT told.installation_id, told.hour, max(told.hour) OVER of_one AS newest
        FROM told LEFT JOIN rhythm r ON r.installation_id = told.installation_id
        WHERE r.hour IS NULL OR told.hour > r.hour
        WINDOW of_one AS (PARTITION BY told.installation_id)
    )
    INSERT INTO rhythm (installation_id, hour, spoke)
    SELECT installation_id, newest,
           bit_or(set_bit(0::bit({RHYTHM_HOURS}), 0, 1) >> least(newest - hour, {RHYTHM_HOURS})::integer)
    FROM fresh GROUP BY installation_id, newest
    ON CONFLICT (installation_id) DO UPDATE SET hour = excluded.hour,
        spoke = excluded.spoke | (rhythm.spoke >> least(excluded.hour - rhythm.hour, {RHYTHM_HOURS})::integer)
    RETURNING installation_id
""")  # noqa: S608 - only constants of ours are put in
JUDGE = text(f"UPDATE rhythm SET silent_at = {SILENT_AT} WHERE installation_id = ANY(:installation_ids)")  # noqa: S608
# An installation that was silent before the service was away is still silent.
EXCUSE = f"UPDATE rhythm SET silent_at = {SILENT_AT} WHERE silent_at > $1"  # noqa: S608


async def hours_of(resources: Resources, installation_id: str) -> list[datetime]:
    """Return the hours of the last four weeks in which an installation sent events, the newest first."""
    query = select(Rhythm).where(col(Rhythm.installation_id) == installation_id)
    async with resources.database.session() as session:
        rhythm = (await session.exec(query)).first()
    if rhythm is None:
        return []
    spoke = str(rhythm.spoke)
    return [datetime.fromtimestamp(3600 * (rhythm.hour - hour), UTC) for hour, bit in enumerate(spoke) if bit == "1"]


async def learn_rhythms(resources: Resources) -> None:
    """Chore: learn from the log in which hours each installation sent events, reading each part of it once."""
    await follow.follow(resources, READER, _note)


async def excuse(connection: asyncpg.Connection, *, since: datetime) -> None:
    """Judge the silences since then anew, after a gap was recorded in which this service was away."""
    await connection.execute(EXCUSE, since)


async def _note(connection: AsyncConnection, stand: int, end: int) -> None:
    spoke = (await connection.execute(NOTE, {"stand": stand, "end": end})).scalars().all()
    if spoke:
        await connection.execute(JUDGE, {"installation_ids": spoke})
