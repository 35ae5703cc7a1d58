"""Who looks after a webhook has it alone: taken for a while, over all processes, and given back changed.

`leased_until` says until when it is taken, `due_at` when the next look is wanted. Whoever comes back after his lease
changes nothing: somebody else may have taken it meanwhile.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, case, func, or_
from sqlmodel import col, update
from sqlmodel.ext.asyncio.session import AsyncSession

from aircall_oauth.resources import Resources
from aircall_oauth.storage.leases import after, between, claim
from aircall_oauth.storage.models.installations import Installation, InstallationStatus, Webhook

# A look has it for this long; the calls to Aircall stay well below.
LEASE = timedelta(seconds=90)
# Together with its turn in the queue, a look comes within fifteen minutes of the last one, and not within five.
NEXT_LOOK = timedelta(minutes=6), timedelta(minutes=12)

Leased = tuple[Webhook, Installation]


async def take(
    resources: Resources, *conditions: ColumnElement[bool], statuses: Sequence[InstallationStatus], limit: int = 1
) -> list[Leased]:
    """Webhooks that nobody has, the longest due first, each with its installation, for the length of a lease."""
    is_free = or_(col(Webhook.leased_until).is_(None), col(Webhook.leased_until) <= func.now())
    allowed = (is_free, col(Installation.status).in_(statuses), *conditions)
    lease = {"leased_until": after(LEASE), "attempts": Webhook.attempts + 1}
    async with resources.database.session() as session:
        return await claim(session, Webhook, *allowed, limit=limit, **lease)


async def change(session: AsyncSession, webhook: Webhook, **values: object) -> bool:
    """Change the row, if it is still ours."""
    ours = update(Webhook).where(col(Webhook.id) == webhook.id, col(Webhook.leased_until) == webhook.leased_until)
    return (await session.exec(ours.values(**values))).rowcount == 1


async def give_back(
    session: AsyncSession, webhook: Webhook, *, next_look: timedelta | None = None, **values: object
) -> bool:
    """Change the row and let others have it, if it is still ours; the next look comes in its turn, or when told.

    A new install that came meanwhile moved `due_at`: it brought another token, so it is looked at once more.
    """
    due_at = after(between(*NEXT_LOOK) if next_look is None else next_look)
    unless_moved = case((col(Webhook.due_at) == webhook.due_at, due_at), else_=col(Webhook.due_at))
    return await change(session, webhook, **values, due_at=unless_moved, leased_until=None)
