"""The log of events, newest first, and what follows it live."""

from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Response

from aircall_oauth.access.parameters import ID
from aircall_oauth.console import acts, words
from aircall_oauth.console.frame import Page, PageDep
from aircall_oauth.console.parameters import Text, Time
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.errors import PositionGone, PositionUnknown
from aircall_oauth.events import feed, newest
from aircall_oauth.events.feed import MOST_BYTES, Wanted
from aircall_oauth.events.newest import Search
from aircall_oauth.events.query import Filter
from aircall_oauth.events.routes import LAST_POSITION, filters, span
from aircall_oauth.events.spans import Span
from aircall_oauth.storage.stamps import now

router = APIRouter(route_class=PageRoute)

PER_PAGE = 50
# A page is searched for so long, and no further back than so many positions where no index helps.
MOST_SECONDS = 0.15
MOST_SEARCHED = 200_000
# The events of an owner with no more customers than these are read along their index.
MOST_CUSTOMERS = 100
OFF, FORMER = "off", "too"

Position = Annotated[int | None, Query(ge=0, le=LAST_POSITION)]


async def asked(
    type_: Annotated[str, Query(alias="type", pattern=r"^[ -~]{1,2000}$")] = "",
    installation_id: Annotated[str | None, Query(pattern=ID)] = None,
    owner: Text = None,
    subject: Annotated[str | None, Query(pattern=r"^[!-~]{1,255}:[!-~]{1,64}$")] = None,
    call_id: Annotated[int | None, Query(ge=0, le=LAST_POSITION)] = None,
    since: Time = None,
    until: Time = None,
) -> tuple[Filter, Span]:
    """Read the filter from the address, as the API's endpoint does; several types are separated by commas."""
    wanted = filters(type_.replace(" ", "").split(","), installation_id, None, owner)
    return wanted, span(since, until, None, None, subject, call_id)


Asked = Annotated[tuple[Filter, Span], Depends(asked)]


@router.get("/events")
async def list_events(
    page: PageDep,
    wanted: Asked,
    before: Position = None,
    live: Annotated[str | None, Query(pattern=f"^{OFF}$")] = None,
    former: Annotated[str | None, Query(pattern=f"^{FORMER}$")] = None,
) -> Response:
    """What came in?"""
    head = await newest.head(page.resources)
    search = Search(PER_PAGE, *wanted, before, MOST_SECONDS, MOST_SEARCHED)
    search, of_now = (search, False) if former else await _of_customers(page, search)
    found = await newest.read_back(page.resources, page.caller, search)
    is_cut = found.more and len(found.events) < PER_PAGE
    read_to = max([head, *(event.position for event in found.events)])
    is_first = before is None and wanted[1].until is None
    chosen = dict(page.request.query_params)
    return page.show(
        "events.html",
        title="Events",
        sentence=_sentence(page, len(found.events), found.more, before),
        searched_since=await newest.received_from(page.resources, found.next) if is_cut else None,
        former=page.link(former=FORMER, before=None) if of_now else None,
        owner=search.filter.owners[0] if of_now else None,
        events=found.events,
        chosen=chosen,
        most=PER_PAGE,
        follows=_tail(page, read_to) if is_first and live is None else None,
        read_at=now(),
        is_first=is_first,
        here=page.link(live=None),
        still=page.link(live=OFF),
        older=page.link(before=found.next, live=None) if found.more else None,
        newest=page.link(before=None) if before is not None else None,
        curl=acts.curl(page.settings.public_url, "GET", _api_path(chosen)),
        command=_command(chosen),
    )


async def _of_customers(page: Page, search: Search) -> tuple[Search, bool]:
    """Return a search for one owner's events as one of the customers that the owner has now, if there are any."""
    owners, asked_for = search.filter.owners, search.filter.installations
    if len(owners) != 1 or asked_for:
        return search, False
    found = await newest.customers_of(page.resources, owners[0], most=MOST_CUSTOMERS)
    return (replace(search, filter=replace(search.filter, installations=found)), True) if found else (search, False)


@router.get("/events/tail")
async def tail(page: PageDep, wanted: Asked, after: Annotated[int, Query(ge=0, le=LAST_POSITION)]) -> Response:
    """Answer what has come in past a position, for the page that follows the log: a fragment."""
    lost = False
    try:
        asked_for = Wanted(after, PER_PAGE, wanted[0], None, wanted[1])
        found = await feed.read_page(page.resources, page.caller, asked_for, most_bytes=MOST_BYTES)
    except (PositionUnknown, PositionGone):
        lost = True
    return page.show(
        "events_tail.html",
        title="Events",
        sentence="",
        events=[] if lost else list(reversed(found.events)),
        follows=None if lost else _tail(page, found.next),
        read_at=now(),
        is_first=True,
        here=_page_link(page),
        still=_page_link(page, live=OFF),
    )


def _tail(page: Page, after: int) -> str:
    """Return the address of what comes past a position, with the page's filter."""
    return _page_link(page, path="/events/tail", after=str(after))


def _page_link(page: Page, path: str = "/events", **more: str) -> str:
    left_out = {"after", "live", "before", "former"}
    kept = {name: value for name, value in page.request.query_params.items() if name not in left_out}
    return f"{path}?{urlencode(kept | more)}" if kept or more else path


def _api_path(chosen: dict[str, str]) -> str:
    """Return the API's request with the same filter, its times written out."""
    kept = {name: value for name, value in chosen.items() if name not in {"live", "former"}}
    times = {name: acts.in_utc(kept.get(name)) for name in ("since", "until")}
    types = [("type", each) for each in _types(kept.pop("type", ""))]
    given = {"order": "desc", "limit": PER_PAGE} | kept | {name: at for name, at in times.items() if at}
    return f"/v1/events?{urlencode([*given.items(), *types])}"


def _command(chosen: dict[str, str]) -> str | None:
    """Return the command with the same filter; the command line lists from the newest on only."""
    if "before" in chosen:
        return None
    types = [part for each in _types(chosen.get("type", "")) for part in ("--type", each)]
    names = {"call-id": "call_id", "subject": "subject", "owner": "owner", "installation-id": "installation_id"}
    options = {option: chosen.get(name) for option, name in names.items()}
    times = {name: acts.in_utc(chosen.get(name)) for name in ("since", "until")}
    return acts.command("events", "list", *types, options={**options, **times, "limit": str(PER_PAGE)})


def _types(text: str) -> list[str]:
    return [each for each in text.replace(" ", "").split(",") if each]


def _sentence(page: Page, found: int, more: bool, before: int | None) -> str:
    filtered = bool(set(page.request.query_params) - {"before", "live", "former"})
    like = " like that" if filtered else ""
    if more and found < PER_PAGE:
        some = words.count(found, "event") if found else "No event"
        return f"{some}{like} down to here: the log goes on, look further back."
    if not found:
        return f"The log has no event{like}." if before is None else f"The log has no older event{like}."
    if more:
        return f"The {'newest' if before is None else 'next'} {words.count(found, 'event')}{like}; older ones follow."
    return f"{words.count(found, 'event')}{like}, the newest first; there {'is' if found == 1 else 'are'} no more."
