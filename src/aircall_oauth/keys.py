"""API keys: made, listed and revoked by an operator."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_
from sqlmodel import col, select, update

from aircall_oauth.models import API_KEY_PURPOSE, ApiKey, Scope, new_api_key, new_id, now
from aircall_oauth.resources import Resources


async def create(
    resources: Resources,
    *,
    name: str,
    scopes: Sequence[Scope],
    owner: str | None = None,
    lifetime: timedelta | None = None,
) -> str:
    """A new API key, in clear this one time; only its fingerprint is kept."""
    await resources.require_ready()
    secret, created_at = new_api_key(), now()
    key = ApiKey(
        id=new_id("key"),
        name=name,
        fingerprint=resources.vault.fingerprint(secret, API_KEY_PURPOSE),
        scopes=[str(scope) for scope in scopes],
        owner=owner,
        created_at=created_at,
        expires_at=created_at + lifetime if lifetime else None,
    )
    async with resources.database.session() as session:
        session.add(key)
    return secret


async def list_all(resources: Resources) -> Sequence[ApiKey]:
    """Every API key, oldest first; never the secret, which nobody has."""
    await resources.require_ready()
    async with resources.database.session() as session:
        return (await session.exec(select(ApiKey).order_by(col(ApiKey.id)))).all()


async def revoke(resources: Resources, which: str) -> int:
    """Revoke the keys with this id or name, effective at once; how many there were."""
    await resources.require_ready()
    revocation = (
        update(ApiKey)
        .where(or_(col(ApiKey.id) == which, col(ApiKey.name) == which), col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now())
    )
    async with resources.database.session() as session:
        return (await session.exec(revocation)).rowcount


def standing(key: ApiKey, moment: datetime) -> str:
    """One word on whether a key still opens anything."""
    if key.revoked_at is not None:
        return "revoked"
    return "active" if key.valid_at(moment) else "expired"
