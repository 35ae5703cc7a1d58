"""`/livez` and `/readyz`: whether this process runs, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request

from aircall_oauth.access.dependencies import ResourcesDep
from aircall_oauth.access.problems import problems
from aircall_oauth.errors import Leaving, NotReady
from aircall_oauth.resources import Resources

router = APIRouter(tags=["Operations"])

PING_SECONDS = 2.0


@router.get("/livez", summary="Does the process live?")
async def livez() -> dict[str, str]:
    """Says nothing about the database: a process that waits for it must not be restarted."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it serve?", responses=problems(NotReady()))
async def readyz(request: Request, resources: ResourcesDep) -> dict[str, str]:
    """Database reachable, schema current, keys fit, events can be kept; and not about to stop."""
    await require_serving(resources, prove=request.app.state.inbox.prove)
    return {"status": "ok"}


async def require_serving(resources: Resources, *, prove: Callable[[], Awaitable[None]] | None = None) -> None:
    """Raise `Leaving`, `NotReady`, `DatabaseAway` or `KeysUnfit` where this process cannot do its work now.

    `prove` tries what else this process must be able to do, such as committing an event.
    """
    if resources.leaving:
        raise Leaving
    try:
        async with asyncio.timeout(PING_SECONDS):
            await resources.require_ready()
            if prove is not None:
                # First, because it can be cancelled at once while the database is silent.
                await prove()
            await resources.database.schema_version()
    except TimeoutError:
        raise NotReady("The database does not answer, or keeps nothing.") from None


# Probes also use other methods, and the older name.
for _path, _probe in (("/livez", livez), ("/healthz", livez), ("/readyz", readyz)):
    _methods = ["GET", "HEAD", "OPTIONS"] if _path == "/healthz" else ["HEAD", "OPTIONS"]
    router.add_api_route(_path, _probe, methods=_methods, include_in_schema=False)
