"""The pages an admin's browser ends on: one per ending, complete without JavaScript, each with what to do next.

They are in the language that the browser asks for (`languages`) and look as the partner wants it (`look`).
"""

from dataclasses import dataclass
from typing import Any, Literal

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
from aircall_oauth.installations.oauth import look
from aircall_oauth.installations.oauth.languages import Words, chosen, words
from aircall_oauth.settings import Settings

# How much a page alarms: `trouble` is what must be mended, `calm` what the admin chose or can go on from.
Tone = Literal["good", "own", "calm", "wait", "trouble"]


@dataclass(frozen=True)
class Ending:
    """How a page is shown: its tone, and its next step, None where the page has words of its own for that."""

    tone: Tone = "calm"
    next_step: str | None = "start_again"
    start_again: bool = True


# Endings after the link was used up: opening it again would only be refused.
LINK_SPENT = (CodeRefused, AircallAway)
ENDINGS: dict[type[AppError], Ending] = {
    ParametersInvalid: Ending(),
    ReturnAddressRefused: Ending("trouble", "another_link", start_again=False),
    LinkInvalid: Ending("trouble", "another_link", start_again=False),
    LinkExpired: Ending("calm", "another_link", start_again=False),
    LinkUsed: Ending("calm", "another_link", start_again=False),
    PrefetchRefused: Ending("calm", None, start_again=False),
    StateInvalid: Ending(),
    StateExpired: Ending(),
    WrongBrowser: Ending("calm", None),
    Declined: Ending("calm", None),
    CodeRefused: Ending("trouble"),
    AppRefused: Ending("trouble", None, start_again=False),
    TokenMixedUp: Ending("trouble", None, start_again=False),
    AircallAway: Ending("trouble", None),
    FlowUnknown: Ending("wait", None),
    TooManyFailedInstalls: Ending("wait", "reload", start_again=False),
    TryAgainLater: Ending("wait", "wait_and_start_again"),
    AppError: Ending("trouble", "wait_and_start_again"),
}


@dataclass(frozen=True)
class Page:
    """What a page says: what happened, and what to do next."""

    title: str
    happened: str
    next_step: str
    tone: Tone


@dataclass(frozen=True)
class Shown:
    """A page as it is answered with."""

    text: str
    status: int
    headers: dict[str, str]


class Pages:
    """The pages for one browser: in its language, with the partner's look."""

    def __init__(self, settings: Settings, accept_language: str | None) -> None:
        self._settings = settings
        self._look = look.of(settings)
        self._words: Words = words(chosen(accept_language))

    @property
    def install_url(self) -> str:
        return f"{self._settings.public_url}/aircall/oauth/install"

    def ending(
        self, error: AppError, *, by_link: bool = False, home: str | None = None, reference: str | None = None
    ) -> Shown:
        """Return the page for a flow that ended without an installation, with the error's status.

        A flow that began with an install link is not sent to the install door without one: the installation would
        have no owner. Where the link has a `return_to`, `home` leads there.
        """
        kind = type(error) if type(error) in ENDINGS else AppError
        shown = ENDINGS[kind]
        page = self._page(kind.code(), shown.tone, _next_step(error, shown, by_link=by_link, home=home is not None))
        buttons = self._buttons(start_again=shown.start_again and not by_link, home=home)
        return self._answer(page, status=error.status, buttons=buttons, reference=reference)

    def connected(self, company_name: str | None, *, reference: str | None) -> Shown:
        """Return the page for a flow that ended well and has no address to return to."""
        page = self._page("connected", "good", company=company_name or self._words.your_account)
        return self._answer(page, reference=reference)

    def to_be_claimed(self, company_name: str | None, claim: SecretStr, *, reference: str | None) -> Shown:
        """Return the page for a flow that must be claimed and has no address to carry the claim to."""
        page = self._page("to_be_claimed", "good", company=company_name or self._words.your_account)
        return self._answer(page, reference=reference, claim=claim.get_secret_value(), script=look.script())

    def before_consent(self, continue_url: str, *, reference: str | None) -> Shown:
        """Return the page in front of Aircall's consent page, with the partner's own part."""
        app = self._look.app_name or self._words.this_app
        page = self._page("before_consent", "own", app=app)
        own = look.install_page(
            self._settings, self._words.language, app=app, continue_url=continue_url, reference=reference
        )
        buttons = [("continue", continue_url, self._words.label["continue"])]
        return self._answer(page, own=own, buttons=buttons, reference=reference)

    def welcome(self) -> Shown:
        """Return the page that says what this service is."""
        page = self._page("welcome", "own", app=self._look.app_name or self._words.this_app)
        return self._answer(page, documentation=f"{self._settings.public_url}/docs")

    def nothing_here(self, status: int, *, by_link: bool = False) -> Shown:
        """Return the page for an unknown address, or for a method that it does not have."""
        page = self._page("nothing_here", "calm", "link_again" if by_link else "start_again")
        return self._answer(page, status=status, buttons=self._buttons(start_again=not by_link, home=None))

    def _page(self, name: str, tone: Tone, next_step: str | None = None, **filled: str) -> Page:
        texts = self._words.page[name]
        told = texts["next"] if next_step is None else self._words.next[next_step]
        title, happened = (texts[part].format(**filled) for part in ("title", "happened"))
        return Page(title[:1].upper() + title[1:], happened, told, tone)

    def _buttons(self, *, start_again: bool, home: str | None) -> list[tuple[str, str, str]]:
        label = self._words.label
        offered = [("start-again", self.install_url, label["start_again"])] if start_again else []
        return offered + ([("go-back", home, label["go_back"])] if home is not None else [])

    def _answer(self, page: Page, *, status: int = 200, **shown: Any) -> Shown:
        known = dict.fromkeys(("buttons", "reference", "claim", "script", "own", "documentation")) | shown
        known["buttons"] = known["buttons"] or ()
        text = (
            look.environment().get_template("page.html").render(page=page, look=self._look, words=self._words, **known)
        )
        headers = self._look.headers(self._words.language, scripted=known["script"] is not None)
        return Shown(text, status, headers)


def _next_step(error: AppError, shown: Ending, *, by_link: bool, home: bool) -> str | None:
    """Return which next step is told; None for the page's own."""
    if home:
        return "reload_or_go_back" if isinstance(error, FlowUnknown) else "go_back"
    if not (by_link and shown.start_again):
        return shown.next_step
    if isinstance(error, FlowUnknown):
        return "reload_or_another_link"
    return "another_link" if isinstance(error, LINK_SPENT) else "link_again"
