"""Leases: one worker reads for a subscription at a time, and another takes over soon after it died.

A holder renews its leases together, in one statement. Any worker may take a lease that was not renewed, and draws the
next number with it. The former holder has an older number, and can't move the position any more however late it wakes.

A worker that came when all leases were taken has less than its share. It asks for more, and the others give back what
they hold beyond their own shares.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from aircall_oauth.storage.models.deliveries import SUBSCRIPTIONS_CHANGED, Subscription
from aircall_oauth.storage.statuses import SubscriptionStatus

CHANGED = SUBSCRIPTIONS_CHANGED
SHARE_WANTED = "aircall_oauth_share_wanted"  # the channel on which a worker asks for its share

LENGTH = timedelta(seconds=10)
RENEW_SECONDS = 3.0
# A few at a time, so that several workers that start together share the subscriptions.
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
          AND id <> ALL ($4::text[])
        ORDER BY lease_until NULLS FIRST LIMIT $3 FOR UPDATE SKIP LOCKED
    )
    RETURNING *
"""
GIVE_BACK = """
    UPDATE subscription SET lease_holder = NULL, lease_until = NULL WHERE id = $1 AND lease_number = $2
"""
# The lease is kept, so that no other worker tries earlier.
PUT_OFF = """
    UPDATE subscription SET last_error = $3, last_error_at = now(), lease_until = clock_timestamp() + $4
    WHERE id = $1 AND lease_number = $2
"""

SHARES = f"""
    SELECT CASE WHEN lease_until > clock_timestamp() THEN lease_holder END AS holder, count(*)
    FROM subscription WHERE status = '{SubscriptionStatus.ACTIVE}' OR lease_until > clock_timestamp() GROUP BY 1
"""


@dataclass(frozen=True)
class LeasedRow:
    """What a renewed lease's subscription has now."""

    lease_number: int
    version: int
    active: bool


async def renew(connection: asyncpg.Connection, holder: str, subscription_ids: list[str]) -> dict[str, LeasedRow]:
    """Renew these leases; a subscription that is not in the answer is no longer this holder's."""
    rows = await connection.fetch(RENEW, holder, LENGTH, subscription_ids)
    return {
        row["id"]: LeasedRow(row["lease_number"], row["version"], row["status"] == SubscriptionStatus.ACTIVE)
        for row in rows
    }


async def claim(connection: asyncpg.Connection, holder: str, *, but: Sequence[str] = ()) -> list[Subscription]:
    """Take leases that are free, a few at a time; returns their subscriptions."""
    rows = await connection.fetch(CLAIM, holder, LENGTH, CLAIMED_AT_ONCE, list(but))
    return [Subscription(**dict(row)) for row in rows]


async def give_back(connection: asyncpg.Connection, subscription_id: str, lease_number: int) -> None:
    """Free a lease, so that any worker may take it at once."""
    await connection.execute(GIVE_BACK, subscription_id, lease_number)


async def put_off(
    connection: asyncpg.Connection, subscription_id: str, lease_number: int, why: str, pause: timedelta
) -> None:
    """Keep a lease for a pause after its reader failed, and write down why it failed, in one word."""
    await connection.execute(PUT_OFF, subscription_id, lease_number, why, pause)


class Shares:
    """How many leases each worker holds, and how many are free."""

    def __init__(self, of: Mapping[str, int], *, free: int = 0) -> None:
        self._of = of
        self._free = free

    def wants_more(self, holder: str) -> bool:
        """Whether a worker has fewer leases than an even share."""
        return self._of.get(holder, 0) < sum(self._of.values()) // len({holder, *self._of})

    def to_give(self, holder: str, asker: str, *, giving: int = 0) -> int:
        """Return how many more leases `holder` gives the asker, so that the asker has its share.

        Each lease comes from the worker that has the most by then, so all workers that are asked come to the same plan.
        For a repeated request, some leases are on their way: those the holder is `giving`, which it has until their
        deliveries end, and free ones, which are about to be taken.
        """
        of, given = Counter(self._of) + Counter({asker: self._free}), 0
        while Shares(of).wants_more(asker):
            most = max(of, key=lambda one: (of[one], one))
            of[most] -= 1
            of[asker] += 1
            given += most == holder
        return max(given - giving, 0)


async def shares(connection: asyncpg.Connection) -> Shares:
    """Read how many leases each worker holds."""
    of = {row["holder"]: row["count"] for row in await connection.fetch(SHARES)}
    free = of.pop(None, 0)
    return Shares(of, free=free)


async def ask_for_share(connection: asyncpg.Connection, holder: str) -> None:
    """Ask the other workers for leases."""
    await connection.execute("SELECT pg_notify($1, $2)", SHARE_WANTED, holder)
