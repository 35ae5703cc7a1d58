"""The API keys that there are: recognised at every endpoint of the API, and listed.

By the driver: a command that only lists them is done before SQLAlchemy would be imported. `keys` creates and revokes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from aircall_oauth.access.callers import Caller
from aircall_oauth.resources import Resources
from aircall_oauth.storage.sealed import API_KEY_PURPOSE

USED_AGAIN_AFTER = timedelta(minutes=1)
RECOGNISE = f"""
    SELECT id, scopes, owner, aircall_rules, coalesce(last_used_at > now() - interval '{USED_AGAIN_AFTER}', false)
    FROM api_key
    WHERE fingerprint = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""  # noqa: S608 - only names of ours are put in
STILL_OPENS = """
    SELECT EXISTS (
        SELECT FROM api_key WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
    )
"""
FINGERPRINT_ANEW = "UPDATE api_key SET fingerprint = $2 WHERE id = $1"
NOTE_USE = "UPDATE api_key SET last_used_at = now() WHERE id = $1"
LIST = """
    SELECT id, name, owner, scopes, aircall_rules, created_at, expires_at, last_used_at, revoked_at
    FROM api_key ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An API key as it is listed; its secret is not kept, and times are in UTC."""

    id: str
    name: str
    owner: str | None
    scopes: Sequence[str]
    aircall_rules: Sequence[str] | None  # None: every call to Aircall
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def status(self, moment: datetime) -> str:
        """Return `active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or self.expires_at > moment else "expired"


async def recognise(resources: Resources, secret: str) -> Caller | None:
    """Return the caller with this API key; None if there is no such key, or it is revoked or expired.

    To be called for every request, so that a key revoked in one process is refused in all with the next request. A key
    is looked up by its fingerprint, so the time of the search tells nothing about a secret that is nearly right.
    """
    fingerprint = resources.vault.fingerprint(secret, API_KEY_PURPOSE)

    async def look(connection: asyncpg.Connection) -> Caller | None:
        row = await connection.fetchrow(RECOGNISE, fingerprint)
        if row is None:
            row = await _recognise_by_older(resources, connection, secret, fingerprint)
        if row is None:
            return None
        *of_the_key, used_lately = row
        if not used_lately:
            await connection.execute(NOTE_USE, row["id"])
        return Caller(*of_the_key)

    return await resources.recognised.find(fingerprint, look)


async def _recognise_by_older(
    resources: Resources, connection: asyncpg.Connection, secret: str, fingerprint: bytes
) -> asyncpg.Record | None:
    """Look an API key up by its fingerprints under older fingerprint keys; store the newest one of what is found."""
    for older in resources.vault.older_fingerprints(secret, API_KEY_PURPOSE):
        if (row := await connection.fetchrow(RECOGNISE, older)) is not None:
            await connection.execute(FINGERPRINT_ANEW, row["id"], fingerprint)
            return row
    return None


async def still_opens(resources: Resources, key: Caller) -> bool:
    """Whether a key that was recognised a while ago would still be."""

    async def look(connection: asyncpg.Connection) -> bool:
        return bool(await connection.fetchval(STILL_OPENS, key.id))

    return await resources.recognised.find(key.id, look)


async def list_all(resources: Resources) -> list[KnownKey]:
    """Return every API key, oldest first."""
    await resources.require_ready()
    async with resources.database.driver_connection() as connection:
        return [KnownKey(*row) for row in await connection.fetch(LIST)]
