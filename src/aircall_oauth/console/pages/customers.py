"""Customers: the connected, the silent, and one of them with what happened and what can be done."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from markupsafe import Markup

from aircall_oauth.access.parameters import ID
from aircall_oauth.aircall import budget
from aircall_oauth.console import acts, charts, timeline, words
from aircall_oauth.console.frame import Page, PageDep, zone_of
from aircall_oauth.console.parameters import InstallationId, Text
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.events import newest
from aircall_oauth.events.newest import Search
from aircall_oauth.events.query import Filter
from aircall_oauth.installations import views
from aircall_oauth.installations.attempts import views as attempts
from aircall_oauth.installations.outages import silence
from aircall_oauth.storage.statuses import InstallationStatus

router = APIRouter(route_class=PageRoute)

PER_PAGE = 50
RECENT = 10
SILENT = "silent"
STATUSES = {
    "": "any",
    SILENT: "silent",
    **{
        str(status): {"active": "connected", "removed": "disconnected"}.get(status, str(status))
        for status in InstallationStatus
    },
}
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@router.get("/customers")
async def list_customers(
    page: PageDep,
    q: Text = None,
    owner: Text = None,
    status: Annotated[str | None, Query(pattern=f"^({'|'.join(filter(None, STATUSES))})$")] = None,
    cursor: Annotated[str | None, Query(pattern=ID)] = None,
) -> Response:
    """List the customers, and say which are connected or silent."""
    found = await views.list_installations(
        page.resources,
        page.caller,
        owner=owner,
        search=q,
        status=InstallationStatus(status) if status and status != SILENT else None,
        silent=status == SILENT,
        cursor=cursor,
        limit=PER_PAGE,
    )
    unclaimed = [each.id for each in found.items if each.status == InstallationStatus.UNCLAIMED]
    return page.show(
        "customers.html",
        title="Customers",
        sentence=_sentence(len(found.items), found.next is not None, bool(q or owner or status)),
        rows=[(each, words.of_installation(each)) for each in found.items],
        linked=await attempts.owners_of(page.resources, page.caller, unclaimed) if unclaimed else {},
        statuses=STATUSES,
        chosen=status,
        owner=owner,
        older=page.link(cursor=found.next) if found.next else None,
        newest=page.link(cursor=None) if cursor else None,
        **_shell(page, owner, status, cursor, is_search=bool(q) or status == SILENT),
    )


def _shell(page: Page, owner: str | None, status: str | None, cursor: str | None, *, is_search: bool) -> dict[str, Any]:
    """Return the request and the command with the same filter; neither searches names, nor for who is silent."""
    if is_search:
        return {"curl": None, "command": None}
    asked = {"owner": owner, "status": status, "cursor": cursor}
    query = urlencode({name: value for name, value in asked.items() if value})
    path = f"/v1/installations?{query}" if query else "/v1/installations"
    return {
        "curl": acts.curl(page.settings.public_url, "GET", path),
        "command": None
        if cursor
        else acts.command("installations", "list", options={"owner": owner, "status": status}),
    }


@router.get("/customers/{installation_id}")
async def show_customer(page: PageDep, installation_id: InstallationId) -> Response:
    """What is with this customer?"""
    view = await views.show_installation(page.resources, page.caller, installation_id)
    recent = await newest.read_back(
        page.resources, page.caller, Search(RECENT, Filter(installations=[installation_id]))
    )
    spent, closed_seconds = await budget.spent(page.resources.database, view.company_id)
    zone = zone_of(page.request)
    return page.show(
        "customer.html",
        title=view.company_name or view.owner or f"Company {view.company_id}",
        sentence=words.of_installation(view).sentence,
        view=view,
        linked=await attempts.owners_of(page.resources, page.caller, [view.id])
        if view.status == InstallationStatus.UNCLAIMED
        else {},
        standing=words.of_installation(view),
        moments=await timeline.of_installation(page.resources, page.caller, installation_id),
        week=_week(await silence.hours_of(page.resources, installation_id), zone),
        recent=recent.events,
        acts=_acts(view.status),
        budget=_budget(spent, closed_seconds, page.settings.aircall_rate_per_minute),
        curl=acts.curl(page.settings.public_url, "GET", f"/v1/installations/{view.id}"),
        command=acts.command("installations", "show", view.id),
    )


def _sentence(found: int, more: bool, filtered: bool) -> str:
    if not found:
        return (
            "No customer is like that." if filtered else "No customer is connected yet: make an install link for one."
        )
    number = f"The first {found}" if more else words.count(found, "customer")
    if more:
        number += " customers"
    verb = "is" if number.startswith("1 ") else "are"
    return f"{number} {verb} {'like that' if filtered else 'known'}, the oldest first."


@dataclass(frozen=True)
class Offer:
    """An act that a customer's page offers."""

    path: str
    label: str
    dangerous: bool = False


def _acts(status: InstallationStatus) -> list[Offer]:
    """Return the acts that make sense for an installation of this status."""
    check, link = Offer("check", "Check now"), Offer("link", "Make an install link")
    replay = Offer("replay", "Replay a window")
    disconnect = Offer("disconnect", "Disconnect", dangerous=True)
    match status:
        case InstallationStatus.ACTIVE:
            return [
                check,
                link,
                Offer("rotate", "Rotate the webhook"),
                Offer("backfill", "Back-fill"),
                replay,
                disconnect,
            ]
        case InstallationStatus.UNAUTHORIZED:
            return [check, link, replay, disconnect]
        case InstallationStatus.UNCLAIMED:
            return [link, disconnect]
        case _:
            return [link, replay]


def _week(hours: list[datetime], zone: tzinfo) -> Markup | None:
    """Return a heat map of the last four weeks: in how many of them events came, by weekday and hour."""
    if not hours:
        return None
    counted = Counter((hour.astimezone(zone).weekday(), hour.astimezone(zone).hour) for hour in hours)
    values = [[counted[day, hour] for hour in range(24)] for day in range(7)]
    return charts.heat(DAYS, [f"{hour:02}" for hour in range(24)], values, 4, "of 4 weeks with events")


def _budget(spent: int, closed_seconds: float, allowed: int) -> str:
    if closed_seconds:
        return f"Aircall refuses more for {closed_seconds:.0f} s: its own limit was reached."
    return f"{spent} of {allowed} requests of the last minute are spent."
