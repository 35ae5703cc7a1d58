"""Makes sure that what is active here is switched on at Aircall.

Leaving, and claims that lapse, switch an integration off; a customer may come back in that very moment, and a process
may be killed between any two steps. So every connection, and everything that is to switch off, leaves a moment in the
installation's row (`switch_on_at`), and from then on an active installation is looked at until it is seen to be on.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func
from sqlmodel import col, select, update

from aircall_oauth.installations import tokens
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation, InstallationStatus

# A worker that looks at one has it for this long; one that could not be switched on is looked at again then.
LEASE = timedelta(minutes=5)
BATCH = 20


async def make_sure(resources: Resources) -> None:
    """The worker's chore: look at the active installations that are due, and switch on those that are off."""
    await asyncio.gather(*(_make_sure_of(resources, installation) for installation in await _take(resources)))


async def _take(resources: Resources) -> Sequence[Installation]:
    due = (
        select(Installation.id)
        .where(col(Installation.switch_on_at) <= func.now(), col(Installation.status) == InstallationStatus.ACTIVE)
        .order_by(col(Installation.switch_on_at))
        .limit(BATCH)
        .with_for_update(key_share=True, skip_locked=True)
    )
    take = (
        update(Installation)
        .where(col(Installation.id).in_(due))
        .values(switch_on_at=func.now() + LEASE)
        .returning(Installation)
    )
    async with resources.database.session() as session:
        return (await session.exec(take)).scalars().all()


async def _make_sure_of(resources: Resources, installation: Installation) -> None:
    if not await tokens.refresh(resources, installation.id):
        return
    # Unless somebody is about to switch it off by now.
    done = update(Installation).where(
        col(Installation.id) == installation.id, col(Installation.switch_on_at) == installation.switch_on_at
    )
    async with resources.database.session() as session:
        await session.exec(done.values(switch_on_at=None))
