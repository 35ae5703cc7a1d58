"""The replay wizard: a window of the log, counted first, then delivered once more to one destination."""

import re
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from aircall_oauth.access.faults import faults
from aircall_oauth.console import acts, delivery_words, words
from aircall_oauth.console.acts import Act
from aircall_oauth.console.charts import number
from aircall_oauth.console.frame import ActingPage, Form, Page, PageDep, guarded
from aircall_oauth.console.pages.destinations import SubscriptionId
from aircall_oauth.console.parameters import moment_of
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.deliveries import views
from aircall_oauth.deliveries.replays import jobs
from aircall_oauth.deliveries.replays.bodies import ReplayWindow
from aircall_oauth.deliveries.replays.jobs import ReplayPreview, ReplayView
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.errors import InvalidRequest, PositionGone
from aircall_oauth.storage.models.deliveries import Health, ReplayStatus, SubscriptionStatus

router = APIRouter(route_class=PageRoute)

LISTS = ("types", "owners", "installations")
TIMES = ("since", "until")
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
    """Ask for a window and, once there is one, count what it holds: nothing is sent yet."""
    preview, problem = None, None
    if asked:
        try:
            window = window_of(asked)
            preview = await jobs.preview(page.resources, page.caller, subscription_id, window.window, window.wanted)
        except (InvalidRequest, PositionGone) as error:
            problem = error.detail
    return await _wizard(page, subscription_id, asked, preview, problem)


@router.post("/destinations/{subscription_id}/replay")
async def start(page: ActingPage, subscription_id: SubscriptionId, form: Form) -> Response:
    """Start a replay, and go to the page that shows how far it is."""
    try:
        window = window_of(form)
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
        return await _wizard(page, subscription_id, dict(form), None, error.detail)
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


def window_of(asked: Any) -> ReplayWindow:
    """Return the API's body for what was filled in; raises `InvalidRequest`."""
    try:
        body: dict[str, Any] = {name: moment_of(asked[name]).isoformat() for name in TIMES if name in asked}
        body |= {name: _parts(name, asked[name]) for name in LISTS if name in asked}
        body["everything"] = not any(body.get(name) for name in LISTS)
        if "per_second" in asked:
            body["per_second"] = int(asked["per_second"])
        return ReplayWindow.model_validate(body)
    except ValidationError as error:
        raise InvalidRequest(faults(error.errors(), ReplayWindow.model_fields)) from None
    except ValueError:
        raise InvalidRequest("Times are such as 2026-01-31T08:00, and the pace is a whole number.") from None


def _parts(name: str, text: str) -> list[str]:
    """Return the entries of a list. An owner's name may hold commas and spaces, the others none."""
    return [part.strip() for part in re.split(r"[\r\n]+" if name == "owners" else r"[\s,]+", text) if part.strip()]


async def _wizard(
    page: Page, subscription_id: str, asked: dict[str, str], preview: ReplayPreview | None, problem: str | None
) -> Response:
    view = await views.show(page.resources, page.caller, subscription_id)
    window = None if preview is None else window_of(asked)
    return page.show(
        "replay_plan.html",
        title=f"Replay a window for {view.name}",
        sentence="This delivers events of a window once more, beside what comes in; they are counted first."
        if window is None or preview is None
        else _counted(preview, window),
        status=422 if problem else 200,
        view=view,
        asked=asked,
        preview=preview,
        form_token=page.form_token,
        waits=_waits(view),
        problem=problem,
        curl=None if window is None else acts.curl(page.settings.public_url, "POST", *_body(view.id, window)),
        command=None if window is None else _command(view.id, window),
    )


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


def _counted(preview: ReplayPreview, window: ReplayWindow) -> str:
    if not preview.events:
        return "No event of this window is wanted by both the destination and this replay: nothing would be sent."
    takes = timedelta(seconds=preview.events / window.per_second)
    return (
        f"{words.count(preview.events, 'event')} of {words.count(preview.customers, 'customer')} would be delivered "
        f"once more, in {delivery_words.brief(takes)} or more."
    )


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
