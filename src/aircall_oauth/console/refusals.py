"""Errors as pages in the frame: what happened, and what to do next."""

from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse

from aircall_oauth.access import problems
from aircall_oauth.console.frame import show
from aircall_oauth.errors import (
    AircallError,
    AppError,
    BudgetSpent,
    CheckUnderWay,
    ConsoleError,
    CrossSiteRefused,
    DatabaseAway,
    InvalidRequest,
    LinkSpent,
    NotFound,
    NotReady,
    OtherHostRefused,
    PayloadsHidden,
    PayloadsNeeded,
    ReadOnly,
    SignInNeeded,
    TooManySignIns,
    Unavailable,
)

ANOTHER_LINK = "Run `aircall-oauth console open` for a new link."
# The most specific first.
ADVICE: dict[type[AppError], tuple[str, str]] = {
    SignInNeeded: ("Sign in first", "Your session is over, or was ended. Sign in, and do it again."),
    LinkSpent: ("This link does not work any more", f"A link signs in once, within a minute. {ANOTHER_LINK}"),
    TooManySignIns: ("Wait a minute", "Too many sign-ins failed just now. Try again when the minute is over."),
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
    InvalidRequest: ("This address is not right", "Correct what is named above, or start from the menu."),
    AppError: (
        "Something went wrong here",
        "This is an error of the console's. The service's log has the details under the request's id.",
    ),
}


def sign_in_address(request: Request) -> str:
    """Return the sign-in page's address, which leads back to this page."""
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return "/sign-in" if wanted == "/" else f"/sign-in?next={quote(wanted, safe='')}"


async def page(request: Request, error: AppError) -> HTMLResponse:
    """Return the page of an error, with its status."""
    title, advice = _advice(error)
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
        sentence=error.detail,
        advice=advice,
        request_id=request.scope.get("request_id"),
    )


def _advice(error: AppError) -> tuple[str, str]:
    if error.status == 404:
        return ADVICE[NotFound]
    return next(found for kind, found in ADVICE.items() if isinstance(error, kind))
