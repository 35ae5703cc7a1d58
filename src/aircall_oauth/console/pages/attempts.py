"""Install attempts: where customers stop on their way, and one of them step by step, with what to tell its admin."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BeforeValidator

from aircall_oauth.console import acts, words
from aircall_oauth.console.frame import Page, PageDep
from aircall_oauth.console.parameters import AttemptName, Text, Time
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.installations.attempts import views
from aircall_oauth.installations.attempts.recording import REFERENCE
from aircall_oauth.installations.attempts.routes import ID
from aircall_oauth.installations.attempts.views import STEPS, Funnel, InstallAttemptView
from aircall_oauth.storage.stamps import now

router = APIRouter(route_class=PageRoute)

PER_PAGE = 50
UNDER_WAY = views.UNDER_WAY
# As lists and badges write it, too.
ENDING = f"^({'|'.join([*words.ENDINGS, UNDER_WAY, UNDER_WAY.replace('_', ' ')])})$"
MOST_NAMED = 3
DAYS = {"1": "a day", "7": "a week", "30": "30 days", "90": "90 days"}


def _as_shown(text: object) -> object:
    """As a person writes a reference: by hand, from a page."""
    return text.strip().upper() if isinstance(text, str) else text


@router.get("/attempts")
async def list_attempts(
    page: PageDep,
    owner: Text = None,
    ending: Annotated[str | None, Query(pattern=ENDING)] = None,
    reference: Annotated[str | None, BeforeValidator(_as_shown), Query(pattern=REFERENCE)] = None,
    since: Time = None,
    until: Time = None,
    days: Annotated[str, Query(pattern="^(1|7|30|90)$")] = "7",
    cursor: Annotated[str | None, Query(pattern=ID)] = None,
) -> Response:
    """Where do installs stop?"""
    ending = ending and ending.replace(" ", "_")
    found = await views.list_attempts(
        page.resources,
        page.caller,
        owner=owner,
        ending=ending,
        reference=reference,
        since=since,
        until=until,
        cursor=cursor,
        limit=PER_PAGE,
    )
    counted_since = now() - timedelta(days=int(days))
    wanted = {"owner": owner, "ending": ending, "reference": reference}
    funnel = await views.funnel(page.resources, page.caller, since=counted_since, **wanted)
    is_filtered = any(value is not None for value in wanted.values())
    return page.show(
        "attempts.html",
        title="Attempts",
        sentence=_sentence(funnel, DAYS[days], is_filtered=is_filtered),
        rows=[(each, words.of_attempt(each)) for each in found.items],
        funnel=_bars(funnel),
        endings=funnel.endings | ({UNDER_WAY: funnel.under_way} if funnel.under_way else {}),
        # What is only counted has no owner and no reference.
        tallies={} if is_filtered else await _tallies(page, counted_since),
        known={"": "any"} | {each: each.replace("_", " ") for each in (*words.ENDINGS, UNDER_WAY)},
        filtered={name: value for name, value in wanted.items() if value is not None and name != "ending"},
        days=DAYS,
        chosen={"owner": owner, "ending": ending, "reference": reference, "days": days, "since": since, "until": until},
        older=page.link(cursor=found.next) if found.next else None,
        newest=page.link(cursor=None) if cursor else None,
        **_shell(page, wanted, dict(page.request.query_params)),
    )


@router.get("/attempts/{attempt}")
async def show_attempt(page: PageDep, attempt: AttemptName) -> Response:
    """How far did it come, and what do we tell the admin?"""
    view = await views.show_attempt(page.resources, page.caller, attempt)
    return page.show(
        "attempt.html",
        title=f"Attempt {view.reference}",
        sentence=words.of_attempt(view).sentence,
        view=view,
        standing=words.of_attempt(view),
        steps=_steps(view),
        shown=words.shown_to(view),
        advice=words.advice_for(view),
    )


def _shell(page: Page, wanted: dict[str, str | None], chosen: dict[str, str]) -> dict[str, Any]:
    """Return the request and the command that list the same; the command line lists from the newest on only."""
    options = {**wanted, **{name: acts.in_utc(chosen.get(name)) for name in ("since", "until")}, "limit": str(PER_PAGE)}
    query = {name: value for name, value in (options | {"cursor": chosen.get("cursor")}).items() if value}
    return {
        "curl": acts.curl(page.settings.public_url, "GET", f"/v1/install-attempts?{urlencode(query)}"),
        "command": None if "cursor" in chosen else acts.command("attempts", options=options),
    }


@dataclass(frozen=True)
class Bar:
    """A step of the funnel: how many reached it, of all that began."""

    label: str
    count: int
    share: float


def _bars(funnel: Funnel) -> list[Bar]:
    most = max(funnel.steps.values(), default=0) or 1
    return [Bar(words.STEPS[step], count, 100 * count / most) for step, count in funnel.steps.items()]


def _sentence(funnel: Funnel, span: str, *, is_filtered: bool) -> str:
    like = " like that" if is_filtered else ""
    # One without a link was neither made nor opened here: no step has them all.
    begun = max(*funnel.steps.values(), sum(funnel.endings.values()) + funnel.under_way)
    ended_well = funnel.steps["connected"]
    if not begun:
        return f"Nobody began an install{like} within {span}."
    number = (
        words.count(begun, "attempt") if begun < views.MOST_COUNTED else f"the newest {views.MOST_COUNTED:,} attempts"
    )
    said = f"{ended_well} of {number}{like} within {span} ended with a connection"
    others = _others(funnel)
    return f"{said}; of the others {', '.join(others)}." if others else f"{said}."


def _others(funnel: Funnel) -> list[str]:
    """Say what became of the attempts that ended ill or not yet, the most frequent first."""
    ill = {ending: count for ending, count in funnel.endings.items() if ending not in words.GOOD_ENDINGS}
    ranked = sorted(ill.items(), key=lambda each: -each[1])
    said = [f"{count} ended as “{ending.replace('_', ' ')}”" for ending, count in ranked[:MOST_NAMED]]
    if rest := sum(count for _, count in ranked[MOST_NAMED:]):
        said.append(f"{rest} in other ways")
    return (
        [*said, f"{funnel.under_way} {'is' if funnel.under_way == 1 else 'are'} under way"]
        if funnel.under_way
        else said
    )


async def _tallies(page: PageDep, since: datetime) -> dict[str, int]:
    """Sum up what has no row of its own, by what it was."""
    sums: dict[str, int] = {}
    for tally in await views.tallies(page.resources, since=since):
        sums[tally.what] = sums.get(tally.what, 0) + tally.count
    return sums


def _steps(view: InstallAttemptView) -> list[tuple[str, datetime | None]]:
    """Return each step with its time; a claim and a link only where there is one."""
    names = [step.removesuffix("_at") for step in STEPS]
    return [
        (words.STEPS[name], getattr(view, f"{name}_at"))
        for name in names
        if view.link_id is not None or name not in {"made", "opened"}
    ]
