"""Where things stand, in words: a badge for lists, and a sentence that says what it means and what follows."""

from dataclasses import dataclass
from datetime import UTC, datetime

from aircall_oauth.console.times import ago
from aircall_oauth.installations.attempts.views import InstallAttemptView
from aircall_oauth.installations.views import InstallationView
from aircall_oauth.storage.statuses import InstallationStatus, WebhookStatus

STEPS = {
    "made": "Link made",
    "opened": "Link opened, sent to Aircall",
    "consented": "Came back with consent",
    "exchanged": "Aircall gave a token",
    "identified": "Aircall said whose it is",
    "connected": "Installation saved",
    "claimed": "Claimed by its owner",
    "live": "Webhook live at Aircall",
}
# What each ending means, and what to tell the customer's admin.
ENDINGS = {
    "connected": ("It is connected.", "Nothing: it worked."),
    "claimed": ("It is connected, and its owner has claimed it.", "Nothing: it worked."),
    "unclaimed": (
        "Aircall is connected, but the owner's page has not claimed it yet; it is erased an hour after.",
        "Open your own page once more in the browser that installed; it uses the claim. Otherwise: a fresh link.",
    ),
    "declined": (
        "The admin chose Deny on Aircall's page, or closed it there.",
        "Open a fresh link and choose Authorize. Only an Aircall admin can.",
    ),
    "state_expired": (
        "The admin took more than ten minutes on Aircall's page.",
        "Open a fresh link, and go on at once.",
    ),
    "wrong_browser": (
        "The admin came back in another browser than the one that began, or it takes no cookies.",
        "Open a fresh link, and stay in one browser until the end; allow cookies.",
    ),
    "state_invalid": ("The way back was damaged or not begun here.", "Open a fresh link."),
    "link_expired": ("The link was older than thirty minutes.", "Open a fresh link within thirty minutes."),
    "link_used": ("The link was used before; each works once.", "Open a fresh link."),
    "link_invalid": ("The link was damaged.", "Copy a fresh link whole."),
    "code_refused": ("Aircall did not accept its own code, as when a page is reloaded late.", "Open a fresh link."),
    "app_refused": (
        "Aircall refuses this app's own credentials.",
        "Wait: we must correct AIRCALL_OAUTH_CLIENT_ID or …_CLIENT_SECRET first.",
    ),
    "token_mixed_up": ("Aircall's answers did not fit together.", "Try once more; if it stays, we ask Aircall."),
    "aircall_away": ("Aircall did not answer.", "Wait some minutes, then open a fresh link."),
    "flow_unknown": (
        "It was interrupted in the middle; it may have worked.",
        "Look whether the customer is connected; otherwise open a fresh link.",
    ),
    "too_many_failed_installs": ("Too many installs failed at that time.", "Wait a minute, then open a fresh link."),
    "try_again_later": ("The service could not save it at that time.", "Wait a minute, then open a fresh link."),
    "return_address_refused": (
        "The link's own return address is no longer allowed.",
        "Wait: we must correct AIRCALL_OAUTH_RETURN_URLS first; then open a fresh link.",
    ),
    "prefetch_refused": ("The browser only looked ahead.", "Open the link itself."),
    "parameters_invalid": ("The address that was opened was incomplete.", "Copy a fresh link whole."),
}
GOOD_ENDINGS = frozenset({"connected", "claimed", "unclaimed"})
UNKNOWN_ENDING = ("It ended badly.", "Open a fresh link.")


@dataclass(frozen=True)
class Standing:
    """Where something stands: a word for lists with its tone, and a sentence."""

    word: str
    tone: str
    sentence: str


BY_STATUS = {
    InstallationStatus.REMOVED: Standing(
        "disconnected", "", "Disconnected: the token is erased, and nothing comes any more."
    ),
    InstallationStatus.UNCLAIMED: Standing(
        "unclaimed",
        "warn",
        "Connected at Aircall, but not claimed: its owner must confirm it within an hour, or it is erased.",
    ),
    InstallationStatus.UNAUTHORIZED: Standing(
        "unauthorized",
        "bad",
        "Aircall no longer accepts the token, so nothing comes: its admin must install the app again.",
    ),
}
BY_WEBHOOK = {
    WebhookStatus.PENDING: Standing(
        "webhook pending",
        "warn",
        "Connected, but its webhook is not registered at Aircall yet: the worker goes on trying.",
    ),
    WebhookStatus.DISABLED: Standing(
        "webhook off",
        "bad",
        "Connected, but Aircall has switched our webhook off, so nothing comes: the worker switches it on.",
    ),
    WebhookStatus.MISSING: Standing(
        "webhook gone",
        "bad",
        "Connected, but our webhook is gone from Aircall, so nothing comes: the worker makes it anew.",
    ),
}
NO_NUMBERS = Standing(
    "no numbers",
    "warn",
    "Connected, but no number is linked to the app in Aircall: nothing will come. Only its admin can link one.",
)


def of_installation(view: InstallationView, now: datetime | None = None) -> Standing:
    """Say where an installation stands, the most important first."""
    if (standing := BY_STATUS.get(view.status) or BY_WEBHOOK.get(view.webhook.status)) is not None:
        return standing
    if not view.number_ids:
        return NO_NUMBERS
    if view.silent_since is not None:
        said = f"Connected, but silent for {_since(view.silent_since, now)}, at hours when it usually sends events."
        return Standing("silent", "warn", said)
    if view.last_event_at is None:
        return Standing("connected", "good", "Connected and in order; nothing has come from it yet.")
    return Standing("connected", "good", f"Connected and in order; its last event came {ago(view.last_event_at, now)}.")


def of_attempt(view: InstallAttemptView) -> Standing:
    """Say where an install attempt stands."""
    who = view.company_name or view.owner or "An admin"
    if _was_never_opened(view):
        return Standing("not opened", "warn", "The link was made and never opened; it works for thirty minutes.")
    if view.ending is None:
        reached = STEPS[view.step].lower() if view.step in STEPS else view.step
        return Standing(
            "under way", "warn", f"It has no ending: {reached}, and nothing since. The admin may just have stopped."
        )
    meaning, _ = ENDINGS.get(view.ending, UNKNOWN_ENDING)
    tone = "good" if view.ending in {"connected", "claimed"} else "warn" if view.ending == "unclaimed" else "bad"
    return Standing(view.ending.replace("_", " "), tone, f"{who}: {meaning[0].lower()}{meaning[1:]}")


def advice_for(view: InstallAttemptView) -> str:
    """Say what to tell the admin of an attempt."""
    if _was_never_opened(view):
        return "Ask whether the link has arrived, and send a fresh one."
    if view.ending is None:
        return "Ask what the last page said, and send a fresh link."
    return ENDINGS.get(view.ending, UNKNOWN_ENDING)[1]


def _was_never_opened(view: InstallAttemptView) -> bool:
    return view.ending is None and view.step == "made"


def shown_to(view: InstallAttemptView) -> str | None:
    """Say what the admin's browser was shown last."""
    if view.shown is None:
        return None
    place, _, what = view.shown.partition(":")
    again = " when the way back was opened once more" if view.ending in GOOD_ENDINGS and place == "page" else ""
    return {
        "consent": "Aircall's consent page",
        "success_url": "Aircall's success page",
        "page": f"our page for “{what.replace('_', ' ')}”{again}",
        "return_to": f"your own page, with {what or 'the claim'}",
    }.get(place, view.shown)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 event`, `3 events`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}".replace(",", "\u202f")


def many(number: int, more: bool) -> str:
    """Return a number that was counted to a bound: `1 000 or more`."""
    return f"{number:,}{' or more' if more else ''}".replace(",", "\u202f")


def _since(moment: datetime, now: datetime | None) -> str:
    return ago(moment, now or datetime.now(UTC)).removesuffix(" ago")
