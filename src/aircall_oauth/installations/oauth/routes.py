"""The doors of the install flow: two for a browser, and those for links and claims for the partner."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from aircall_oauth.access.dependencies import (
    InstallationsWriter,
    ResourcesDep,
    WhoDep,
)
from aircall_oauth.access.parameters import Owner
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import (
    AppError,
    ClaimNotFound,
    ClaimOfAnother,
    InstallationHeld,
    ParametersInvalid,
    PrefetchRefused,
)
from aircall_oauth.installations import views
from aircall_oauth.installations.attempts import tally
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.installations.oauth import claims, endings, flow, links, look, state
from aircall_oauth.installations.oauth.brake import Brake
from aircall_oauth.installations.oauth.pages import Pages, Shown
from aircall_oauth.installations.views import InstallationView

browser = APIRouter(prefix="/aircall/oauth", tags=["Install flow"], default_response_class=HTMLResponse)

custody = APIRouter(prefix="/v1", tags=["Installations"], route_class=StrictRoute)

# A code or an error is one word of printable ASCII (RFC 6749, appendix A).
WORD = r"^[\x21-\x7e]+$"

PREFETCH_HEADERS = ("sec-purpose", "purpose", "x-purpose", "x-moz")

AHEAD_OF_A_CLICK = re.compile(r"prefetch|prerender|preview", re.IGNORECASE)


async def noting_the_attempt(request: Request, resources: ResourcesDep) -> None:
    """Note which install attempt this is, and whether it began with a link, before it can end.

    The page of a flow that began with a link must not offer the install endpoint without one.
    """
    query = request.query_params
    request.state.attempt = endings.attempt_of(resources.vault, query.get("link"), query.get("state"))
    request.state.by_link = "link" in query or state.began_with_link(
        resources.vault, query.get("state", ""), request.cookies
    )


def single_valued(request: Request) -> None:
    """Refuse a parameter given twice: two readers could each take another value."""
    names = [name for name, _ in request.query_params.multi_items()]
    if len(names) != len(set(names)):
        raise ParametersInvalid


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
    proceed: Literal["1"] | None = Field(
        None, description="`1`: past the page in front of consent, where `AIRCALL_OAUTH_INSTALL_PAGE` has one."
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
    dependencies=[Depends(noting_the_attempt), Depends(single_valued)],
    status_code=303,
    response_class=RedirectResponse,
    responses={
        200: {
            "description": "The page in front of consent, where `AIRCALL_OAUTH_INSTALL_PAGE` has one",
            "content": {"text/html": {"schema": {"type": "string"}}},
        },
        400: PAGES[400],
        303: {"description": "To Aircall's consent page; or to the `return_to` of a link that was used or is too old"},
    },
)
async def install(request: Request, query: Annotated[InstallQuery, Query()], resources: ResourcesDep) -> Response:
    """Send the browser to Aircall's consent page with a sealed state and a cookie of its own.

    A link that is too old or was used goes back to its `return_to` with `error` and `attempt`, without consent.
    """
    if query.link is not None and query.return_to is not None:
        raise ParametersInvalid
    if query.link is not None:
        await endings.open_link(resources, request.state.attempt, query.link)
    if resources.settings.install_page and query.proceed is None:
        flow.require_known_way(resources, return_to=query.return_to, link=query.link)
        return _before_consent(request, query)
    departure = flow.begin_install(resources, return_to=query.return_to, link=query.link)
    if query.link is None:
        request.app.state.tally.count(tally.OPENED)
    response = RedirectResponse(departure.authorize_url, status_code=303, headers=look.of(resources.settings).headers())
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


def _before_consent(request: Request, query: InstallQuery) -> Response:
    """Answer with the page in front of consent. Its way on is this request's address, and says that it was seen."""
    shown = pages_for(request)
    given = query.model_dump(exclude_none=True) | {"proceed": "1"}
    attempt: Attempt | None = request.state.attempt if query.link is not None else None
    way_on = flow.with_query(shown.install_url, given)
    return answer(shown.before_consent(way_on, reference=None if attempt is None else attempt.reference))


def pages_for(request: Request) -> Pages:
    """Return the pages as this browser gets them."""
    return Pages(request.app.state.resources.settings, request.headers.get("accept-language"))


def answer(page: Shown) -> Response:
    return HTMLResponse(page.text, page.status, headers=page.headers)


@browser.get(
    "/callback",
    summary="Finish an installation",
    dependencies=[Depends(noting_the_attempt), Depends(single_valued)],
    responses={
        200: {"description": "Connected, or declined: a page"},
        303: {
            "description": "Connected: to the success page, or to the `return_to` with `?claim=`. A link's flow that "
            "ended badly: to its `return_to` with `?error=&attempt=`"
        },
        **PAGES,
    },
)
async def callback(request: Request, query: Annotated[CallbackQuery, Query()], resources: ResourcesDep) -> Response:
    """Use up the state once, exchange the code, keep the token sealed, and register the webhook.

    The browser has its answer within 15 seconds. If Aircall takes longer, the installation goes on in the background,
    and the page (409) asks to reload.
    """
    if any(AHEAD_OF_A_CLICK.search(request.headers.get(name, "")) for name in PREFETCH_HEADERS):
        raise PrefetchRefused
    _require_code_or_error(query)
    secure = resources.settings.secure_cookies
    known = state.judge(resources.vault, query.state, request.cookies, secure=secure)
    brake: Brake = request.app.state.brake
    turn = brake.take(request.client and request.client.host) if known.link_id is None else None
    connected = await flow.finish_install(
        resources, known, request.state.attempt, code=query.code, error=query.error, turn=turn
    )
    target = connected.way_home or resources.settings.success_url
    by_hand = connected.return_to is None and connected.claim is not None
    shown = "page:claim" if by_hand else endings.shown_well(connected.way_home, resources.settings.success_url)
    await endings.note_shown(resources, request.state.attempt, shown)
    reference = request.state.attempt.reference
    if connected.return_to is None and connected.claim is not None:
        page = pages_for(request).to_be_claimed(connected.company_name, connected.claim, reference=reference)
        return answer(page)
    if target:
        return RedirectResponse(target, status_code=303, headers=look.of(resources.settings).headers())
    return answer(pages_for(request).connected(connected.company_name, reference=reference))


def _require_code_or_error(query: CallbackQuery) -> None:
    code = query.code and query.code.get_secret_value()
    if query.error is None and not (code and code.isascii() and code.isprintable() and " " not in code):
        raise ParametersInvalid


async def ending_page(request: Request, error: AppError) -> Response:
    """Answer an error of a browser's endpoint, and record the ending.

    A link's flow ends at its `return_to`, with `error` and `attempt`, or on a page with a button there; any other on a
    page. Pages show the attempt's reference.
    """
    resources = request.app.state.resources
    attempt: Attempt | None = getattr(request.state, "attempt", None)
    home = endings.way_home(resources.settings, attempt, error)
    is_sent = home is not None and isinstance(error, endings.SENT_HOME)
    is_kept = await endings.record(
        resources, request.app.state.tally, attempt, error, "return_to" if is_sent else "page"
    )
    if home is not None and is_sent:
        return RedirectResponse(home, status_code=303, headers=look.of(resources.settings).headers())
    shown = pages_for(request).ending(
        error,
        by_link=getattr(request.state, "by_link", False),
        home=home,
        # A link's attempt has a row since the link was made.
        reference=attempt.reference if attempt is not None and (is_kept or attempt.link_id is not None) else None,
    )
    page = answer(shown)
    pause = getattr(error, "retry_after_seconds", None)
    if pause is not None:
        page.headers["retry-after"] = str(pause)
    return page


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
    attempt_id: str = Field(
        description="Of the install attempt: `GET /v1/install-attempts/{id}` tells how far it came",
        examples=["att_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8"],
    )
    reference: str = Field(description="Of the same, for people: the pages show it", examples=["7KQ2MXNP"])


@custody.post("/install-links", summary="Make an install link", status_code=201, responses=problems(401, 403, 422, 503))
async def make_install_link(
    body: NewInstallLink, key: InstallationsWriter, who: WhoDep, resources: ResourcesDep
) -> InstallLinkView:
    """Make a link for an owner's admin. Its installation waits for the owner's claim, and is erased after an hour."""
    link = await links.make_link(resources, key, who, owner=body.owner, return_to=body.return_to)
    return InstallLinkView(
        url=link.url, expires_at=link.expires_at, attempt_id=link.attempt_id, reference=link.reference
    )


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
    """Give an installation to an owner, once. The owner must be that of the partner's logged-in session.

    A repeat by the same owner answers with the same installation. A claim that is unknown, older than an hour or used
    by another owner is 404; a claim of another owner's link is 403; an installation that another owner has is 409. A
    refused claim changes nothing.
    """
    installation_id = await claims.claim(resources, key, who, code=body.claim, owner=body.owner)
    return await views.show_installation(resources, key, installation_id)
