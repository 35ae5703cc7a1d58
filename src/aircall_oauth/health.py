"""Whether this process lives, and whether it can do its work."""

import asyncio

from fastapi import APIRouter

from aircall_oauth.deps import ResourcesDep
from aircall_oauth.errors import Leaving, NotReady
from aircall_oauth.problems import problems

router = APIRouter(tags=["Operations"])

PING_SECONDS = 2.0


@router.get("/livez", summary="Does the process live?")
async def livez() -> dict[str, str]:
    """Says nothing about the database: a process that waits for it must not be restarted."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it serve?", responses=problems(503))
async def readyz(resources: ResourcesDep) -> dict[str, str]:
    """Database reachable, schema current, keys fit; and not about to stop."""
    if resources.leaving:
        raise Leaving
    try:
        async with asyncio.timeout(PING_SECONDS):
            await resources.require_ready()
            await resources.database.schema_version()
    except TimeoutError:
        raise NotReady("The database does not answer.") from None
    return {"status": "ok"}
