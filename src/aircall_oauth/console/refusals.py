"""Errors as pages in the frame: what happened, and what to do next."""

from urllib.parse import quote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse

from aircall_oauth.access import problems
from aircall_oauth.console import corrections
from aircall_oauth.console.frame import NAVIGATION, address_of, show
from aircall_oauth.errors import (
    AircallError,
    AppError,
    BodyTooLarge,
    BudgetSpent,
    CheckUnderWay,
    ConsoleError,
    CrossSiteRefused,
    DatabaseAway,
    InstallationNotActive,
    InvalidRequest,
    LinkSpent,
    MethodNotAllowed,
    NotFound,
    NotReady,
    OtherHostRefused,
    PayloadsHidden,
    PayloadsNeeded,
    PositionGone,
    ReadOnly,
    RotationUnderWay,
    SignInNeeded,
    SubscriptionsFull,
    SubscriptionUnsigned,
    TooManySignIns,
    Unavailable,
)

ANOTHER_LINK = "Run `aircall-oauth console open` for a new link."
# The most specific first.
ADVICE: dict[type[AppError], tuple[str, str]] = {
    SignInNeeded: ("Sign in first", "Your session is over, or was ended. Sign in, and do it again."),
    LinkSpent: ("This link does not work any more", f"A link signs in once, within a minute. {ANOTHER_LINK}"),
    TooManySignIns: (
        "That did not sign you in",
        "Too many sign-ins failed just now. A key that is right is let in all the same: check it, wait a moment, and "
        "try again.",
    ),
    ReadOnly: (
        "You may look, but not act",
        "Sign in with a key that has the scope `console:act`, or with a link of `aircall-oauth console open`.",
    ),
    PayloadsHidden: (
        "Personal data stay hidden",
        "They are shown to people with the scope `payloads:read`; each look is written to the audit.",
    ),
    PayloadsNeeded: (
        "You may act, but not send data out",
        "Nothing was done. Sign in with a key that has the scope `payloads:read` beside `console:act`, or with a link "
        "of `aircall-oauth console open` that was made without `--no-payloads`.",
    ),
    OtherHostRefused: (
        "This is not the console's address",
        "Nothing was shown or done. Open the console by the address that AIRCALL_OAUTH_CONSOLE_URL names, or by "
        "http://localhost on the machine or port-forward that leads to it. Where browsers see it under another name, "
        "set AIRCALL_OAUTH_CONSOLE_URL to that.",
    ),
    CrossSiteRefused: (
        "Refused: this did not come from the console",
        "Nothing was done. Open the console's own page, and do it there.",
    ),
    ConsoleError: ("Refused", "Nothing was done."),
    DatabaseAway: (
        "The database can't be reached",
        "Check that PostgreSQL runs and answers, then reload this page. Events that Aircall sends meanwhile are "
        "refused, and sent again by it; what has come in is not lost. `aircall-oauth doctor` says what is wrong.",
    ),
    NotReady: (
        "The service is not ready",
        "Run `aircall-oauth migrate` if the schema is behind; `aircall-oauth doctor` says what is missing.",
    ),
    Unavailable: ("Try again in a moment", "Nothing is lost. Reload this page."),
    BudgetSpent: ("Aircall's budget is spent", "This company's requests of this minute are used up. Wait a minute."),
    AircallError: (
        "Aircall could not be asked",
        "Aircall did not answer in a way that says enough. https://status.aircall.com shows its state; try again.",
    ),
    CheckUnderWay: ("It is being checked already", "Wait a few seconds, then open the customer's page again."),
    NotFound: (
        "There is no such page",
        "The address may be mistyped, or what it showed was deleted. The search box finds ids, owners and companies.",
    ),
    MethodNotAllowed: (
        "This page can't be asked for like that",
        "Nothing was done. Pages are opened, and acts are done by the buttons of their own forms.",
    ),
    BodyTooLarge: ("That is too much at once", "Nothing was done. Shorten what was filled in, and send it again."),
    InstallationNotActive: (
        "Not with this customer",
        "Nothing was done: it is not connected now. Its page says why; an install link connects it again.",
    ),
    RotationUnderWay: ("It is under way already", "Nothing was begun. The vault's page shows how far it is."),
    SubscriptionUnsigned: ("It has no secret", "Nothing was done. Brokers know who sends by the user that signs in."),
    SubscriptionsFull: ("No room for another destination", "Nothing was made. Delete one, or raise the setting."),
    PositionGone: ("The log does not go back so far", "What is older than its retention was dropped. Look further on."),
    InvalidRequest: ("This address is not right", "Correct what is named above, or start from the menu."),
    AppError: (
        "Something went wrong here",
        "This is an error of the console's. The service's log has the details under the request's id.",
    ),
}


# For an error without advice of its own: nothing of it is this console's fault.
BY_STATUS = {
    409: ("Not as things are now", "Nothing was done. Open the page again: what it showed may have changed meanwhile."),
    429: ("Wait a moment", "Nothing was done. It was asked for too often; do it again a little later."),
}
REFUSED = ("That can't be done", "Nothing was done. Go back, and look at what is named above.")
NOT_RIGHT = ("What was sent is not right", "Nothing was done. Go back, correct what is named above, and send it again.")


def sign_in_address(request: Request) -> str:
    """Return the sign-in page's address, which leads back to this page."""
    wanted = address_of(request)
    return "/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}"


async def page(request: Request, error: AppError) -> HTMLResponse:
    """Return the page of an error, with its status."""
    title, advice = _advice(error)
    if isinstance(error, InvalidRequest) and request.method == "POST":
        title, advice = NOT_RIGHT
    headers = {name: value for name, value in problems.headers(error).items() if name == "retry-after"}
    if isinstance(error, TooManySignIns):
        headers["retry-after"] = str(error.retry_after_seconds)
    return show(
        request,
        "error.html",
        visitor=getattr(request.state, "visitor", None),
        status=error.status,
        headers=headers,
        title=title,
        sentence=corrections.plainly(error.detail),
        advice=advice,
        request_id=request.scope.get("request_id"),
        home=_home(request),
        to_sign_in=isinstance(error, SignInNeeded | LinkSpent | TooManySignIns),
    )


def _home(request: Request) -> tuple[str, str]:
    """Return the address and the name of the page to go on from: that of the menu to which the address belongs.

    Where filters are wrong it is the same page without them.
    """
    if wrong := getattr(request.state, "wrong_filters", None):
        rest = urlencode([(name, value) for name, value in request.query_params.multi_items() if name not in wrong])
        return f"{request.url.path}?{rest}".rstrip("?"), "The page without this filter"
    address = f"/{request.url.path.split('/')[1]}"
    return (address, NAVIGATION[address]) if address in NAVIGATION else ("/", NAVIGATION["/"])


def _advice(error: AppError) -> tuple[str, str]:
    if error.status == 404:
        return ADVICE[NotFound]
    kind = next(kind for kind in ADVICE if isinstance(error, kind))
    if kind is AppError and error.status < 500:
        return BY_STATUS.get(error.status, REFUSED)
    return ADVICE[kind]
