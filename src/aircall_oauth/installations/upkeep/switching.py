"""Makes sure that the integrations of active installations are switched on at Aircall.

A farewell or a claim that expires switches an integration off. The customer may come back at that very moment, and a
process may be killed between any two steps. So each connection, and each switching off, writes a time into the
installation's row (`switch_on_at`); from then on the integration of an active installation is probed until it is on.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func
from sqlmodel import col, select, update

from aircall_oauth.installations import tokens
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.installations import Installation
from aircall_oauth.storage.statuses import InstallationStatus

# How long a worker has an installation; one that could not be switched on is due again afterwards.
LEASE = timedelta(minutes=5)
BATCH = 20
DUE = select(Installation.id).where(
    col(Installation.switch_on_at) <= func.now(), col(Installation.status) == InstallationStatus.ACTIVE
)
HAS_DUE = DUE.exists()


async def make_sure(resources: Resources) -> None:
    """Chore: switch on the integrations that are off, of the active installations that are due."""
    await asyncio.gather(*(_make_sure_of(resources, installation) for installation in await _claim(resources)))


async def _claim(resources: Resources) -> Sequence[Installation]:
    """Claim the installations that are due.

    Not `leases.claim`: the rows are installations themselves, with another due column and the lock of `for_change`.
    """
    due = DUE.order_by(col(Installation.switch_on_at)).limit(BATCH).with_for_update(key_share=True, skip_locked=True)
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
    # Unless another process has set it meanwhile, about to switch the integration off.
    done = update(Installation).where(
        col(Installation.id) == installation.id, col(Installation.switch_on_at) == installation.switch_on_at
    )
    async with resources.database.session() as session:
        await session.exec(done.values(switch_on_at=None))
