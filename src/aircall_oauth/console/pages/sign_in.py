"""Signing in and out, and the viewer's time zone."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from aircall_oauth.console import gate, sessions, times
from aircall_oauth.console.brake import SignInBrake
from aircall_oauth.console.frame import Form, PageDep, guarded, show
from aircall_oauth.console.routing import OpenRoute, OwnRoute
from aircall_oauth.console.sessions import SESSION_LASTS, Opened
from aircall_oauth.errors import ConsoleError, CrossSiteRefused, InvalidRequest, SignInRefused

router = APIRouter(route_class=OpenRoute)
signed_in = APIRouter(route_class=OwnRoute)

NOBODY = "-"
YEAR_SECONDS = 365 * 24 * 3600
Next = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
async def sign_in(request: Request, next: Next = "/") -> Response:  # noqa: A002 - as it stands in the address
    """Ask for an API key, and say what other ways there are."""
    return _form(request, next)


@router.post("/sign-in")
async def sign_in_by_key(request: Request, form: Form, next: Next = "/") -> Response:  # noqa: A002
    """Open a session with an API key, and go to where the visitor wanted to go."""
    brake: SignInBrake = request.app.state.brake
    try:
        with brake.attempt(_address(request)):
            who = gate.who(request, NOBODY)
            opened = await sessions.sign_in_by_key(gate.resources_of(request), form.get("api_key", ""), who)
    except SignInRefused as refusal:
        return _form(request, next, problem=refusal)
    return _with_cookie(opened, f"/sign-in/kept?next={quote(_own_path(next), safe='')}")


@router.get("/sign-in/link/{secret}")
async def sign_in_by_link(request: Request, secret: str) -> Response:
    """Use a one-time link up, and open a session. A browser that only looks ahead does not use it up."""
    purpose = request.headers.get("sec-purpose", "") + request.headers.get("purpose", "")
    if request.method == "HEAD" or "prefetch" in purpose or request.headers.get("sec-fetch-site") == "cross-site":
        raise CrossSiteRefused("Open this link yourself: copy it into the browser's address bar. It is not used up.")
    brake: SignInBrake = request.app.state.brake
    with brake.attempt(_address(request)):
        opened = await sessions.sign_in_by_link(gate.resources_of(request), secret, gate.who(request, NOBODY))
    return _with_cookie(opened, "/sign-in/kept")


@router.get("/sign-in/kept")
async def kept(request: Request, next: Next = "/") -> Response:  # noqa: A002
    """Go on if the browser has kept the cookie; otherwise say why it may not have."""
    if request.state.visitor is not None:
        return guarded(RedirectResponse(_own_path(next), 303))
    return show(
        request,
        "error.html",
        visitor=None,
        status=403,
        title="Your browser did not keep the cookie",
        sentence="You were signed in, but the browser did not send the session's cookie back.",
        advice="The cookie is sent over https only, and over http://localhost by Chromium and Firefox. Use one of them "
        "or https, allow cookies here, and sign in with a new link.",
        request_id=request.scope.get("request_id"),
        to_sign_in=True,
    )


@signed_in.post("/sign-out")
async def sign_out(page: PageDep) -> Response:
    """End this session."""
    if page.visitor.session_id is not None:
        await sessions.sign_out(page.resources, page.visitor, page.who)
    answer = guarded(RedirectResponse("/sign-in", 303))
    answer.delete_cookie(gate.COOKIE, path="/", secure=True, httponly=True, samesite="lax")
    return answer


@signed_in.get("/zone")
async def choose_zone(page: PageDep, next: Next = "/") -> Response:  # noqa: A002
    """Ask in which time zone times are shown."""
    return page.show(
        "zone.html",
        title="Time zone",
        sentence="Choose the zone in which this browser shows times; addresses and exports stay in UTC.",
        names=times.names(),
        next=_own_path(next),
    )


@signed_in.post("/zone")
async def set_zone(page: PageDep, form: Form) -> Response:
    """Keep the zone in a cookie of its own."""
    name = form.get("zone", "")
    if name not in times.names():
        raise InvalidRequest("There is no such time zone.")
    answer = guarded(RedirectResponse(_own_path(form.get("next", "/")), 303))
    answer.set_cookie(times.COOKIE, name, max_age=YEAR_SECONDS, path="/", secure=True, httponly=True, samesite="lax")
    return answer


def _form(request: Request, next_: str, *, problem: ConsoleError | None = None) -> Response:
    return show(
        request,
        "sign_in.html",
        visitor=None,
        status=problem.status if problem else 200,
        title="Sign in",
        sentence=problem.detail if problem else "The console shows every customer's data: sign in to look.",
        problem=problem,
        next=_own_path(next_),
        address=gate.resources_of(request).settings.console_address,
    )


def _with_cookie(opened: Opened, to: str) -> Response:
    answer = guarded(RedirectResponse(to, 303))
    answer.set_cookie(
        gate.COOKIE,
        opened.secret,
        max_age=int(SESSION_LASTS.total_seconds()),
        path="/",
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return answer


def _own_path(address: str) -> str:
    """Return an address if it is a path of the console's own, otherwise the first page's."""
    strange = "\\" in address or not address.isprintable()
    return "/" if strange or not address.startswith("/") or address.startswith("//") else address


def _address(request: Request) -> str | None:
    return request.client.host if request.client else None
