"""Leases of webhooks: one process at a time works on a webhook.

`leased_until` says until when the lease runs, `due_at` when the webhook is to be reconciled next. A process that
returns after its lease has run out changes nothing: another process may have claimed the webhook meanwhile.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, case, func, or_
from sqlmodel import col, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.resources import Resources
from aircall_oauth.storage.leases import after, between, claim
from aircall_oauth.storage.models.installations import Installation, Webhook
from aircall_oauth.storage.statuses import InstallationStatus

# Reconciling one webhook, calls to Aircall included, takes far less.
LEASE = timedelta(seconds=90)
# With its time in the queue, a webhook is reconciled no sooner than five minutes and no later than fifteen after the
# last time.
INTERVAL = timedelta(minutes=6), timedelta(minutes=12)

Leased = tuple[Webhook, Installation]


def free(statuses: Sequence[InstallationStatus]) -> tuple[ColumnElement[bool], ...]:
    """Match the webhooks that no process works on, of installations with these statuses."""
    is_free = or_(col(Webhook.leased_until).is_(None), col(Webhook.leased_until) <= func.now())
    return is_free, col(Installation.status).in_(statuses)


async def take(
    resources: Resources, *conditions: ColumnElement[bool], statuses: Sequence[InstallationStatus], limit: int = 1
) -> list[Leased]:
    """Lease webhooks that are free and meet the conditions, the longest due first, each with its installation."""
    allowed = (*free(statuses), *conditions)
    lease = {"leased_until": after(LEASE), "attempts": Webhook.attempts + 1}
    async with resources.database.session() as session:
        return await claim(session, Webhook, *allowed, limit=limit, **lease)


async def change(session: AsyncSession, webhook: Webhook, **values: object) -> bool:
    """Change the row if the lease is still ours. Returns whether it was."""
    ours = update(Webhook).where(col(Webhook.id) == webhook.id, col(Webhook.leased_until) == webhook.leased_until)
    return (await session.exec(ours.values(**values))).rowcount == 1


async def give_back(
    session: AsyncSession, webhook: Webhook, *, due_in: timedelta | None = None, **values: object
) -> bool:
    """Change the row and end the lease if it is still ours. Returns whether it was.

    The webhook is due again after `due_in`, by default after the usual time. If `due_at` was moved meanwhile, it stays:
    a new install moves it, as it brings another token, and the webhook is to be reconciled with that one too.
    """
    due_at = after(between(*INTERVAL) if due_in is None else due_in)
    unless_moved = case((col(Webhook.due_at) == webhook.due_at, due_at), else_=col(Webhook.due_at))
    return await change(session, webhook, **values, due_at=unless_moved, leased_until=None)
