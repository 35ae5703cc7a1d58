"""The doors of installations, for the partner's systems."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from aircall_oauth.access.dependencies import (
    InstallationsReader,
    InstallationsWriter,
    ResourcesDep,
    TokensReader,
    WhoDep,
    require_scope,
)
from aircall_oauth.access.parameters import ID, TEXT, InstallationId
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import (
    CheckUnderWay,
    InstallationNotActive,
    InstallationNotFound,
)
from aircall_oauth.installations import views
from aircall_oauth.installations.disconnect import farewell
from aircall_oauth.installations.upkeep import check
from aircall_oauth.installations.views import InstallationList, InstallationView
from aircall_oauth.privacy import erasures
from aircall_oauth.privacy.erasures import ErasureView
from aircall_oauth.storage.statuses import InstallationStatus

api = APIRouter(prefix="/v1/installations", tags=["Installations"], route_class=StrictRoute)

CHECK_EXAMPLE: dict[str, Any] = {
    "healthy": True,
    "token": "accepted",
    "found": [{"code": "webhook_disabled", "mended": True}],
    "installation": {
        "id": "ins_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8",
        "status": "active",
        "owner": "acme",
        "company_id": 70077,
        "integration_id": 400123,
        "company_name": "Northwind Demo Ltd",
        "number_ids": [55010],
        "connected_at": "2026-01-01T10:00:00Z",
        "last_event_at": "2026-01-02T09:30:00Z",
        "webhook": {
            "status": "active",
            "webhook_id": "6f1d2c3b-0000-4000-8000-0000000000d1",
            "checked_at": "2026-01-02T10:00:00Z",
        },
    },
}


@api.get("", summary="List installations", responses=problems(401, 403, 422, 503))
async def list_installations(
    key: InstallationsReader,
    resources: ResourcesDep,
    owner: Annotated[str | None, Query(max_length=255, pattern=TEXT)] = None,
    status: InstallationStatus | None = None,
    cursor: Annotated[str | None, Query(pattern=ID, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> InstallationList:
    """List installations, oldest first. An API key bound to an owner sees only that owner's."""
    return await views.list_installations(resources, key, owner=owner, status=status, cursor=cursor, limit=limit)


@api.get(
    "/{installation_id}", summary="Show an installation", responses=problems(401, 403, InstallationNotFound(), 422, 503)
)
async def show_installation(
    installation_id: InstallationId, key: InstallationsReader, resources: ResourcesDep
) -> InstallationView:
    """Show an installation and its webhook; never a secret."""
    return await views.show_installation(resources, key, installation_id)


@api.delete(
    "/{installation_id}",
    summary="Disconnect an installation",
    status_code=204,
    response_model=None,
    responses=problems(401, 403, InstallationNotFound(), 422, 503)
    | {202: {"model": ErasureView, "description": "Disconnected; its events are being erased"}},
)
async def disconnect(
    installation_id: InstallationId,
    key: InstallationsWriter,
    who: WhoDep,
    resources: ResourcesDep,
    events: Annotated[
        Literal["keep", "erase"], Query(description="`erase` needs the scope `privacy:erase` too, and answers 202")
    ] = "keep",
) -> Response:
    """Remove our webhook at Aircall, switch the integration off, and erase the token. A repeat changes nothing.

    Where Aircall can't be reached, the installation is `removed` here at once, and the worker finishes the rest.

    With `events=erase` all its events up to now are erased, and the answer is the erasure, as `GET /v1/erasures/{id}`
    shows it.
    """
    if events == "erase":
        require_scope(key, Scope.PRIVACY_ERASE)
    await farewell.disconnect(resources, key, who, installation_id)
    if events == "keep":
        return Response(status_code=204)
    erasure = await erasures.create_of_customer(resources, key, who, installation_id)
    return JSONResponse(erasure.model_dump(mode="json"), status_code=202)


class FindingView(BaseModel):
    code: check.Code = Field(description="What was wrong", examples=["webhook_disabled"])
    mended: bool = Field(description="Whether it is mended now")


class CheckView(BaseModel):
    """What a check found. `installation` is as it is after the mending."""

    model_config = ConfigDict(json_schema_extra={"example": CHECK_EXAMPLE})

    healthy: bool = Field(description="Whether everything that was wrong is mended")
    token: check.Token = Field(description="`foreign`: it answers for another company or integration than before")
    found: list[FindingView] = Field(description="What was wrong; empty if nothing was")
    installation: InstallationView


@api.post(
    "/{installation_id}/check",
    summary="Check an installation now",
    responses=problems(401, 403, InstallationNotFound(), CheckUnderWay(), 422, 429, 502, 503),
)
async def check_installation(
    installation_id: InstallationId, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> CheckView:
    """Check token, integration, numbers and webhook at Aircall, mend what can be mended, and say what was found.

    - `token_refused`, `token_foreign`: Aircall was asked twice; the installation is `unauthorized`, and its customer
      must install anew. `token_accepted_again`: it was `unauthorized`, and is active again.
    - `integration_off`: the integration was switched off at Aircall, and is switched on. `no_numbers`: the customer has
      chosen no numbers, so there are no calls; only an admin can choose them, in Aircall's dashboard.
    - `facts_changed`: name, numbers or switch were different at Aircall; they are updated here.
    - `webhook_new`, `webhook_missing`, `webhook_disabled`, `webhook_changed`, `webhook_doubled`: the webhook was not
      registered yet, was gone, was off, was other than wanted, or there was more than one. `webhook_refused`: Aircall
      does not let it be mended; the worker goes on trying.

    An installation that is `unclaimed` or `removed` is 409, and so is one that is being checked already
    (`check_under_way`). Where Aircall can't be reached, the answer is 502 and says nothing about the installation.
    """
    checked = await check.check(resources, key, who, installation_id)
    return CheckView(
        healthy=checked.healthy,
        token=checked.token,
        found=[FindingView(code=code, mended=mended) for code, mended in checked.found],
        installation=await views.show_installation(resources, key, installation_id),
    )


class TokenView(BaseModel):
    access_token: str = Field(examples=["0123456789abcdef0123456789abcdef01234567"])
    token_type: str = Field("Bearer", examples=["Bearer"])


@api.get(
    "/{installation_id}/token",
    summary="Read an installation's token",
    response_model=TokenView,
    responses=problems(401, 403, InstallationNotFound(), InstallationNotActive(), 422, 429, 503),
)
async def read_token(
    installation_id: InstallationId, key: TokensReader, who: WhoDep, resources: ResourcesDep
) -> Response:
    """Read the access token in clear. Each reading is written to the audit table, with the API key that asked.

    An API key may read `AIRCALL_OAUTH_TOKEN_READS_PER_MINUTE` tokens a minute: more is 429, and an alarm in the log.
    """
    token = await views.read_token(resources, key, installation_id, who=who)
    body = TokenView(access_token=token.get_secret_value(), token_type="Bearer")
    return JSONResponse(body.model_dump(), headers={"cache-control": "no-store"})
