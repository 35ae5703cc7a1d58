"""Whether this process can do its work now."""

import asyncio
from collections.abc import Awaitable, Callable

from aircall_oauth.errors import Leaving, NotReady
from aircall_oauth.resources import Resources

PING_SECONDS = 2.0


async def require_serving(resources: Resources, *, prove: Callable[[], Awaitable[None]] | None = None) -> None:
    """Raise `Leaving`, or what `Resources.require_ready` raises, where this process cannot do its work now.

    `prove` tries what else this process must be able to do, such as committing an event.
    """
    if resources.leaving:
        raise Leaving
    try:
        async with asyncio.timeout(PING_SECONDS):
            await resources.require_ready()
            if prove is not None:
                # Before the query below, because it can be cancelled at once while the database is silent.
                await prove()
            await resources.database.schema_version()
    except TimeoutError:
        raise NotReady("The database does not answer, or keeps nothing.") from None
