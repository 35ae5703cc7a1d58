"""Key rotation: seals again, under the first key, every secret that is sealed under an older one, without downtime.

The rows themselves say what is done, so a rotation that was interrupted is simply started again. A row is replaced only
if it still holds the value that was read: a concurrent write wins, and the next pass finds that row again.
"""

import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import asyncpg

from aircall_oauth.access import audit
from aircall_oauth.access.audit import OPERATOR, Action, Who
from aircall_oauth.errors import RotationUnderWay, SealError
from aircall_oauth.resources import Resources
from aircall_oauth.storage import locks
from aircall_oauth.storage.away import database_errors
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.sealed import SEALED, Sealed
from aircall_oauth.storage.vault import SealedAt, Vault
from aircall_oauth.wrapping.entries import KEY_BYTES

# The rows that are locked at once, for the few milliseconds of one statement.
BATCH = 500


@dataclass
class Rotation:
    """The progress of a rotation. The secrets in `broken` opened under no key and were left as they are."""

    total: int = 0
    done: int = 0
    broken: set[SealedAt] = field(default_factory=set)
    fingerprints: int = 0  # tokens that were recognised by an older key's fingerprint


Report = Callable[[Rotation], None]


def new_key(today: datetime) -> str:
    """Make an entry for `AIRCALL_OAUTH_SECRET_KEYS`: an id with today's date, and 32 random bytes."""
    return f"{today:%Y%m%d}-{secrets.token_hex(2)}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}"


async def rotate(resources: Resources, report: Report, who: Who = OPERATOR) -> Rotation:
    """Seal everything under the first key; raises `RotationUnderWay` while another rotation runs.

    A process that still seals under an older key makes new work, so passes are repeated until one finds none.
    """
    await resources.require_ready()
    rotation = Rotation()
    async with _alone(resources.database) as connection:
        rotation.total = sum([await _count(connection, resources.vault, sealed) for sealed in SEALED])
        report(rotation)
        if rotation.total:
            await _record(resources, who)
        while sum([await _pass(connection, resources.vault, sealed, rotation, report) for sealed in SEALED]):
            pass
        if resources.vault.changes_fingerprints:
            for sealed in SEALED:
                rotation.fingerprints += await _fingerprint_anew(connection, resources.vault, sealed)
            if rotation.fingerprints and not rotation.total:
                await _record(resources, who)
    return rotation


async def keys_in_use(resources: Resources) -> Mapping[str, int]:
    """Count the secrets that are sealed under each key, by the key's id."""
    in_use: dict[str, int] = {}
    async with resources.database.driver_connection() as connection:
        for sealed in SEALED:
            for key_id, rows in await connection.fetch(_grouped(sealed)):
                in_use[key_id] = in_use.get(key_id, 0) + rows
    return in_use


@asynccontextmanager
async def _alone(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection that holds the lock of the only rotation; raises `RotationUnderWay` where it is taken."""
    connection = await database.connect()
    try:
        with database_errors():
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", locks.ROTATION):
                raise RotationUnderWay
            yield connection
    finally:
        connection.terminate()


async def _record(resources: Resources, who: Who) -> None:
    async with resources.database.session() as session:
        await audit.record(session, who, Action.SECRETS_ROTATED)


async def _count(connection: asyncpg.Connection, vault: Vault, sealed: Sealed) -> int:
    count: int = await connection.fetchval(
        f"SELECT count(*) FROM {sealed.table} WHERE {_is_old(sealed)}", vault.key_ids[0]
    )
    return count


async def _pass(
    connection: asyncpg.Connection, vault: Vault, sealed: Sealed, rotation: Rotation, report: Report
) -> int:
    """Go through a column once; returns how many rows had to be sealed again."""
    after, found = "", 0
    while rows := await connection.fetch(_batch(sealed), vault.key_ids[0], after, BATCH):
        after = rows[-1]["id"]
        anew = [one for row_id, held in rows if (one := _anew(vault, SealedAt(sealed.place, row_id), held, rotation))]
        if anew:
            replace = _replace(sealed, sealed.column, "text")
            rotation.done += await connection.fetchval(replace, *map(list, zip(*anew, strict=True)))
        found += len(anew)
        report(rotation)
    return found


async def _fingerprint_anew(connection: asyncpg.Connection, vault: Vault, sealed: Sealed) -> int:
    """Give a column's secrets the first key's fingerprints; returns how many had an older key's."""
    after, done = "", 0
    while sealed.fingerprint and (rows := await connection.fetch(_with_fingerprints(sealed), after, BATCH)):
        after = rows[-1]["id"]
        anew = [
            (row["id"], row["held"], fingerprint)
            for row in rows
            if (fingerprint := _fingerprint_of(vault, sealed, row)) not in {None, row["known"]}
        ]
        if anew:
            replace = _replace(sealed, sealed.fingerprint, "bytea")
            done += await connection.fetchval(replace, *map(list, zip(*anew, strict=True)))
    return done


def _fingerprint_of(vault: Vault, sealed: Sealed, row: asyncpg.Record) -> bytes | None:
    """Return the fingerprint of a row's secret; None if that does not open."""
    try:
        return vault.fingerprint(vault.open(row["held"], SealedAt(sealed.place, row["id"])), sealed.purpose)
    except SealError:
        return None


def _anew(vault: Vault, place: SealedAt, held: str, rotation: Rotation) -> tuple[str, str, str] | None:
    """Return a row's id, its present value and its new one; None where the value does not open."""
    if place in rotation.broken:
        return None
    try:
        return place.row_id, held, vault.seal(vault.open(held, place), place)
    except SealError:
        rotation.broken.add(place)
        return None


def _is_old(sealed: Sealed) -> str:
    return f"{sealed.column} IS NOT NULL AND split_part({sealed.column}, '.', 2) <> $1"


def _batch(sealed: Sealed) -> str:
    return f"SELECT id, {sealed.column} FROM {sealed.table} WHERE {_is_old(sealed)} AND id > $2 ORDER BY id LIMIT $3"


def _replace(sealed: Sealed, column: str, kind: str) -> str:
    """Return the statement that writes a column of rows whose secret is as it was read: ids, secrets, new values."""
    return f"""
        WITH replaced AS (
            UPDATE {sealed.table} AS t SET {column} = anew.value
            FROM unnest($1::text[], $2::text[], $3::{kind}[]) AS anew (id, held, value)
            WHERE t.id = anew.id AND t.{sealed.column} = anew.held
            RETURNING 1
        )
        SELECT count(*) FROM replaced
    """


def _with_fingerprints(sealed: Sealed) -> str:
    return f"""
        SELECT id, {sealed.column} AS held, {sealed.fingerprint} AS known FROM {sealed.table}
        WHERE {sealed.column} IS NOT NULL AND id > $1 ORDER BY id LIMIT $2
    """


def _grouped(sealed: Sealed) -> str:
    return f"""
        SELECT split_part({sealed.column}, '.', 2), count(*) FROM {sealed.table}
        WHERE {sealed.column} IS NOT NULL GROUP BY 1
    """
