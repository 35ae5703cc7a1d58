"""Seals the addresses that the previous version kept in clear, before it is replaced and meanwhile."""

from aircall_oauth.deliveries.destinations import registry
from aircall_oauth.resources import Resources
from aircall_oauth.storage.sealed import URL_COLUMN
from aircall_oauth.storage.statuses import SubscriptionKind
from aircall_oauth.storage.vault import SealedAt

BATCH = 500
IN_CLEAR = f"""
    SELECT id, url FROM subscription
    WHERE kind = '{SubscriptionKind.HTTP}' AND url_sealed IS NULL AND id > $1 ORDER BY id LIMIT $2
"""
# An address that is changed meanwhile is left alone.
SEAL = "UPDATE subscription SET url = $3, url_sealed = $4 WHERE id = $1 AND url = $2 AND url_sealed IS NULL"


async def seal_urls(resources: Resources) -> None:
    """Seal every URL that is kept in clear. Readers go on with the address they have."""
    after = ""
    async with resources.database.driver_connection() as connection:
        while rows := await connection.fetch(IN_CLEAR, after, BATCH):
            after = rows[-1]["id"]
            for row in rows:
                await connection.execute(SEAL, *_sealed(resources, *row))


def _sealed(resources: Resources, subscription_id: str, url: str) -> tuple[str, str, str, str]:
    kept = registry.kept_url(SubscriptionKind.HTTP, url)
    return subscription_id, url, kept, resources.vault.seal(url, SealedAt(URL_COLUMN, subscription_id))
