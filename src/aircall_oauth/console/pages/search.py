"""The search box: one address for ids of every kind, owners, companies, calls and attempts."""

import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from aircall_oauth.access import audit_lines
from aircall_oauth.console import words
from aircall_oauth.console.frame import NAVIGATION, PageDep, guarded
from aircall_oauth.console.parameters import Text
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.deliveries import views as subscriptions
from aircall_oauth.errors import InstallAttemptNotFound
from aircall_oauth.events import newest
from aircall_oauth.installations import views
from aircall_oauth.installations.attempts import views as attempts
from aircall_oauth.installations.attempts.recording import REFERENCE
from aircall_oauth.storage.stamps import now

router = APIRouter(route_class=PageRoute)

MOST = 20
# The box completes from so many characters on, with so many lines.
LEAST, MOST_SUGGESTED = 2, 8
OWNER = "Owner of attempts"
HEX = "[0-9a-f]{32}"
# What says by itself what it is, and the page that shows it.
PLACES = {
    rf"ins_{HEX}": "/customers/{}",
    rf"evt_{HEX}": "/events/{}",
    rf"sub_{HEX}": "/destinations/{}",
    rf"att_{HEX}": "/attempts/{}",
    rf"key_{HEX}": "/audit?actor={}",
    r"req_[!-~]{1,124}": "/audit?request_id={}",
}
CALL = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class Found:
    """Something that the search found: what kind of thing, its name, and its page."""

    kind: str
    name: str
    address: str
    more: str = ""


@router.get("/search")
async def search(page: PageDep, q: Text = None) -> Response:
    """What is this?"""
    wanted = (q or "").strip()
    if not wanted:
        return guarded(RedirectResponse("/", 303))
    if place := _place(wanted):
        return guarded(RedirectResponse(place, 303))
    found = await _named(page, wanted, MOST)
    # What one owner did to install leads to its attempts, which say more than the audit.
    if [each.kind for each in found] != [OWNER]:
        found += await _audited(page, wanted)
    if len(found) == 1:
        return guarded(RedirectResponse(found[0].address, 303))
    return page.show(
        "search.html",
        title="Search",
        sentence=f"{words.count(len(found), 'thing')} {'is' if len(found) == 1 else 'are'} called “{wanted}”."
        if found
        else f"Nothing is called “{wanted}”: no id, owner, company, call, attempt or destination.",
        found=found,
    )


@router.get("/search/suggestions")
async def suggestions(page: PageDep, q: Text = None) -> Response:
    """Complete what stands in the search box: a fragment, for those who have scripts on."""
    wanted = (q or "").strip()
    found = await _named(page, wanted, MOST_SUGGESTED) if len(wanted) >= LEAST and not _place(wanted) else []
    named = {each.name: f"{each.kind}{', ' if each.more else ''}{each.more}" for each in found}
    return page.show("suggestions.html", title="Search", sentence="", named=list(named.items())[:MOST_SUGGESTED])


async def _named(page: PageDep, wanted: str, most: int) -> list[Found]:
    """Return what is called so, or begins so, of each kind."""
    return [
        *await _customers(page, wanted, most),
        *await _owners(page, wanted, most),
        *await _attempts(page, wanted),
        *await _destinations(page, wanted, most),
        *await _calls(page, wanted),
    ]


def _place(wanted: str) -> str | None:
    """Return the page of what an id names, if there is such a page."""
    for form, address in PLACES.items():
        if re.fullmatch(form, wanted) and f"/{address.split('/')[1].partition('?')[0]}" in NAVIGATION:
            return address.format(quote(wanted, safe=""))
    return None


async def _customers(page: PageDep, wanted: str, most: int) -> list[Found]:
    found = await views.list_installations(page.resources, page.caller, search=wanted, limit=most)
    return [
        Found(
            "Customer",
            each.company_name or f"Company {each.company_id}",
            f"/customers/{each.id}",
            f"{words.of_installation(each, now()).word}, owner {each.owner or 'none'}",
        )
        for each in found.items
    ]


async def _owners(page: PageDep, wanted: str, most: int) -> list[Found]:
    """Return the owners of attempts that are written so, or begin so."""
    found = await attempts.owners_like(page.resources, page.caller, wanted, limit=most)
    return [
        Found(OWNER, owner, f"/attempts?{urlencode({'owner': owner})}", words.count(count, "attempt") if count else "")
        for owner, count in found.items()
    ]


async def _destinations(page: PageDep, wanted: str, most: int) -> list[Found]:
    found = await subscriptions.named_like(page.resources, page.caller, wanted, limit=most)
    return [Found("Destination", name, f"/destinations/{id_}") for id_, name in found.items()]


async def _attempts(page: PageDep, wanted: str) -> list[Found]:
    if not re.fullmatch(REFERENCE, wanted.upper()):
        return []
    try:
        each = await attempts.show_attempt(page.resources, page.caller, wanted.upper())
    except InstallAttemptNotFound:
        return []
    return [Found("Attempt", each.reference, f"/attempts/{each.reference}", words.of_attempt(each).word)]


async def _calls(page: PageDep, wanted: str) -> list[Found]:
    """Offer the page of a call that the log has: other digits may be a phone number.

    64-bit ids stay exact, since they are never numbers here.
    """
    if not CALL.fullmatch(wanted) or not await newest.has_subject(page.resources, f"call:{wanted}"):
        return []
    return [Found("Call", wanted, f"/calls/{wanted}", "everything with this call id")]


async def _audited(page: PageDep, wanted: str) -> list[Found]:
    """Offer the audit of an actor, an owner, or a request whose id the caller chose."""
    kinds = (
        ("Person or key in the audit", "actor"),
        ("Owner in the audit", "owner"),
        ("Request in the audit", "request_id"),
    )
    held = await audit_lines.holds(page.resources, wanted)
    return [
        Found(kind, wanted, f"/audit?{name}={quote(wanted, safe='')}")
        for (kind, name), is_held in zip(kinds, held, strict=True)
        if is_held
    ]
