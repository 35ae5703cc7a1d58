"""The OAuth state: sealed, not stored, and bound to one browser by a cookie.

The state holds the flow's id, when it began, and the hash of a secret that only the browser's cookie holds. Each flow
has a cookie of its own, so two tabs both succeed. RFC 6749 10.12 says why a state is needed, RFC 9700 4.7 how.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from aircall_oauth.errors import SealError, StateExpired, StateInvalid, WrongBrowser
from aircall_oauth.storage.vault import Vault

LIFETIME = timedelta(minutes=10)
# Of the clocks of two replicas: a flow may begin at one and come back to another.
CLOCK_SKEW_SECONDS = 360
PURPOSE = "oauth-state"
COOKIE_NAME = "aircall_oauth_"
# The end of a cookie's value if its flow began with an install link.
LINK_MARK = ".link"
MAX_COOKIES = 20
# The most cookies that one answer deletes, however many a browser was made to send.
MAX_DELETED = 40


class FlowState(msgspec.Struct, frozen=True, array_like=True):
    """The content of a state. One sealed by a newer version may have more fields."""

    flow_id: str
    started_at: int
    browser: str
    return_to: str | None = None
    link_id: str | None = None
    owner: str | None = None  # the install link's: only this owner may claim what comes of the flow


@dataclass(frozen=True)
class FlowCookie:
    """The browser's half of a flow."""

    name: str
    value: str


def begin(
    vault: Vault, *, secure: bool, return_to: str | None = None, link_id: str | None = None, owner: str | None = None
) -> tuple[str, str, FlowCookie]:
    """Begin a flow. Returns its id, its sealed state and its cookie. Nothing is stored."""
    flow_id, browser_secret = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
    if link_id is not None:
        browser_secret += LINK_MARK
    flow = FlowState(flow_id, int(time.time()), _hash(browser_secret), return_to, link_id, owner)
    state = vault.seal_message(msgspec.json.encode(flow), PURPOSE)
    return flow_id, state, FlowCookie(cookie_name(flow_id, secure=secure), browser_secret)


def judge(vault: Vault, state: str, cookies: Mapping[str, str], *, secure: bool) -> FlowState:
    """Open a state and check it against the browser's cookie. Nothing is used up.

    Raises `StateInvalid`, `StateExpired` or `WrongBrowser`.
    """
    flow = read(vault, state)
    if flow.started_at > time.time() + CLOCK_SKEW_SECONDS:
        raise StateInvalid
    if flow.started_at < time.time() - LIFETIME.total_seconds():
        raise StateExpired
    browser_secret = cookies.get(cookie_name(flow.flow_id, secure=secure), "")
    if not hmac.compare_digest(_hash(browser_secret), flow.browser):
        raise WrongBrowser
    return flow


def began_with_link(vault: Vault, state: str, cookies: Mapping[str, str]) -> bool:
    """Return whether the flow that a browser comes back from began with an install link.

    The state says so; if it can't be opened, the browser's cookies decide.
    """
    try:
        return read(vault, state).link_id is not None
    except StateInvalid:
        return any(_is_ours(name) and value.endswith(LINK_MARK) for name, value in cookies.items())


def cookie_name(flow_id: str, *, secure: bool) -> str:
    """Return a flow's cookie name. `__Host-` pins it to this host; browsers refuse that prefix on http://localhost."""
    return f"{'__Host-' if secure else ''}{COOKIE_NAME}{flow_id}"


def surplus_cookies(cookies: Mapping[str, str], *, secure: bool) -> list[str]:
    """Return the oldest flow cookies of a browser that began very many flows (browsers send the oldest first).

    Only names that this service gives: a neighbouring site can set any, and some are not valid in an answer.
    """
    given = re.compile(re.escape(cookie_name("", secure=secure)) + r"[A-Za-z0-9_-]{22}")
    ours = [name for name in cookies if given.fullmatch(name)]
    return ours[: max(0, len(ours) - MAX_COOKIES + 1)][:MAX_DELETED]


def _is_ours(name: str) -> bool:
    return name.removeprefix("__Host-").startswith(COOKIE_NAME)


def read(vault: Vault, state: str) -> FlowState:
    """Open a state, however old it is and whichever browser brings it. Raises `StateInvalid`."""
    try:
        return msgspec.json.decode(vault.open_message(state, PURPOSE), type=FlowState)
    except (SealError, msgspec.DecodeError):
        raise StateInvalid from None


def _hash(browser_secret: str) -> str:
    return hashlib.sha256(browser_secret.encode(errors="surrogatepass")).hexdigest()
