"""The pages an admin's browser ends on: one per ending, without JavaScript, each with what to do next."""

import base64
import hashlib
from dataclasses import dataclass, replace

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import SecretStr

from aircall_oauth.errors import (
    AircallAway,
    AppError,
    AppRefused,
    CodeRefused,
    Declined,
    FlowUnknown,
    LinkExpired,
    LinkInvalid,
    LinkUsed,
    ParametersInvalid,
    PrefetchRefused,
    ReturnAddressRefused,
    StateExpired,
    StateInvalid,
    TokenMixedUp,
    TooManyFailedInstalls,
    TryAgainLater,
    WrongBrowser,
)

_environment = Environment(
    loader=PackageLoader("aircall_oauth.installations.oauth"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_STYLE = _environment.get_template("page.css").render()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Page:
    """What a page says: what happened, and what to do next."""

    title: str
    happened: str
    next_step: str
    start_again: bool = True


START_AGAIN = "Start the installation again; it takes a minute."
ANOTHER_LINK = "Ask for a new link where you were given this one."
THE_LINK_AGAIN = "Open the link you were given once more, or ask for a new link."
GO_BACK = "Go back to where you began, and start again from there."
RELOAD_OR_GO_BACK = (
    "Reload this page in a minute. If it says the same, go back to where you began, and start again from there."
)
# Endings after the link was used up: opening it again would only be refused.
LINK_SPENT = (CodeRefused, AircallAway)
ENDINGS: dict[type[AppError], Page] = {
    ParametersInvalid: Page(
        "This link is incomplete",
        "The address that was opened is incomplete or damaged. Nothing was connected.",
        START_AGAIN,
    ),
    ReturnAddressRefused: Page(
        "This link is not valid",
        "The link asks to return to an address that this service does not know. Nothing was connected.",
        ANOTHER_LINK,
        start_again=False,
    ),
    LinkInvalid: Page(
        "This link is not valid",
        "The link is damaged or was not made by this service. Nothing was connected.",
        ANOTHER_LINK,
        start_again=False,
    ),
    LinkExpired: Page(
        "This link is too old",
        "An install link works for thirty minutes. Nothing was connected.",
        ANOTHER_LINK,
        start_again=False,
    ),
    LinkUsed: Page(
        "This link was used before",
        "An install link works once. Nothing was connected just now.",
        ANOTHER_LINK,
        start_again=False,
    ),
    PrefetchRefused: Page(
        "Please open this page yourself",
        "The browser tried to load this page ahead of time, which would use up the installation.",
        "Reload this page.",
        start_again=False,
    ),
    StateInvalid: Page(
        "Please start again",
        "This installation could not be recognised, so nothing was connected.",
        START_AGAIN,
    ),
    StateExpired: Page(
        "That took too long",
        "An installation must be finished within ten minutes. Nothing was connected.",
        START_AGAIN,
    ),
    WrongBrowser: Page(
        "Please start again in this browser",
        "The installation was started in another browser, or this one does not accept cookies. Nothing was connected.",
        "Start the installation again and stay in one browser until the end.",
    ),
    Declined: Page(
        "You declined",
        "You declined the connection to Aircall. Nothing was connected and nothing was kept.",
        "If that was not what you wanted, start the installation again and choose Authorize.",
    ),
    CodeRefused: Page(
        "Aircall did not accept the authorization",
        "The authorization was refused by Aircall. It may have expired. Nothing was connected.",
        START_AGAIN,
    ),
    AppRefused: Page(
        "This app is not set up correctly",
        "Aircall does not accept this app's own credentials. Nothing was connected.",
        "Tell the company whose app you are installing. Starting again will not help until it is corrected.",
        start_again=False,
    ),
    TokenMixedUp: Page(
        "Aircall's answers do not fit together",
        "Aircall says that this authorization belongs to another company. Nothing was connected.",
        "Tell the company whose app you are installing.",
        start_again=False,
    ),
    AircallAway: Page(
        "Aircall could not be reached",
        "Aircall did not answer in a way we could use. Nothing was connected.",
        "Wait a few minutes, then start the installation again.",
    ),
    FlowUnknown: Page(
        "We can't tell whether it was finished",
        "The installation takes long or was interrupted. It may or may not have been completed.",
        "Reload this page in a minute. If it says the same, start again: what is connected is renewed.",
    ),
    TooManyFailedInstalls: Page(
        "Please wait a minute",
        "Too many installations failed here just now. Yours was not tried yet.",
        "Reload this page in a minute.",
        start_again=False,
    ),
    TryAgainLater: Page(
        "Please try again in a moment",
        "This service cannot save an installation right now.",
        "Wait a minute, then start the installation again.",
    ),
    AppError: Page(
        "Something went wrong here",
        "This page could not be shown because of an error on our side.",
        "Wait a minute, then start the installation again.",
    ),
}


def ending(
    error: AppError, *, install_url: str, by_link: bool = False, home: str | None = None, reference: str | None = None
) -> str:
    """Render the page for a flow that ended without an installation.

    A flow that began with an install link is not sent to the install door without one: the installation would have no
    owner. Where the link has a `return_to`, `home` leads there.
    """
    page = ENDINGS.get(type(error), ENDINGS[AppError])
    if home is not None:
        page = replace(page, next_step=RELOAD_OR_GO_BACK if isinstance(error, FlowUnknown) else GO_BACK)
    elif by_link and page.start_again:
        page = replace(page, next_step=_next_with_a_link(error))
    offered = install_url if page.start_again and not by_link else None
    return _render(page, tone="trouble", install_url=offered, home=home, reference=reference)


def _next_with_a_link(error: AppError) -> str:
    if isinstance(error, FlowUnknown):
        return f"Reload this page in a minute. If it says the same: {ANOTHER_LINK[0].lower()}{ANOTHER_LINK[1:]}"
    return ANOTHER_LINK if isinstance(error, LINK_SPENT) else THE_LINK_AGAIN


def connected(company_name: str | None) -> str:
    """Render the page for a flow that ended well and has no address to return to."""
    page = Page(
        "Connected",
        f"{company_name or 'Your Aircall account'} is now connected.",
        "In the Aircall Dashboard, choose the numbers this integration is for. You can close this window.",
    )
    return _render(page, tone="good")


def to_be_claimed(company_name: str | None, claim: SecretStr) -> str:
    """Render the page for a flow that must be claimed and has no address to carry the claim to."""
    page = Page(
        "One more step",
        f"{company_name or 'Your Aircall account'} is connected, but not in use yet.",
        "Within an hour, enter this code in the app where you began. Do not share it with anyone else.",
    )
    return _render(page, tone="good", claim=claim.get_secret_value())


def nothing_here(*, install_url: str, by_link: bool = False) -> str:
    """Render the page for an unknown address, or for a method that it does not have."""
    page = Page("Nothing to see here", "This address leads nowhere.", START_AGAIN)
    if by_link:
        page = replace(page, next_step=THE_LINK_AGAIN, start_again=False)
    return _render(page, tone="trouble", install_url=install_url if page.start_again else None)


def _render(
    page: Page,
    *,
    tone: str,
    install_url: str | None = None,
    home: str | None = None,
    claim: str | None = None,
    reference: str | None = None,
) -> str:
    template = _environment.get_template("page.html")
    return template.render(
        page=page, tone=tone, install_url=install_url, home=home, claim=claim, reference=reference, style=_STYLE
    )
