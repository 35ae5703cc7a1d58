"""Which worker reads for which subscription: one at a time, and another one soon after it died.

A holder renews its leases together, in one statement. A lease that was not renewed is anybody's, and whoever takes it
over draws the next number; the one before can't move the position any more, however late it wakes up.
"""

from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from aircall_oauth.models import Subscription, SubscriptionStatus

CHANGED = "aircall_oauth_subscriptions"  # the channel on which a change is told

LENGTH = timedelta(seconds=10)
RENEW_SECONDS = 3.0
# So that several workers that start together share what there is.
CLAIMED_AT_ONCE = 8

RENEW = """
    UPDATE subscription SET lease_until = clock_timestamp() + $2 WHERE lease_holder = $1 AND id = ANY ($3::text[])
    RETURNING id, lease_number, version, status
"""
CLAIM = f"""
    UPDATE subscription
    SET lease_holder = $1, lease_until = clock_timestamp() + $2, lease_number = lease_number + 1
    WHERE id IN (
        SELECT id FROM subscription
        WHERE status = '{SubscriptionStatus.ACTIVE}' AND (lease_until IS NULL OR lease_until < clock_timestamp())
        ORDER BY lease_until NULLS FIRST LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    RETURNING *
"""
GIVE_BACK = """
    UPDATE subscription SET lease_holder = NULL, lease_until = NULL WHERE id = $1 AND lease_number = $2
"""


@dataclass(frozen=True)
class Standing:
    """How a leased subscription stands now."""

    lease_number: int
    version: int
    active: bool


async def renew(connection: asyncpg.Connection, holder: str, subscription_ids: list[str]) -> dict[str, Standing]:
    """Keep these leases; what is not in the answer is no longer this holder's."""
    rows = await connection.fetch(RENEW, holder, LENGTH, subscription_ids)
    return {
        row["id"]: Standing(row["lease_number"], row["version"], row["status"] == SubscriptionStatus.ACTIVE)
        for row in rows
    }


async def claim(connection: asyncpg.Connection, holder: str) -> list[Subscription]:
    """Take subscriptions that nobody reads for, a few at a time."""
    rows = await connection.fetch(CLAIM, holder, LENGTH, CLAIMED_AT_ONCE)
    return [Subscription(**dict(row)) for row in rows]


async def give_back(connection: asyncpg.Connection, subscription_id: str, lease_number: int) -> None:
    """Let anybody take it at once."""
    await connection.execute(GIVE_BACK, subscription_id, lease_number)
