"""The audit: who did what, when, from where; the same as CSV."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import PlainTextResponse

from aircall_oauth.access import audit_lines
from aircall_oauth.access.audit import Action
from aircall_oauth.access.audit_lines import CURSOR, Asked
from aircall_oauth.access.parameters import ID
from aircall_oauth.console import acts, words
from aircall_oauth.console.frame import Page, PageDep, guarded
from aircall_oauth.console.parameters import Text, Time
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.errors import InvalidRequest

router = APIRouter(route_class=PageRoute)

PER_PAGE = 50
MOST_OF_CSV = 10_000
GROUPS = sorted({action.partition(".")[0] for action in Action})
ACTIONS = {
    "": "any",
    **{f"{group}.*": f"{group.replace('_', ' ')}: all" for group in GROUPS},
    **{str(action): str(action) for action in Action},
}


async def asked(
    action: Annotated[str | None, Query(pattern=r"^[!-~]{1,64}$")] = None,
    actor: Text = None,
    installation_id: Annotated[str | None, Query(pattern=ID)] = None,
    owner: Text = None,
    subscription_id: Annotated[str | None, Query(pattern=r"^sub_[0-9a-f]{32}$")] = None,
    request_id: Annotated[str | None, Query(pattern=r"^[!-~]{1,128}$")] = None,
    since: Time = None,
    until: Time = None,
    cursor: Annotated[str | None, Query(pattern=CURSOR)] = None,
) -> Asked:
    """Read the filter from the address; raises `InvalidRequest` for an action that there is not."""
    try:
        actions = audit_lines.actions_of([action]) if action else []
    except ValueError as error:
        raise InvalidRequest(f"query.action: {error}") from None
    return Asked(actions, actor, installation_id, owner, subscription_id, request_id, since, until, cursor)


Wanted = Annotated[Asked, Depends(asked)]


@router.get("/audit")
async def show_audit(page: PageDep, wanted: Wanted) -> Response:
    """Who did what?"""
    found = await audit_lines.page(page.resources, page.caller, wanted, limit=PER_PAGE)
    return page.show(
        "audit.html",
        title="Audit",
        sentence=_sentence(len(found.items), found.next is not None),
        lines=found.items,
        kind_of=audit_lines.kind_of,
        name_of=audit_lines.name_of,
        chosen=dict(page.request.query_params),
        actions=ACTIONS,
        csv=page.link(cursor=None).replace("/audit", "/audit.csv", 1),
        older=page.link(cursor=found.next) if found.next else None,
        newest=page.link(cursor=None) if wanted.cursor else None,
        **_shell(page, dict(page.request.query_params)),
    )


@router.get("/audit.csv")
async def download_audit(page: PageDep, wanted: Wanted) -> Response:
    """Answer the newest lines as CSV."""
    lines = await audit_lines.newest(page.resources, page.caller, wanted, limit=MOST_OF_CSV)
    headers = {"content-disposition": 'attachment; filename="audit.csv"'}
    return guarded(PlainTextResponse(audit_lines.as_csv(lines), media_type="text/csv", headers=headers))


def _shell(page: Page, chosen: dict[str, str]) -> dict[str, Any]:
    """Return the request and the command with the same filter; the command line has the newest lines only."""
    times = {name: acts.in_utc(chosen.get(name)) for name in ("since", "until")}
    query = {"limit": str(PER_PAGE)} | chosen | {name: at for name, at in times.items() if at}
    options = {
        "action": chosen.get("action"),
        "actor": chosen.get("actor"),
        "installation": chosen.get("installation_id"),
        "owner": chosen.get("owner"),
        "subscription": chosen.get("subscription_id"),
        "request-id": chosen.get("request_id"),
        **times,
        "limit": str(PER_PAGE),
    }
    return {
        "curl": acts.curl(page.settings.public_url, "GET", f"/v1/audit?{urlencode(query)}"),
        "command": None if "cursor" in chosen else acts.command("audit", options=options),
    }


def _sentence(found: int, more: bool) -> str:
    if not found:
        return "Nothing like that was done, as far as the audit goes back."
    if more:
        return f"The newest {found} lines of what people and systems did; older ones follow."
    return f"{words.count(found, 'line')} of what people and systems did, the newest first."
