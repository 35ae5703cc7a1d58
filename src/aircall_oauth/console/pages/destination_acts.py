"""What a person can do for a destination: test, pause, resume, edit, rotate, retry, delete. Each asks first."""

import hashlib
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import SecretStr, ValidationError

from aircall_oauth.console import acts, corrections, delivery_words, words
from aircall_oauth.console.acts import WAS, Act, Field
from aircall_oauth.console.corrections import WrongForm
from aircall_oauth.console.frame import ActingPage, DisclosingPage, Form, Page, PageDep
from aircall_oauth.console.pages.destinations import SubscriptionId
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.console.visitors import TO_DISCLOSE
from aircall_oauth.deliveries import filters, subscriptions, views
from aircall_oauth.deliveries.bodies import DeadRetry, SubscriptionChange
from aircall_oauth.deliveries.destinations import signatures
from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.errors import DestinationRefused, InvalidRequest, SubscriptionsFull
from aircall_oauth.storage.statuses import SubscriptionKind, SubscriptionOrder
from aircall_oauth.telemetry.text import readable

router = APIRouter(route_class=PageRoute)

LISTS = ("types", "owners", "installations")
# Of the hash by which a form says what it showed in a field.
DIGEST_DIGITS = 12
CHANGED_MEANWHILE = (
    "Someone changed this since you opened the form: the destination's page shows to what. Save again to replace it."
)
# What may be changed without `payloads:read`: neither has events sent elsewhere, nor more of them.
HARMLESS = {"name", "order"}
ORDERS: dict[str, str] = {
    SubscriptionOrder.SUBJECT: "about the same call, user … one after the other",
    SubscriptionOrder.INSTALLATION: "all of one customer one after the other",
    SubscriptionOrder.NONE: "none: as fast as possible",
}
AT_ONCE = "now"
ONE_A_LINE = "One a line; all, if left out."
ADDRESS = "Such as https://crm.example.com/aircall. A part shown as *** stays as it is."
EventId = Annotated[str | None, Query(pattern=r"^evt_[0-9a-f]{32}$")]


@router.get("/destinations/{subscription_id}/test")
async def ask_test(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask before a sample is sent."""
    view = await _view(page, subscription_id)
    return page.ask(
        _act(
            page,
            view,
            "test",
            title=f"Send a sample to {view.name}",
            sentence="This sends an event of the type subscription.test right now, and says what came of it.",
            effects=["It is signed like any other. It is not in the log, and changes nothing here."],
            button="Send a sample",
        )
    )


@router.post("/destinations/{subscription_id}/test")
async def test(page: ActingPage, subscription_id: SubscriptionId) -> Response:
    """Send a sample event, and say what came of it."""
    tried = await subscriptions.try_out(page.resources, page.caller, page.who, subscription_id)
    taken = isinstance(tried.outcome, Delivered)
    came = "It took the sample" if taken else f"It did not take it: {delivery_words.outcome(word(tried.outcome))}"
    return page.done(
        "Sample sent" if taken else "Not taken", f"{came}, in {tried.milliseconds} ms.", back=_back(subscription_id)
    )


@router.get("/destinations/{subscription_id}/pause")
async def ask_pause(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask before a destination is paused."""
    view = await _view(page, subscription_id)
    return page.ask(
        _act(
            page,
            view,
            "pause",
            title=f"Pause {view.name}",
            sentence="This stops deliveries: what comes in waits in the log, in order, until it is resumed.",
            effects=["Deliveries under way are waited for.", "Events wait as long as the log keeps them."],
            button="Pause",
        )
    )


@router.post("/destinations/{subscription_id}/pause")
async def pause(page: ActingPage, subscription_id: SubscriptionId) -> Response:
    """Pause a destination."""
    await subscriptions.pause(page.resources, page.caller, page.who, subscription_id)
    return page.done("Paused", "Nothing is sent until it is resumed.", back=_back(subscription_id))


@router.get("/destinations/{subscription_id}/resume")
async def ask_resume(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask before a destination is resumed."""
    view = await _view(page, subscription_id)
    return page.ask(
        _act(
            page,
            view,
            "resume",
            title=f"Resume {view.name}",
            sentence=f"This goes on where it stood: {words.count(view.lag, 'event')} wait for it, oldest first.",
            effects=["It is tried at once, without waiting for the next probe.", "Nothing is skipped."],
            button="Resume",
        )
    )


@router.post("/destinations/{subscription_id}/resume")
async def resume(page: ActingPage, subscription_id: SubscriptionId) -> Response:
    """Resume a destination."""
    await subscriptions.resume(page.resources, page.caller, page.who, subscription_id)
    return page.done(
        "Resumed",
        "It is tried again within seconds, from where it stood; its page shows whether it takes events.",
        back=_back(subscription_id),
    )


@router.get("/destinations/{subscription_id}/rotate-secret")
async def ask_rotate(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask before a signing secret is rotated."""
    return page.ask(_rotate_act(page, await _view(page, subscription_id)))


@router.post("/destinations/{subscription_id}/rotate-secret")
async def rotate(page: DisclosingPage, subscription_id: SubscriptionId, form: Form) -> Response:
    """Make a new signing secret and show it once."""
    at_once = form.get("now") == AT_ONCE
    made = SecretStr(signatures.PREFIX + page.once.base64)
    secret = await subscriptions.rotate_secret(
        page.resources, page.caller, page.who, subscription_id, at_once=at_once, secret=made
    )
    said = "The old one has ended." if at_once else "For 24 hours deliveries carry a signature of each."
    return page.done("New secret", said, back=_back(subscription_id), secret=secret.get_secret_value())


@router.get("/destinations/{subscription_id}/edit")
async def ask_edit(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask what is changed."""
    view = await _view(page, subscription_id)
    return page.ask(_edit_act(page, view, _shown(view)))


@router.post("/destinations/{subscription_id}/edit")
async def edit(page: ActingPage, subscription_id: SubscriptionId, form: Form) -> Response:
    """Change what the person has changed. What another person or tab has changed since stays, or is asked about."""
    view = await _view(page, subscription_id)
    shown, given, was = _shown(view), _given(page, view, form), _digests(form)
    changed = {name: value for name, value in given.items() if value != shown[name]}
    if overtaken := [name for name in changed if was.get(name, _digest(shown[name])) != _digest(shown[name])]:
        return page.ask(_edit_act(page, view, given), wrong=WrongForm(dict.fromkeys(overtaken, CHANGED_MEANWHILE)))
    if not changed.keys() <= HARMLESS:
        page.visitor.require(TO_DISCLOSE)
    try:
        change = SubscriptionChange.model_validate({name: value_of(name, value) for name, value in changed.items()})
        await subscriptions.change(page.resources, page.caller, page.who, subscription_id, **change.fields)
    except ValidationError as error:
        return page.ask(_edit_act(page, view, given), wrong=corrections.of(error))
    except (InvalidRequest, DestinationRefused, SubscriptionsFull) as error:
        return page.ask(_edit_act(page, view, given), wrong=error)
    warned = await filters.warnings(page.resources, page.caller, change.fields.get("types", []))
    said = f"Changed: {', '.join(sorted(changed))}." if changed else "Nothing was different, so nothing was changed."
    return page.done(
        "Saved", said, back=_back(subscription_id), facts=[corrections.plainly(each.detail) for each in warned]
    )


@router.get("/destinations/{subscription_id}/retry")
async def ask_retry(page: PageDep, subscription_id: SubscriptionId, event_id: EventId = None) -> Response:
    """Ask before events that were given up on are put back."""
    return page.ask(_retry_act(page, await _view(page, subscription_id), event_id))


@router.post("/destinations/{subscription_id}/retry")
async def retry(page: ActingPage, subscription_id: SubscriptionId, form: Form) -> Response:
    """Put events that were given up on back."""
    try:
        asked = DeadRetry.model_validate({"event_ids": [form["event_id"]] if "event_id" in form else None})
    except ValidationError as error:
        act = _retry_act(page, await _view(page, subscription_id), form["event_id"])
        return page.ask(act, wrong=corrections.of(error, {"event_ids": "event_id"}))
    count = await subscriptions.retry_dead(page.resources, page.caller, page.who, subscription_id, asked.event_ids)
    said = (
        f"{words.count(count, 'event')} {'is' if count == 1 else 'are'} tried again now."
        if count
        else "There was none."
    )
    return page.done("Put back", said, back=_back(subscription_id))


@router.get("/destinations/{subscription_id}/delete")
async def ask_delete(page: PageDep, subscription_id: SubscriptionId) -> Response:
    """Ask before a destination is deleted."""
    view = await _view(page, subscription_id)
    waits = view.parked + view.dead
    act = _act(
        page,
        view,
        "",
        title=f"Delete {view.name}",
        sentence="This ends the destination for good: nothing more is delivered to it.",
        effects=[
            f"With it go {words.count(waits, 'event')} that it has not taken: parked or given up on.",
            "Its position is lost: a new subscription begins elsewhere, with another secret.",
        ],
        button="Delete for good",
        method="DELETE",
        dangerous=True,
    )
    return page.ask(act)


@router.post("/destinations/{subscription_id}/delete")
async def delete(page: ActingPage, subscription_id: SubscriptionId) -> Response:
    """Delete a destination."""
    await subscriptions.delete_one(page.resources, page.caller, page.who, subscription_id)
    return page.done("Deleted", "The destination has ended.", back="/destinations")


async def _view(page: Page, subscription_id: str) -> SubscriptionView:
    return await views.show(page.resources, page.caller, subscription_id)


def _back(subscription_id: str) -> str:
    return f"/destinations/{subscription_id}"


def _act(page: Page, view: SubscriptionView, door: str, *, method: str = "POST", body: Any = None, **told: Any) -> Act:
    """Return an act on a destination, with the API's request that does the same."""
    path = f"/v1/subscriptions/{view.id}{'/' if door else ''}{door}"
    return Act(back=_back(view.id), curl=acts.curl(page.settings.public_url, method, path, body), **told)


def _rotate_act(page: Page, view: SubscriptionView) -> Act:
    choice = {AT_ONCE: "End the old secret at once: it may have been seen by others"}
    return _act(
        page,
        view,
        "rotate-secret",
        title=f"Rotate the secret of {view.name}",
        sentence="This makes a new signing secret, and shows it this once.",
        effects=[
            "For 24 hours each delivery is signed with both secrets, unless the old one ends at once.",
            "The receiver must know the new one by then, or it refuses what comes.",
        ],
        button="Make a new secret",
        needs=TO_DISCLOSE,
        why_not=None if view.kind == SubscriptionKind.HTTP else "A broker's destination has no signing secret.",
        fields=[Field("now", "The old secret", kind="checkboxes", options=choice)],
    )


def _retry_act(page: Page, view: SubscriptionView, event_id: str | None) -> Act:
    what = "this event" if event_id else words.count(view.dead, "event")
    return _act(
        page,
        view,
        "dead/retry",
        title=f"Put back what {view.name} did not take",
        sentence=f"This tries {what} again at once, and from then on by the schedule.",
        effects=["What fails again is tried for three more days before it is given up on again."],
        button="Put back",
        body={"event_ids": [event_id]} if event_id else None,
        fields=[Field("event_id", "Only the event", value=event_id or "", hint="All of them, if left out.")],
    )


def _shown(view: SubscriptionView) -> dict[str, str]:
    """Return a destination's fields as the form shows them: what comes back the same is not changed."""
    lists = {name: "\n".join(map(readable, getattr(view, name))) for name in LISTS}
    return {"name": readable(view.name), "url": readable(view.url), **lists, "order": str(view.order)}


def _given(page: Page, view: SubscriptionView, form: Form) -> dict[str, str]:
    """Return what was filled in; of a field that the form did not have, or that was left as it was, what is shown."""
    shown, was = _shown(view), _digests(form)
    offered = shown.keys() if page.visitor.reveals else HARMLESS | (shown.keys() & form.keys())
    filled = {name: form.get(name, "").replace("\r\n", "\n") for name in offered}
    return shown | {name: value for name, value in filled.items() if was.get(name) != _digest(value)}


def _digests(form: Form) -> dict[str, str]:
    """Return by field the hash of what the form showed; nothing of a field where it does not say."""
    return dict(part.split("=", 1) for part in form.get(WAS, "").split() if "=" in part)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:DIGEST_DIGITS]


def value_of(name: str, text: str) -> str | list[str]:
    """Return what was filled in as the API takes it. An owner's name may hold commas and spaces, the others none."""
    if name not in LISTS:
        return text
    return [part.strip() for part in re.split(r"[\r\n]+" if name == "owners" else r"[\s,]+", text) if part.strip()]


def fields_of(given: Form) -> list[Field]:
    """Return the fields of a destination over HTTP, which is made or edited, with what was filled in."""
    order = given.get("order", str(SubscriptionOrder.SUBJECT))
    return [
        Field("name", "Name", value=given.get("name", ""), required=True, hint="As people here will call it."),
        Field("url", "Address", value=given.get("url", ""), required=True, hint=ADDRESS),
        Field("types", "Event types", "textarea", given.get("types", ""), f"Such as call.*. {ONE_A_LINE}"),
        Field("owners", "Owners", "textarea", given.get("owners", ""), f"Your own ids of customers. {ONE_A_LINE}"),
        Field(
            "installations", "Customers", "textarea", given.get("installations", ""), f"Their ids, ins_…. {ONE_A_LINE}"
        ),
        Field("order", "Order", "select", order, required=True, options=ORDERS),
    ]


def _edit_act(page: Page, view: SubscriptionView, given: dict[str, str]) -> Act:
    fields = fields_of(given)
    reveals = page.visitor.reveals
    return _act(
        page,
        view,
        "",
        method="PATCH",
        body={"types": given["types"].split("\n") if given["types"] else []},
        title=f"Edit {view.name}",
        sentence="This changes what it is called, what it wants and where it goes; its position stays.",
        effects=[
            "It holds for events from now on, and for those that still wait.",
            *([] if reveals else ["Where it goes and what it wants can be changed with the scope payloads:read."]),
        ],
        button="Save",
        fields=[*(field for field in fields if reveals or field.name in HARMLESS), _was(view)],
    )


def _was(view: SubscriptionView) -> Field:
    """Return the field by which a form says what it showed."""
    return Field(WAS, "", "hidden", " ".join(f"{name}={_digest(value)}" for name, value in _shown(view).items()))
