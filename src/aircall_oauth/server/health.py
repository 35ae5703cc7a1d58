"""`/livez` and `/readyz`: whether this process runs, and whether it can do its work."""

from fastapi import APIRouter, Request

from aircall_oauth.access.dependencies import ResourcesDep
from aircall_oauth.access.problems import problems
from aircall_oauth.errors import NotReady
from aircall_oauth.server.readiness import require_serving

router = APIRouter(tags=["Operations"])


@router.get("/livez", summary="Does the process live?")
async def livez() -> dict[str, str]:
    """Says nothing about the database: a process that waits for it must not be restarted."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can it serve?", responses=problems(NotReady()))
async def readyz(request: Request, resources: ResourcesDep) -> dict[str, str]:
    """Database reachable, schema current, keys fit, events can be kept; and not about to stop."""
    await require_serving(resources, prove=request.app.state.inbox.prove)
    return {"status": "ok"}


# Probes also use other methods, and the older name.
for _path, _probe in (("/livez", livez), ("/healthz", livez), ("/readyz", readyz)):
    _methods = ["GET", "HEAD", "OPTIONS"] if _path == "/healthz" else ["HEAD", "OPTIONS"]
    router.add_api_route(_path, _probe, methods=_methods, include_in_schema=False)
