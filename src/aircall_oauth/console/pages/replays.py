"""The replay wizard: a window of the log, counted first, then delivered once more to one destination."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from aircall_oauth.access.parameters import ID
from aircall_oauth.console import acts, corrections, delivery_words, times, words
from aircall_oauth.console.acts import Act, Field
from aircall_oauth.console.charts import number
from aircall_oauth.console.corrections import WrongForm
from aircall_oauth.console.frame import ActingPage, Form, Page, PageDep, guarded
from aircall_oauth.console.pages.destination_acts import LISTS, value_of
from aircall_oauth.console.pages.destinations import SubscriptionId
from aircall_oauth.console.pages.windows import moments_of
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.deliveries import views
from aircall_oauth.deliveries.replays import jobs
from aircall_oauth.deliveries.replays.bodies import ReplayWindow
from aircall_oauth.deliveries.replays.jobs import ReplayPreview, ReplayView
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.errors import AppError, InvalidRequest, PositionGone
from aircall_oauth.events.routes import LAST_POSITION
from aircall_oauth.installations import views as views_of_installations
from aircall_oauth.storage.statuses import Health, ReplayStatus, SubscriptionStatus

router = APIRouter(route_class=PageRoute)

COMPANY = re.compile(r"[1-9][0-9]{0,18}")
MOST_SHOWN = 80
MOST_OWNERS = 5
# So many customers of a window are called by their names; the rest is counted.
MOST_NAMED = 20
ReplayId = Annotated[str, Path(pattern=r"^rpl_[0-9a-f]{32}$")]
Given = Annotated[str | None, Query(max_length=20_000)]


def given(
    since: Given = None,
    until: Given = None,
    types: Given = None,
    owners: Given = None,
    installations: Given = None,
    per_second: Given = None,
) -> dict[str, str]:
    """Read what was filled in; what is wrong with it is said beside the form."""
    fields = {"since": since, "until": until, "types": types, "owners": owners, "installations": installations}
    return {name: value for name, value in (fields | {"per_second": per_second}).items() if value}


@router.get("/destinations/{subscription_id}/replay")
async def plan(
    page: PageDep, subscription_id: SubscriptionId, asked: Annotated[dict[str, str], Depends(given)]
) -> Response:
    """Ask for a window and, once there is one, count what it holds: nothing is sent yet.

    A link may fill in whose events they are, and leave the window to the person.
    """
    if asked.keys() <= set(LISTS):
        return await _wizard(page, subscription_id, asked)
    try:
        window = await window_of(page, asked)
        preview = await jobs.preview(page.resources, page.caller, subscription_id, window.window, window.wanted)
    except (InvalidRequest, PositionGone) as error:
        return await _wizard(page, subscription_id, asked, wrong=_plainly(error))
    return await _wizard(page, subscription_id, asked, Counted(window, preview))


@router.post("/destinations/{subscription_id}/replay")
async def start(page: ActingPage, subscription_id: SubscriptionId, form: Form) -> Response:
    """Start a replay, and go to the page that shows how far it is."""
    try:
        window = await window_of(page, form)
        started = await jobs.start(
            page.resources,
            page.caller,
            page.who,
            subscription_id,
            window.window,
            window.wanted,
            per_second=window.per_second,
            replay_id=page.once.id("rpl"),
        )
    except (InvalidRequest, PositionGone) as error:
        return await _wizard(page, subscription_id, form, wrong=_plainly(error))
    return guarded(RedirectResponse(f"/destinations/{subscription_id}/replays/{started.id}", 303))


@router.get("/destinations/{subscription_id}/replays/{replay_id}")
async def show_replay(page: PageDep, subscription_id: SubscriptionId, replay_id: ReplayId) -> Response:
    """How far is this replay?"""
    view = await jobs.show(page.resources, page.caller, subscription_id, replay_id)
    name = (await views.show(page.resources, page.caller, subscription_id)).name
    return page.show(
        "replay.html",
        title=f"Replay for {name}",
        sentence=_progress(view),
        view=view,
        name=name,
        running=view.status == ReplayStatus.RUNNING,
        last_error=delivery_words.outcome(view.last_error) if view.last_error else None,
        curl=acts.curl(page.settings.public_url, "GET", _api(view)),
        command=acts.command("subscriptions", "replays", subscription_id),
    )


@router.get("/destinations/{subscription_id}/replays/{replay_id}/stop")
async def ask_stop(page: PageDep, subscription_id: SubscriptionId, replay_id: ReplayId) -> Response:
    """Ask before a replay is stopped."""
    view = await jobs.show(page.resources, page.caller, subscription_id, replay_id)
    return page.ask(
        Act(
            title="Stop this replay",
            sentence=f"This ends the replay where it is: {_progress(view)}",
            effects=[
                "What is out at that moment may still arrive.",
                "It can't be resumed; another one can be started.",
            ],
            button="Stop the replay",
            back=_address(view),
            curl=acts.curl(page.settings.public_url, "POST", f"{_api(view)}/stop"),
            command=acts.command("subscriptions", "stop-replay", subscription_id, replay_id),
            dangerous=True,
        )
    )


@router.post("/destinations/{subscription_id}/replays/{replay_id}/stop")
async def stop(page: ActingPage, subscription_id: SubscriptionId, replay_id: ReplayId) -> Response:
    """Stop a replay."""
    view = await jobs.stop(page.resources, page.caller, page.who, subscription_id, replay_id)
    return page.done("Replay ended", _progress(view), back=_address(view))


async def window_of(page: Page, asked: Mapping[str, str]) -> ReplayWindow:
    """Return the API's body for what was filled in; raises `WrongForm`."""
    since, until = moments_of(asked)
    if until is None:
        raise WrongForm({"until": "Say until when."})
    body: dict[str, Any] = {"since": since.isoformat(), "until": until.isoformat()}
    body |= {name: value_of(name, asked.get(name, "")) for name in ("types", "owners")}
    body["installations"] = await _customers(page, asked.get("installations", ""))
    body["everything"] = not any(body[name] for name in LISTS)
    try:
        return ReplayWindow.model_validate(body | {"per_second": asked.get("per_second", "50")})
    except ValidationError as error:
        raise corrections.of(error) from None


async def _customers(page: Page, text: str) -> list[str]:
    """Return the installations that were named, by their ids or their companies'; raises `WrongForm`."""
    named = list(dict.fromkeys(value_of("installations", text)))
    ids = [each for each in named if re.fullmatch(ID, each)]
    companies = [each for each in named if COMPANY.fullmatch(each) and int(each) <= LAST_POSITION]
    if strange := [each for each in named if each not in ids and each not in companies]:
        said = (
            f"“{strange[0][:MOST_SHOWN]}” is neither a customer's id, such as ins_0198…, nor a company's id at Aircall."
        )
        raise WrongForm({"installations": said})
    found = await views_of_installations.find_ids(page.resources, page.caller, ids, [int(each) for each in companies])
    known = {part for one in found for part in (one[0], str(one[1]))}
    if unknown := [each for each in named if each not in known]:
        raise WrongForm({"installations": _no_customer(unknown[0])})
    return [installation_id for installation_id, _ in found]


def _no_customer(named: str) -> str:
    if not COMPANY.fullmatch(named):
        return f"There is no customer {named}."
    return (
        f"There is no customer of the company {named}. If it is a call's id, open the call's page: "
        "its events are sent again from there."
    )


def _plainly(error: AppError) -> AppError:
    """Return an error about the log's positions as one about the window's beginning."""
    if not isinstance(error, PositionGone):
        return error
    return WrongForm({"since": "The log does not go back so far: older events were dropped. Choose a later time."})


@dataclass(frozen=True)
class Counted:
    """A window, and what it holds."""

    window: ReplayWindow
    preview: ReplayPreview


async def _wizard(
    page: Page,
    subscription_id: str,
    asked: Mapping[str, str],
    counted: Counted | None = None,
    *,
    wrong: AppError | None = None,
) -> Response:
    view = await views.show(page.resources, page.caller, subscription_id)
    problem, faults = (None, {}) if wrong is None else corrections.faults_of(wrong)
    sentence = "This delivers events of a window once more, beside what comes in; they are counted first."
    return page.show(
        "replay_plan.html",
        title=f"Replay a window for {view.name}",
        sentence=sentence if counted is None else await _said_of(page, counted),
        status=422 if wrong else 200,
        view=view,
        asked=asked,
        fields=_fields(asked),
        preview=counted and counted.preview,
        chosen=counted and await _chosen(page, counted.window),
        problem=problem or ("correct what is marked below." if faults else None),
        faults=faults,
        form_token=page.form_token,
        waits=_waits(view),
        curl=counted and acts.curl(page.settings.public_url, "POST", *_body(view.id, counted.window)),
        command=counted and _command(view.id, counted.window),
    )


def _fields(asked: Mapping[str, str]) -> list[Field]:
    lists = (
        ("types", "Event types", "Such as call.*; one a line. All, if left out."),
        ("owners", "Owners", "Your own ids of customers, one a line. All, if left out."),
        (
            "installations",
            "Customers",
            "Their ids, ins_…, or their companies' ids at Aircall, one a line. All, if left out.",
        ),
    )
    return [
        Field("since", "Received since, UTC", "datetime-local", asked.get("since", ""), required=True),
        Field("until", "Received before, UTC", "datetime-local", asked.get("until", ""), required=True),
        *(Field(name, label, "textarea", asked.get(name, ""), hint, rows=2) for name, label, hint in lists),
        Field("per_second", "At most so many a second", "number", asked.get("per_second", "50"), required=True),
    ]


def _waits(view: SubscriptionView) -> str | None:
    """Return why a replay would not begin at once; None if it would."""
    match view.status, view.health:
        case SubscriptionStatus.PAUSED, _:
            return "The destination is paused: nothing is sent, this replay neither, until it is resumed."
        case SubscriptionStatus.DISABLED, _:
            return "The destination answered that it wants no more: a replay would end at once. Resume it first."
        case _, Health.DOWN:
            return "The destination is down: the replay waits until it answers again."
        case _:
            return None


async def _chosen(page: Page, window: ReplayWindow) -> dict[str, Any]:
    """Return what a window was asked for with, to be checked before anything is sent: times in UTC, as in the form."""
    assert window.since is not None
    assert window.until is not None
    names = await views_of_installations.names_of(page.resources, page.caller, window.installations[:MOST_NAMED])
    return {
        "since": f"{window.since:%Y-%m-%d %H:%M:%S}",
        "until": f"{window.until:%Y-%m-%d %H:%M:%S}",
        "length": times.exact_length(window.until - window.since),
        "customers": names,
        "more": len(window.installations) - len(names),
        "owners": window.owners,
        "types": window.types,
        "per_second": window.per_second,
    }


async def _said_of(page: Page, counted: Counted) -> str:
    """Say what a window holds and, of one that holds nothing, whether its owners are known."""
    window, preview = counted.window, counted.preview
    if preview.events:
        takes = timedelta(seconds=preview.events / window.per_second)
        return (
            f"{words.count(preview.events, 'event')} of {words.count(preview.customers, 'customer')} would be "
            f"delivered once more, in {delivery_words.brief(takes)} or more."
        )
    for owner in window.owners[:MOST_OWNERS]:
        found = await views_of_installations.list_installations(page.resources, page.caller, owner=owner, limit=1)
        if not found.items:
            return f"No customer belongs to the owner “{owner}”, and the window has no event of it: is it misspelt?"
    return "No event of this window is wanted by both the destination and this replay: nothing would be sent."


def _body(subscription_id: str, window: ReplayWindow) -> tuple[str, dict[str, Any]]:
    body = window.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    return f"/v1/subscriptions/{subscription_id}/replay", body


def _command(subscription_id: str, window: ReplayWindow) -> str:
    said = ["subscriptions", "replay", subscription_id]
    for option, moment in (("--since", window.since), ("--until", window.until)):
        said += [option, f"{moment:%Y-%m-%dT%H:%M:%SZ}"] if moment else []
    for option, values in (
        ("--type", window.types),
        ("--owner", window.owners),
        ("--installation", window.installations),
    ):
        said += [part for value in values for part in (option, value)]
    return acts.command(*said, *(["--everything"] if window.everything else []), "--per-second", str(window.per_second))


def _progress(view: ReplayView) -> str:
    handled = view.delivered + view.failed
    said = f"{number(view.delivered)} of {words.count(view.events, 'event')} delivered"
    said += f", {number(view.failed)} given up on" if view.failed else ""
    match view.status:
        case ReplayStatus.RUNNING:
            share = f", {100 * handled // view.events} %" if view.events else ""
            return f"It is under way: {said}{share}."
        case ReplayStatus.DONE:
            return f"It is done: {said}."
        case ReplayStatus.STOPPED:
            return f"It was stopped: {said}."
        case _:
            return f"It failed, since the destination wants no more: {said}."


def _address(view: ReplayView) -> str:
    return f"/destinations/{view.subscription_id}/replays/{view.id}"


def _api(view: ReplayView) -> str:
    return f"/v1/subscriptions/{view.subscription_id}/replays/{view.id}"
