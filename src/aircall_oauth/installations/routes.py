"""The doors of installations: two for a browser, the rest for the partner's systems."""

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from aircall_oauth.access.dependencies import (
    InstallationsReader,
    InstallationsWriter,
    ResourcesDep,
    TokensReader,
    WhoDep,
)
from aircall_oauth.access.doors import StrictRoute
from aircall_oauth.access.parameters import ID, TEXT, InstallationId, Owner
from aircall_oauth.access.problems import problems
from aircall_oauth.errors import (
    AppError,
    CheckUnderWay,
    ClaimNotFound,
    ClaimOfAnother,
    InstallationHeld,
    InstallationNotActive,
    InstallationNotFound,
    ParametersInvalid,
    PrefetchRefused,
)
from aircall_oauth.installations import checking, claims, flow, leaving, links, pages, state, views
from aircall_oauth.installations.brake import Brake
from aircall_oauth.installations.views import InstallationList, InstallationView
from aircall_oauth.storage.models.installations import InstallationStatus

browser = APIRouter(prefix="/aircall/oauth", tags=["Install flow"], default_response_class=HTMLResponse)
api = APIRouter(prefix="/v1/installations", tags=["Installations"], route_class=StrictRoute)
custody = APIRouter(prefix="/v1", tags=["Installations"], route_class=StrictRoute)

# A code or an error is one word of printable ASCII (RFC 6749, appendix A).
WORD = r"^[\x21-\x7e]+$"
PREFETCH_HEADERS = ("sec-purpose", "purpose", "x-purpose", "x-moz")
AHEAD_OF_A_CLICK = re.compile(r"prefetch|prerender|preview", re.IGNORECASE)


def single_valued(request: Request) -> None:
    """A parameter given twice is refused: two readers could each believe another one."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise ParametersInvalid


async def noting_a_link(request: Request, resources: ResourcesDep) -> None:
    """Note whether the flow began with an install link, before anything ends it: its page offers no other way in."""
    query = request.query_params
    request.state.by_link = "link" in query or state.began_with_link(
        resources.vault, query.get("state", ""), request.cookies
    )


class InstallQuery(BaseModel):
    link: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]+$",
        max_length=8192,
        description="An install link's, from `POST /v1/install-links`; says for which owner, and where it ends.",
    )
    return_to: str | None = Field(
        None, min_length=1, max_length=2048, description="One of `AIRCALL_OAUTH_RETURN_URLS`, exactly."
    )


class CallbackQuery(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    state: str = Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=8192, description="As it was sent to Aircall.")
    code: SecretStr | None = Field(None, max_length=2048, description="Works once, for ten minutes.")
    error: str | None = Field(None, pattern=WORD, max_length=256, description="Why there is no code.")


PAGES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"text/html": {"schema": {"type": "string"}}}}
    for status, description in {
        400: "A page that says what is wrong with the request",
        409: "It is not known whether the installation was finished",
        429: "Too many installations failed within a minute; try again after `Retry-After` seconds",
        502: "Aircall could not be reached, or refuses this app",
        503: "The service cannot do this right now",
    }.items()
}


@browser.get(
    "/install",
    summary="Begin an installation",
    dependencies=[Depends(noting_a_link), Depends(single_valued)],
    status_code=303,
    response_class=RedirectResponse,
    responses={400: PAGES[400], 303: {"description": "To Aircall's consent page"}},
)
async def install(request: Request, query: Annotated[InstallQuery, Query()], resources: ResourcesDep) -> Response:
    """Send the browser to Aircall's consent page with a sealed state and a cookie of its own."""
    if query.link is not None and query.return_to is not None:
        raise ParametersInvalid
    departure = flow.begin_install(resources, return_to=query.return_to, link=query.link)
    response = RedirectResponse(departure.authorize_url, status_code=303, headers=pages.HEADERS)
    secure = resources.settings.secure_cookies
    response.set_cookie(
        departure.cookie.name,
        departure.cookie.value,
        max_age=int(state.LIFETIME.total_seconds()),
        secure=secure,
        httponly=True,
        samesite="lax",
    )
    for name in state.surplus_cookies(request.cookies, secure=secure):
        response.delete_cookie(name, secure=secure, httponly=True, samesite="lax")
    return response


@browser.get(
    "/callback",
    summary="Finish an installation",
    dependencies=[Depends(noting_a_link), Depends(single_valued)],
    responses={
        200: {"description": "Connected, or declined: a page"},
        303: {"description": "Connected: to the success page, or to the `return_to` with `?claim=`"},
        **PAGES,
    },
)
async def callback(request: Request, query: Annotated[CallbackQuery, Query()], resources: ResourcesDep) -> Response:
    """Use up the state once, exchange the code, keep the token sealed, register the webhook.

    The browser has its answer within 15 seconds: where Aircall takes longer, the installation goes on without it, and
    the page (409) asks to reload.
    """
    if any(AHEAD_OF_A_CLICK.search(request.headers.get(name, "")) for name in PREFETCH_HEADERS):
        raise PrefetchRefused
    _require_code_or_error(query)
    secure = resources.settings.secure_cookies
    known = state.judge(resources.vault, query.state, request.cookies, secure=secure)
    brake: Brake = request.app.state.brake
    turn = brake.take(request.client and request.client.host) if known.link_id is None else None
    connected = await flow.finish_install(resources, known, code=query.code, error=query.error, turn=turn)
    if connected.return_to is None and connected.claim is not None:
        return HTMLResponse(pages.to_be_claimed(connected.company_name, connected.claim), headers=pages.HEADERS)
    target = connected.way_home or resources.settings.success_url
    if target:
        return RedirectResponse(target, status_code=303, headers=pages.HEADERS)
    return HTMLResponse(pages.connected(connected.company_name), headers=pages.HEADERS)


def _require_code_or_error(query: CallbackQuery) -> None:
    code = query.code and query.code.get_secret_value()
    if query.error is None and not (code and code.isascii() and code.isprintable() and " " not in code):
        raise ParametersInvalid


def ending_page(error: AppError, *, install_url: str, by_link: bool) -> HTMLResponse:
    """A browser's door answers every error with a page."""
    page = pages.ending(error, install_url=install_url, by_link=by_link)
    pause = getattr(error, "retry_after_seconds", None)
    told = {} if pause is None else {"retry-after": str(pause)}
    return HTMLResponse(page, error.status, headers=pages.HEADERS | told)


def came_by_link(request: Request) -> bool:
    """Whether the flow began with an install link, as far as this request got to know it."""
    return getattr(request.state, "by_link", False)


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
    """Installations, oldest first. An API key bound to an owner sees that owner's only."""
    return await views.list_installations(resources, key, owner=owner, status=status, cursor=cursor, limit=limit)


@api.get(
    "/{installation_id}", summary="Show an installation", responses=problems(401, 403, InstallationNotFound(), 422, 503)
)
async def show_installation(
    installation_id: InstallationId, key: InstallationsReader, resources: ResourcesDep
) -> InstallationView:
    """One installation, and its webhook; never a secret."""
    return await views.show_installation(resources, key, installation_id)


@api.delete(
    "/{installation_id}",
    summary="Disconnect an installation",
    status_code=204,
    responses=problems(401, 403, InstallationNotFound(), 422, 503),
)
async def disconnect(
    installation_id: InstallationId, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> None:
    """Remove our webhook at Aircall, switch the integration off, erase the token. Twice is as good as once.

    Where Aircall can't be reached, the installation is `removed` here at once, and the worker finishes the rest.
    """
    await leaving.disconnect(resources, key, who, installation_id)


class FindingView(BaseModel):
    code: checking.Code = Field(description="What was wrong", examples=["webhook_disabled"])
    mended: bool = Field(description="Whether it is right now")


class CheckView(BaseModel):
    """What a check saw. `installation` is as it stands after the mending."""

    model_config = ConfigDict(json_schema_extra={"example": CHECK_EXAMPLE})

    healthy: bool = Field(description="Whether nothing that was wrong is left")
    token: checking.Token = Field(description="`foreign`: it answers for another company or integration than before")
    found: list[FindingView] = Field(description="What was wrong; empty where all was well")
    installation: InstallationView


@api.post(
    "/{installation_id}/check",
    summary="Check an installation now",
    responses=problems(401, 403, InstallationNotFound(), CheckUnderWay(), 422, 429, 502, 503),
)
async def check_installation(
    installation_id: InstallationId, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> CheckView:
    """Look at token, integration, numbers and webhook at Aircall, mend what can be mended, and say what was found.

    - `token_refused`, `token_foreign`: asked twice; the installation is `unauthorized`, and its customer must install
      anew. `token_accepted_again`: it was, and is active again.
    - `integration_off`: it was switched off at Aircall, and is switched on. `no_numbers`: the customer has chosen no
      numbers, so there are no calls; only an admin can, in Aircall's dashboard.
    - `facts_changed`: name, numbers or switch were not as they stand here; now they are.
    - `webhook_new`, `webhook_missing`, `webhook_disabled`, `webhook_changed`, `webhook_doubled`: it was not registered
      yet, gone, off, other than wanted, or there was more than one. `webhook_refused`: Aircall does not let it be
      mended; the worker goes on trying.

    An installation that is `unclaimed` or `removed` is 409, and so is one that somebody is just looking at
    (`check_under_way`). Where Aircall can't be reached, 502, and nothing is said about it.
    """
    checked = await checking.check(resources, key, who, installation_id)
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
    """The raw access token. Every reading is written to the audit table, with the API key that asked.

    One API key reads `AIRCALL_OAUTH_TOKEN_READS_PER_MINUTE` of them in a minute: more is 429, and an alarm in the log.
    """
    token = await views.read_token(resources, key, installation_id, who=who)
    body = TokenView(access_token=token.get_secret_value(), token_type="Bearer")
    return JSONResponse(body.model_dump(), headers={"cache-control": "no-store"})


class NewInstallLink(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    owner: Owner
    return_to: str | None = Field(
        None,
        min_length=1,
        max_length=2048,
        description="One of `AIRCALL_OAUTH_RETURN_URLS`, exactly; the first of them if left out",
        examples=["https://app.example.com/aircall/connected"],
    )


class InstallLinkView(BaseModel):
    url: str = Field(
        description="For the admin's browser; works once", examples=["https://…/aircall/oauth/install?link=…"]
    )
    expires_at: datetime


@custody.post("/install-links", summary="Make an install link", status_code=201, responses=problems(401, 403, 422, 503))
async def make_install_link(
    body: NewInstallLink, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> InstallLinkView:
    """A link for an owner's admin. What comes of it waits for the owner's claim, and is erased after an hour."""
    link = await links.make_link(resources, key, who, owner=body.owner, return_to=body.return_to)
    return InstallLinkView(url=link.url, expires_at=link.expires_at)


class NewClaim(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    claim: SecretStr = Field(
        min_length=1, max_length=255, description="The `claim` that the browser brought to `return_to`"
    )
    owner: Owner


@custody.post(
    "/claims",
    summary="Claim an installation",
    responses=problems(401, ClaimOfAnother(), ClaimNotFound(), InstallationHeld(), 422, 503),
)
async def claim_installation(
    body: NewClaim, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> InstallationView:
    """Make an installation the owner's, once. The owner must be that of the partner's logged-in session.

    Sent again by the same owner, it answers with the same installation. A claim that is unknown, older than an hour or
    used by another owner is 404; one of another owner's link 403; an installation that another owner has 409. A refused
    claim changes nothing.
    """
    installation_id = await claims.claim(resources, key, who, code=body.claim, owner=body.owner)
    return await views.show_installation(resources, key, installation_id)
