"""Finds the subscription that a repeated request made before: by its `Idempotency-Key`, or by its name.

What a key was and what its request said is kept as fingerprints, beside the subscription and as long as it, but for a
day at most. Only requests that made a subscription are remembered. An API key bound to an owner has keys of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.access.callers import Caller
from aircall_oauth.deliveries.auditing import TARGETS
from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.errors import IdempotencyKeyUsed, SubscriptionDiffers
from aircall_oauth.resources import Resources
from aircall_oauth.storage import batches, clocks
from aircall_oauth.storage.models.deliveries import CreationKey, Subscription

KEPT = timedelta(hours=24)
PURPOSE, BODY_PURPOSE = "idempotency-key", "idempotency-body"
FORGET = """
    DELETE FROM creation_key WHERE fingerprint IN (SELECT fingerprint FROM creation_key WHERE created_at < $1 LIMIT $2)
"""
COMPARED = ("kind", *TARGETS, "types", "installations", "ordering")


@dataclass(frozen=True)
class Repeat:
    """What a request says of being repeated: its `Idempotency-Key` and its body, and whether its name is enough."""

    key: str | None = None
    body: str = ""
    ensure: bool = False


async def by_key(resources: Resources, session: AsyncSession, key: Caller, repeat: Repeat) -> Subscription | None:
    """Return what a request with this `Idempotency-Key` made; raises `IdempotencyKeyUsed` if it said otherwise."""
    if repeat.key is None:
        return None
    known = await session.get(CreationKey, _fingerprint(resources, key, repeat.key))
    if known is None:
        return None
    if known.body_fingerprint != resources.vault.fingerprint(repeat.body, BODY_PURPOSE):
        raise IdempotencyKeyUsed
    return await session.get(Subscription, known.subscription_id)


async def by_name(
    resources: Resources,
    session: AsyncSession,
    repeat: Repeat,
    owners: Sequence[str],
    url: str,
    asked: Mapping[str, Any],
) -> Subscription | None:
    """Return the oldest subscription of this name for the same owners, where the request wants that.

    Raises `SubscriptionDiffers` if it delivers otherwise than was asked for.
    """
    if not repeat.ensure:
        return None
    named = select(Subscription).where(col(Subscription.name) == asked["name"]).order_by(col(Subscription.id))
    found = next((one for one in (await session.exec(named)).all() if sorted(one.owners) == sorted(owners)), None)
    if found is None:
        return None
    differing = [name for name in COMPARED if name in asked and _plain(getattr(found, name)) != _plain(asked[name])]
    if registry.url_of(resources, found) != url:
        differing.append("url")
    if differing:
        raise SubscriptionDiffers(["order" if name == "ordering" else name for name in differing])
    return found


async def remember(
    resources: Resources, session: AsyncSession, key: Caller, repeat: Repeat, subscription_id: str
) -> None:
    """Keep the request's `Idempotency-Key`, if it has one, in place of an older one."""
    if repeat.key is not None:
        await session.flush()
        fingerprint = _fingerprint(resources, key, repeat.key)
        await session.exec(delete(CreationKey).where(col(CreationKey.fingerprint) == fingerprint))
        session.add(
            CreationKey(
                fingerprint=fingerprint,
                body_fingerprint=resources.vault.fingerprint(repeat.body, BODY_PURPOSE),
                subscription_id=subscription_id,
            )
        )


async def forget(resources: Resources) -> None:
    """Chore: delete keys older than a day."""
    await batches.delete(resources.database, FORGET, await clocks.agreed_now(resources.database) - KEPT)


def _fingerprint(resources: Resources, key: Caller, idempotency_key: str) -> bytes:
    whose = "all" if key.owner is None else f"owner {key.owner}"
    return resources.vault.fingerprint(f"{whose}\n{idempotency_key}", PURPOSE)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value
