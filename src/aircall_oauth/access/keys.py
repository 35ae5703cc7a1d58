"""API keys, created and revoked by an operator, and by people in the console."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, update

from aircall_oauth.access import audit, known_keys
from aircall_oauth.access.audit import OPERATOR, Action, Who
from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import OwnerNotAllowed
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.access import ApiKey
from aircall_oauth.storage.sealed import API_KEY_PURPOSE
from aircall_oauth.storage.stamps import new_id, now

API_KEY_PREFIX = "aok_"
OF_THE_CONSOLE = frozenset({Scope.CONSOLE_READ, Scope.CONSOLE_ACT, Scope.PAYLOADS_READ})


def new_api_key() -> str:
    """Make an API key: 256 random bits behind a prefix that secret scanners can recognise."""
    return API_KEY_PREFIX + secrets.token_urlsafe(32)


async def create(
    resources: Resources,
    *,
    name: str,
    scopes: Sequence[Scope],
    owner: str | None = None,
    aircall_rules: Sequence[str] | None = None,
    lifetime: timedelta | None = None,
    not_after: datetime | None = None,
    made_as: tuple[str, str] | None = None,
    who: Who = OPERATOR,
) -> str:
    """Create an API key and return it, in clear this one time; only its fingerprint is kept.

    It ends when its lifetime is over, and no later than `not_after`. With an id and a secret for it in `made_as`, a
    repeat makes none, and returns the same.
    Raises `OwnerNotAllowed` for a key that is bound to an owner and opens the console, which shows every owner's.
    """
    if owner is not None and not OF_THE_CONSOLE.isdisjoint(scopes):
        raise OwnerNotAllowed("A key that is bound to an owner can't open the console, which shows every owner's.")
    await resources.require_ready()
    (key_id, secret), created_at = made_as or (new_id("key"), new_api_key()), now()
    ends = [moment for moment in (created_at + lifetime if lifetime else None, not_after) if moment is not None]
    key = ApiKey(
        id=key_id,
        name=name,
        fingerprint=resources.vault.fingerprint(secret, API_KEY_PURPOSE),
        scopes=[str(scope) for scope in scopes],
        owner=owner,
        aircall_rules=list(aircall_rules) if aircall_rules else None,
        created_at=created_at,
        expires_at=min(ends, default=None),
    )
    async with resources.database.session() as session:
        added = insert(ApiKey).values(**key.model_dump()).on_conflict_do_nothing().returning(col(ApiKey.id))
        if (await session.exec(added)).first() is not None:
            await audit.record(session, who, Action.API_KEY_CREATED, owner=owner, details=_details(key))
    return secret


async def revoke(resources: Resources, which: str, *, who: Who = OPERATOR) -> int:
    """Revoke the keys with this id or name at once, and return how many there were."""
    await resources.require_ready()
    revocation = (
        update(ApiKey)
        .where(or_(col(ApiKey.id) == which, col(ApiKey.name) == which), col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now())
        .returning(ApiKey)
    )
    async with resources.database.session() as session:
        revoked = (await session.exec(revocation)).scalars().all()
        for key in revoked:
            await audit.record(session, who, Action.API_KEY_REVOKED, owner=key.owner, details=_details(key))
        return len(revoked)


def _details(key: ApiKey) -> dict[str, Any]:
    """What the audit tells of a key that is created or revoked."""
    return {"api_key_id": key.id, "name": key.name, "scopes": list(key.scopes)}


async def withdraw(resources: Resources, secret: str) -> None:
    """Revoke a key that was just created, and could not be shown."""
    caller = await known_keys.recognise(resources, secret)
    if caller is not None:
        await revoke(resources, caller.id)
