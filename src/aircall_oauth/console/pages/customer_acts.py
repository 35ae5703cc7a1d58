"""What a person can do for a customer: check, link, rotate, back-fill, disconnect. Each asks first."""

from fastapi import APIRouter, Response

from aircall_oauth.console import acts
from aircall_oauth.console.acts import Act, Field
from aircall_oauth.console.corrections import WrongForm
from aircall_oauth.console.frame import ActingPage, Form, Page, PageDep
from aircall_oauth.console.pages.windows import moments_of
from aircall_oauth.console.parameters import InstallationId, Text
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.errors import InstallationNotActive, InvalidRequest
from aircall_oauth.installations import views
from aircall_oauth.installations.disconnect import farewell
from aircall_oauth.installations.oauth import links
from aircall_oauth.installations.outages import backfill
from aircall_oauth.installations.upkeep import check, retired
from aircall_oauth.installations.upkeep.check import Code
from aircall_oauth.installations.views import InstallationView
from aircall_oauth.storage.statuses import InstallationStatus

router = APIRouter(route_class=PageRoute)

ACTIVE, UNAUTHORIZED, UNCLAIMED, REMOVED = (
    InstallationStatus.ACTIVE,
    InstallationStatus.UNAUTHORIZED,
    InstallationStatus.UNCLAIMED,
    InstallationStatus.REMOVED,
)
# Why not for a customer of this status.
WHY_NOT = {
    UNCLAIMED: "Not yet: no owner has claimed this installation. Until then it has no webhook, and its token is not "
    "used; after an hour it is erased. Its admin can begin again with an install link.",
    UNAUTHORIZED: "Not now: Aircall no longer accepts its token. Its admin must install the app again, with an install "
    "link; “Check now” says whether Aircall has come round.",
    REMOVED: "Not any more: this installation has ended. Its admin can connect again with an install link.",
}
CODES = {
    Code.TOKEN_REFUSED: "Aircall refused the token twice: the customer's admin must install the app again.",
    Code.TOKEN_FOREIGN: "The token answers for another company than before: the admin must install the app again.",
    Code.TOKEN_ACCEPTED_AGAIN: "Aircall accepts the token again; the installation is active again.",
    Code.INTEGRATION_OFF: "The integration was switched off at Aircall.",
    Code.NO_NUMBERS: "No number is linked to the app in Aircall: only the admin can link one, in Aircall's Dashboard.",
    Code.FACTS_CHANGED: "Name, numbers or switch had changed at Aircall.",
    Code.WEBHOOK_NEW: "The webhook was not registered yet.",
    Code.WEBHOOK_MISSING: "The webhook was gone from Aircall.",
    Code.WEBHOOK_DISABLED: "Aircall had switched the webhook off.",
    Code.WEBHOOK_CHANGED: "The webhook was not as wanted.",
    Code.WEBHOOK_DOUBLED: "There was more than one webhook of ours.",
    Code.WEBHOOK_REFUSED: "Aircall does not let the webhook be mended; the worker goes on trying.",
}


@router.get("/customers/{installation_id}/check")
async def ask_check(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask before a check."""
    view = await _view(page, installation_id)
    return page.ask(
        Act(
            title=f"Check {name_of(view)} now",
            sentence="This asks Aircall about token, integration, numbers and webhook, and mends what can be mended.",
            effects=[
                "Up to five requests of the company's budget of this minute.",
                "A webhook that is off is switched on; one that is gone is made anew.",
                "It takes some seconds.",
            ],
            button="Check now",
            why_not=_why_not(view, {ACTIVE, UNAUTHORIZED}),
            back=_back(view),
            curl=acts.curl(page.settings.public_url, "POST", f"/v1/installations/{view.id}/check"),
        )
    )


@router.post("/customers/{installation_id}/check")
async def check_now(page: ActingPage, installation_id: InstallationId) -> Response:
    """Check an installation, and say what was found."""
    found = await check.check(page.resources, page.caller, page.who, installation_id)
    facts = [f"{CODES[code]} {'It is mended.' if mended else ''}".strip() for code, mended in found.found]
    sentence = "Token, integration, numbers and webhook are in order."
    if facts:
        sentence = "Everything that was wrong is mended." if found.healthy else "Something needs a person."
    return page.done("Checked", sentence, back=f"/customers/{installation_id}", facts=facts)


@router.get("/customers/{installation_id}/link")
async def ask_link(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask for whom an install link is made."""
    view = await _view(page, installation_id)
    return page.ask(_link_act(page, view.owner or "", _back(view)))


@router.post("/customers/{installation_id}/link")
async def make_link_for_customer(page: ActingPage, installation_id: InstallationId, form: Form) -> Response:
    """Make an install link for the customer's owner."""
    return await _make_link(page, form.get("owner", ""), f"/customers/{installation_id}")


@router.get("/links/new")
async def ask_new_link(page: PageDep, owner: Text = None) -> Response:
    """Ask for whom an install link is made."""
    return page.ask(_link_act(page, owner or "", "/customers"))


@router.post("/links/new")
async def make_new_link(page: ActingPage, form: Form) -> Response:
    """Make an install link for any owner."""
    return await _make_link(page, form.get("owner", ""), "/customers")


@router.get("/customers/{installation_id}/rotate")
async def ask_rotate(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask before a webhook is rotated."""
    view = await _view(page, installation_id)
    return page.ask(
        Act(
            title=f"Rotate the webhook of {name_of(view)}",
            sentence="This makes a new webhook at Aircall, with a new token, in place of the present one.",
            effects=[
                "No event is lost: both are recognised until the old one is deleted, ten minutes later.",
                "Do this where the webhook's token may have been seen by others.",
            ],
            button="Rotate the webhook",
            why_not=_why_not(view, {ACTIVE}),
            back=_back(view),
            command=acts.command("installations", "rotate-webhook", view.id),
        )
    )


@router.post("/customers/{installation_id}/rotate")
async def rotate(page: ActingPage, installation_id: InstallationId) -> Response:
    """Give an installation a new webhook."""
    done = await retired.replace_webhook(page.resources, page.who, installation_id)
    sentence = "The webhook is a new one." if done else "The worker rotates it as soon as it can."
    return page.done("Webhook rotated", sentence, back=f"/customers/{installation_id}")


@router.get("/customers/{installation_id}/backfill")
async def ask_backfill(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask which window is filled."""
    return page.ask(_backfill_act(await _view(page, installation_id)))


@router.post("/customers/{installation_id}/backfill")
async def ask_aircall(page: ActingPage, installation_id: InstallationId, form: Form) -> Response:
    """Leave a window to the worker to fill."""
    view = await _view(page, installation_id)
    try:
        since, until = moments_of(form)
        gap_id = page.once.id("gap")
        gap = await backfill.ask(page.resources, page.who, installation_id, since=since, until=until, gap_id=gap_id)
    except (InvalidRequest, InstallationNotActive) as error:
        return page.ask(_backfill_act(view, form), wrong=error)
    assert gap.until is not None
    sentence = (
        f"The worker asks Aircall for the calls from {gap.since:%Y-%m-%d %H:%M} to {gap.until:%Y-%m-%d %H:%M} UTC."
    )
    return page.done(
        "Back-fill ordered", sentence, back=_back(view), facts=["The customer's timeline shows how far it is."]
    )


@router.get("/customers/{installation_id}/disconnect")
async def ask_disconnect(page: PageDep, installation_id: InstallationId) -> Response:
    """Ask before a customer is disconnected."""
    view = await _view(page, installation_id)
    return page.ask(
        Act(
            title=f"Disconnect {name_of(view)}",
            sentence="This ends the installation for good: its admin must install the app again to come back.",
            effects=[
                "Our webhook at Aircall is deleted, and the integration switched off there.",
                "The token is erased here. No event of this customer comes any more.",
                "What is in the log stays until its retention is over.",
            ],
            button="Disconnect for good",
            why_not=_why_not(view, {ACTIVE, UNAUTHORIZED, UNCLAIMED}),
            back=_back(view),
            curl=acts.curl(page.settings.public_url, "DELETE", f"/v1/installations/{view.id}"),
            command=acts.command("installations", "disconnect", view.id),
            dangerous=True,
        )
    )


@router.post("/customers/{installation_id}/disconnect")
async def disconnect(page: ActingPage, installation_id: InstallationId) -> Response:
    """Disconnect a customer."""
    await farewell.disconnect(page.resources, page.caller, page.who, installation_id)
    return page.done("Disconnected", "The installation has ended.", back=f"/customers/{installation_id}")


def name_of(view: InstallationView) -> str:
    return view.company_name or view.owner or view.id


def _why_not(view: InstallationView, allowed: set[InstallationStatus]) -> str | None:
    """Return why an act makes no sense for an installation of this status; None if it does."""
    return None if view.status in allowed else WHY_NOT[view.status]


async def _view(page: Page, installation_id: str) -> InstallationView:
    return await views.show_installation(page.resources, page.caller, installation_id)


def _back(view: InstallationView) -> str:
    return f"/customers/{view.id}"


def _link_act(page: Page, owner: str, back: str) -> Act:
    return Act(
        title="Make an install link",
        sentence="This makes a link for one admin of the customer: it works once, within thirty minutes.",
        effects=[
            "The admin opens it in a browser, chooses Authorize at Aircall, and is sent to your own page.",
            "What comes of it is the owner's once your page has claimed it.",
        ],
        button="Make the link",
        back=back,
        curl=acts.curl(page.settings.public_url, "POST", "/v1/install-links", {"owner": owner or "acme"}),
        fields=[
            Field(
                "owner",
                "Owner",
                value=owner,
                required=True,
                hint="Your own id of whom the installation will belong to.",
            )
        ],
    )


async def _make_link(page: Page, owner: str, back: str) -> Response:
    if not 0 < len(owner) <= 255 or "\x00" in owner:
        said = "Say whose it will be: your own id of the customer, of 255 characters at most."
        return page.ask(_link_act(page, owner[:255], back), wrong=WrongForm({"owner": said}))
    try:
        link_id = page.once.id("lnk")
        link = await links.make_link(page.resources, page.caller, page.who, owner=owner, link_id=link_id)
    except InvalidRequest as error:
        return page.ask(_link_act(page, owner, back), wrong=error)
    return page.done(
        "Install link",
        f"Send this link to an Aircall admin of {owner}: it works once, until {link.expires_at:%H:%M} UTC.",
        back=back,
        secret=link.url,
        facts=[f"Its attempt is {link.reference}: the page Attempts shows how far it comes."],
    )


def _backfill_act(view: InstallationView, form: Form | None = None) -> Act:
    given = form or {}
    since, until = given.get("since", ""), given.get("until", "")
    words_ = ["backfill", "--installation", view.id, "--from", since or "2026-01-31T08:00Z"]
    return Act(
        title=f"Back-fill a window of {name_of(view)}",
        sentence="This asks Aircall for the calls that ended in a window, and adds to the log what it lacks.",
        effects=[
            "Only ended calls can be asked for; they come as call.ended events, marked as back-filled.",
            "Nothing is added twice. It uses the company's budget, and may take minutes.",
        ],
        button="Back-fill",
        why_not=_why_not(view, {ACTIVE}),
        back=_back(view),
        command=acts.command(*words_, *(["--to", until] if until else [])),
        fields=[
            Field("since", "From, in UTC", kind="datetime-local", value=since, required=True),
            Field("until", "To, in UTC", kind="datetime-local", value=until, hint="Now, if left out."),
        ],
    )
