"""Tells other subscriptions of a destination that went down or came back: `subscription.down`, `subscription.up`.

What was told last stands in the subscription's row, and a chore of the worker compares it with how the destination
does. So each change is told once, and one that lasts for moments only is not told. A destination that goes up and down
all the time adds an event every `PAUSE` at most. A subscription is never sent an event about itself (`events.query`).
"""

from datetime import timedelta
from typing import Any

from sqlalchemy import func, text, update
from sqlmodel import col, select

from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.events import store
from aircall_oauth.resources import Resources
from aircall_oauth.storage.models.deliveries import Subscription
from aircall_oauth.storage.statuses import Health, SubscriptionStatus

PAUSE = timedelta(minutes=5)
AT_ONCE = 100
# What is paused is not told.
CHANGED = text(
    f"""status <> '{SubscriptionStatus.PAUSED}'
    AND (told_health = '{Health.DOWN}') <> (status = '{SubscriptionStatus.DISABLED}' OR health = '{Health.DOWN}')
    AND (told_at IS NULL OR NOT told_at BETWEEN now() - :pause AND now())"""
).bindparams(pause=PAUSE)
HAS_CHANGES = select(Subscription.id).where(CHANGED).exists()


async def tell_of_destinations(resources: Resources) -> None:
    """Chore: append an event for each destination that does otherwise than was told last."""
    changed = select(Subscription).where(CHANGED).order_by(col(Subscription.id)).limit(AT_ONCE)
    async with resources.database.session() as session:
        found = (await session.exec(changed.with_for_update(skip_locked=True, key_share=True))).all()
        for subscription in found:
            is_down = Health(subscription.told_health) == Health.UP
            data: dict[str, Any] = {
                "subscription_id": subscription.id,
                "name": subscription.name,
                "kind": subscription.kind,
                "url": registry.shown_url(subscription.url),
                "status": subscription.status,
                "reason": subscription.last_error,
            }
            if not is_down:
                data["down_since"] = subscription.told_at and subscription.told_at.isoformat()
            owner = subscription.owners[0] if len(subscription.owners) == 1 else None
            type_ = "subscription.down" if is_down else "subscription.up"
            await store.append_about_subscription(session, subscription.id, owner, type_, data)
            told = {"told_health": Health.DOWN if is_down else Health.UP, "told_at": func.now()}
            await session.exec(update(Subscription).where(col(Subscription.id) == subscription.id).values(**told))
