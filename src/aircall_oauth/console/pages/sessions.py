"""Who is signed in, and ending a session."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from aircall_oauth.console import acts, sessions
from aircall_oauth.console.acts import Act
from aircall_oauth.console.frame import ActingPage, PageDep
from aircall_oauth.console.routing import PageRoute
from aircall_oauth.errors import NotFound

router = APIRouter(route_class=PageRoute)

SessionId = Annotated[str, Path(pattern=r"^cse_[0-9a-f]{32}$")]


@router.get("/sessions")
async def list_sessions(page: PageDep) -> Response:
    """Who is signed in?"""
    found = await sessions.list_all(page.resources)
    people = len({session.actor for session in found})
    return page.show(
        "sessions.html",
        title="Signed in",
        sentence=f"{_count(people, 'person')} signed in, with {_count(len(found), 'session')}."
        if found
        else "Nobody has a session; people who come through the proxy need none.",
        sessions=found,
    )


@router.get("/sessions/{session_id}/revoke")
async def ask_revoke(page: PageDep, session_id: SessionId) -> Response:
    """Ask before a session is ended."""
    found = [each for each in await sessions.list_all(page.resources) if each.id == session_id]
    if not found:
        raise NotFound("This session is over.")
    return page.ask(
        Act(
            title="End a session",
            sentence=f"This ends the session of {found[0].person} at once.",
            effects=["The next request of that browser is asked to sign in again.", "The audit notes it."],
            button="End this session",
            back="/sessions",
            command=acts.command("console", "revoke", session_id),
            dangerous=True,
        )
    )


@router.post("/sessions/{session_id}/revoke")
async def revoke(page: ActingPage, session_id: SessionId) -> Response:
    """End a session."""
    if not await sessions.revoke(page.resources, session_id, who=page.who):
        raise NotFound("This session is over.")
    return page.done("Session ended", "The session is over.", back="/sessions")


def _count(number: int, noun: str) -> str:
    plural = {"person": "people"}.get(noun, f"{noun}s")
    return f"{number} {noun if number == 1 else plural}"
