"""Destinations: how each does, in words, and one of them with its plots, failures and what waits."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from aircall_oauth.console import acts, delivery_words, plots, words
from aircall_oauth.console.frame import PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.console.visitors import TO_DISCLOSE, Visitor
from aircall_oauth.console.words import Standing
from aircall_oauth.deliveries import filters, troubled, views
from aircall_oauth.deliveries.replays import jobs
from aircall_oauth.deliveries.views import SubscriptionView
from aircall_oauth.events.routes import LAST_POSITION
from aircall_oauth.storage.statuses import SubscriptionKind, SubscriptionStatus

router = APIRouter(route_class=PageRoute)

PER_PAGE = 50
FAILURES, PARKED, DEAD, REPLAYS = 10, 20, 20, 10
SUBSCRIPTION = r"^sub_[0-9a-f]{32}$"

SubscriptionId = Annotated[str, Path(pattern=SUBSCRIPTION)]


@router.get("/destinations")
async def list_destinations(
    page: PageDep, cursor: Annotated[str | None, Query(pattern=SUBSCRIPTION)] = None
) -> Response:
    """Which destinations take their events?"""
    found = await views.list_all(page.resources, page.caller, cursor=cursor, limit=PER_PAGE)
    lately = await troubled.lately(page.resources, [each.id for each in found.items])
    rows = [(each, delivery_words.of_destination(each, lately=lately.get(each.id))) for each in found.items]
    return page.show(
        "destinations.html",
        title="Destinations",
        sentence=_sentence(rows, found.next is not None or cursor is not None),
        rows=rows,
        oldest={each.id: _oldest(each) for each in found.items},
        is_new=delivery_words.is_new,
        waits=delivery_words.waits,
        wanted=delivery_words.wanted,
        older=page.link(cursor=found.next) if found.next else None,
        newest=page.link(cursor=None) if cursor else None,
        curl=acts.curl(page.settings.public_url, "GET", "/v1/subscriptions"),
        command=acts.command("subscriptions", "list"),
    )


@router.get("/destinations/{subscription_id}")
async def show_destination(
    page: PageDep,
    subscription_id: SubscriptionId,
    dead_after: Annotated[int | None, Query(ge=0, le=LAST_POSITION)] = None,
) -> Response:
    """How does this destination do?"""
    resources, caller = page.resources, page.caller
    view = await views.show(resources, caller, subscription_id)
    lately = await troubled.lately(resources, [view.id])
    standing = delivery_words.of_destination(view, lately=lately.get(view.id))
    dead = await views.list_dead(resources, caller, subscription_id, cursor=dead_after, limit=DEAD)
    replays = await jobs.list_of(resources, caller, subscription_id, cursor=None, limit=REPLAYS)
    failures = await views.list_failures(resources, caller, subscription_id, limit=FAILURES)
    return page.show(
        "destination.html",
        title=view.name,
        sentence=standing.sentence,
        standing=standing,
        view=view,
        oldest=_oldest(view),
        waits=delivery_words.waits(view),
        wanted=delivery_words.wanted(view),
        is_new=delivery_words.is_new(view),
        warnings=[each.detail for each in await filters.warnings(resources, caller, view.types)],
        acts=_acts(view, page.visitor),
        charts=await plots.of_destination(resources, subscription_id, view.created_at),
        failures=[(each, delivery_words.outcome(each.outcome)) for each in failures],
        parked=[
            (each, delivery_words.outcome(each.reason))
            for each in await views.list_parked(resources, caller, subscription_id, limit=PARKED)
        ],
        dead=[(each, delivery_words.outcome(each.reason)) for each in dead.items],
        more_dead=page.link(dead_after=dead.next) if dead.next else None,
        replays=replays.items,
        curl=acts.curl(page.settings.public_url, "GET", f"/v1/subscriptions/{view.id}"),
        command=acts.command("subscriptions", "show", view.id),
    )


def _sentence(rows: list[tuple[SubscriptionView, Standing]], is_part: bool) -> str:
    if not rows:
        return "There is no destination: make one, and events go to it."
    troubled = [each.name for each, standing in rows if standing.tone in {"bad", "warn"}]
    of = f"{words.count(len(rows), 'destination')}{' on this page' if is_part else ''}"
    if not troubled:
        return f"{of}: {'it takes' if len(rows) == 1 else 'each takes'} what it wants."
    said = troubled[0] + (f" and {len(troubled) - 1} more" if len(troubled) > 1 else "")
    return f"Of {of}, {len(troubled)} {'needs' if len(troubled) == 1 else 'need'} a look: {said}."


def _oldest(view: SubscriptionView) -> str | None:
    """Return how long the oldest event that it has not got has been waiting."""
    seconds = view.oldest_undelivered_seconds
    return None if seconds is None else delivery_words.brief(timedelta(seconds=seconds))


def _acts(view: SubscriptionView, visitor: Visitor) -> list[tuple[str, str]]:
    """Return what the visitor can do with a destination: the act's path, and its name."""
    if not visitor.acts:
        return []
    active = view.status == SubscriptionStatus.ACTIVE
    offered = [("test", "Send a sample"), ("pause", "Pause") if active else ("resume", "Resume")]
    if active and view.next_probe_at is not None:
        offered.append(("resume", "Try again now"))
    offered += [("replay", "Replay a window"), ("edit", "Edit")]
    if view.kind == SubscriptionKind.HTTP and visitor.refusal(TO_DISCLOSE) is None:
        offered.append(("rotate-secret", "Rotate the secret"))
    return [*offered, ("delete", "Delete")]
