"""The endpoints of install attempts, for the partner's systems."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime

from aircall_oauth.access.dependencies import InstallationsReader, ResourcesDep
from aircall_oauth.access.parameters import TEXT
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import InstallAttemptNotFound
from aircall_oauth.installations.attempts import views
from aircall_oauth.installations.attempts.recording import REFERENCE
from aircall_oauth.installations.attempts.views import InstallAttemptList, InstallAttemptView

api = APIRouter(prefix="/v1/install-attempts", tags=["Installations"], route_class=StrictRoute)

ID = r"^att_[0-9a-f]{32}$"
LINK = r"^lnk_[0-9a-f]{32}$"


@api.get("", summary="List install attempts", responses=problems(401, 403, 422, 503))
async def list_install_attempts(
    key: InstallationsReader,
    resources: ResourcesDep,
    owner: Annotated[str | None, Query(max_length=255, pattern=TEXT)] = None,
    link_id: Annotated[str | None, Query(pattern=LINK, description="From `POST /v1/install-links`")] = None,
    reference: Annotated[str | None, Query(pattern=REFERENCE, description="As the page showed it")] = None,
    ending: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[a-z_]+$", examples=["declined"], description="`under_way`: those without one"),
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="First recorded then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="First recorded before")] = None,
    cursor: Annotated[str | None, Query(pattern=ID, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> InstallAttemptList:
    """List install attempts, newest first, of the last 90 days. An API key bound to an owner sees only that owner's.

    There is one for each install link, from when it is made; a flow without a link has one from when it comes back from
    Aircall. Very many failures without a link are only counted.
    """
    return await views.list_attempts(
        resources,
        key,
        owner=owner,
        link=link_id,
        reference=reference,
        ending=ending,
        since=since,
        until=until,
        cursor=cursor,
        limit=limit,
    )


@api.get(
    "/{attempt_id}",
    summary="Show an install attempt",
    responses=problems(401, 403, InstallAttemptNotFound(), 422, 503),
)
async def show_install_attempt(
    attempt_id: Annotated[str, Path(pattern=ID, examples=["att_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"])],
    key: InstallationsReader,
    resources: ResourcesDep,
) -> InstallAttemptView:
    """Show how far one attempt came, where it stopped and why; never a code, a state or a cookie."""
    return await views.show_attempt(resources, key, attempt_id)
