"""Which install attempt a browser's request belongs to, and what is recorded of it and of its ending.

Recording is done on the way to an answer and never decides it: where the database is away, the browser goes on.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aircall_oauth.errors import (
    AircallAway,
    AppError,
    AppRefused,
    CodeRefused,
    Declined,
    LinkExpired,
    LinkInvalid,
    LinkUsed,
    PrefetchRefused,
    StateExpired,
    StateInvalid,
    TokenMixedUp,
    TryAgainLater,
)
from aircall_oauth.installations.attempts import recording
from aircall_oauth.installations.attempts.recording import Attempt
from aircall_oauth.installations.attempts.tally import Tally
from aircall_oauth.installations.oauth import links, state
from aircall_oauth.installations.oauth.flow import with_query
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from aircall_oauth.storage.vault import Vault
from aircall_oauth.telemetry import log

logger = log.get(__name__)

# How long an answer waits for what is recorded.
RECORD_SECONDS = 0.7

# Where these end a link's flow, the browser is sent home at once. The others show a page with the way there: to reload
# may help, or the browser may not be the one that began.
SENT_HOME = (
    *(LinkExpired, LinkUsed, StateExpired, Declined),
    *(CodeRefused, AppRefused, TokenMixedUp, AircallAway),
)

Result = TypeVar("Result")


def attempt_of(vault: Vault, link: str | None, sealed_state: str | None) -> Attempt | None:
    """Return the attempt of a link, or of a state; None where neither is ours."""
    try:
        if link is not None:
            opened = links.read_link(vault, link)
            return _of_link(vault, opened.id, opened.owner, opened.return_to)
        flow = state.read(vault, sealed_state or "")
    except (LinkInvalid, StateInvalid):
        return None
    if flow.link_id is not None:
        return _of_link(vault, flow.link_id, flow.owner, flow.return_to)
    return Attempt(
        recording.reference_of(vault, flow.flow_id), steps={"opened_at": recording.begun_at(flow.started_at)}
    )


def _of_link(vault: Vault, link_id: str | None, owner: str | None, return_to: str | None) -> Attempt:
    return Attempt(recording.reference_of(vault, link_id or ""), link_id, owner, return_to)


async def open_link(resources: Resources, attempt: Attempt | None, sealed: str) -> None:
    """Record that a link was opened. Raises `LinkInvalid`, `LinkExpired`, or `LinkUsed` where a flow has used it up.

    Where the database does not answer, the browser goes on: the callback judges the link again.
    """
    links.open_link(resources.vault, sealed)
    if attempt is not None and await _soon(resources, recording.open_link(resources, attempt)):
        raise LinkUsed


def way_home(settings: Settings, attempt: Attempt | None, error: AppError) -> str | None:
    """Return the address of the page that made the link, told of the ending; None where there is none to go to."""
    if attempt is None or attempt.link_id is None or isinstance(error, PrefetchRefused):
        return None
    if attempt.return_to is None or not settings.may_return_to(attempt.return_to):
        return None
    return with_query(attempt.return_to, {"error": error.code(), "attempt": attempt.reference})


async def record(resources: Resources, tally: Tally, attempt: Attempt | None, error: AppError, shown: str) -> bool:
    """Record a bad ending, or count it. Returns whether the attempt has a row, as far as is known."""
    if isinstance(error, TryAgainLater):
        return False  # it is the database that is away
    return bool(await _soon(resources, tally.fail(attempt, error.code(), f"{shown}:{error.code()}")))


async def note_shown(resources: Resources, attempt: Attempt, shown: str) -> None:
    """Record where a flow that ended well sent its browser."""
    await _soon(resources, recording.show(resources, attempt, shown))


def shown_well(way_home: str | None, success_url: str | None) -> str:
    """Return the word for where a flow that ended well sends its browser."""
    if way_home is not None:
        return "return_to:claim"
    return "success_url" if success_url else "page:connected"


async def _soon(resources: Resources, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Do something of little weight, and go on without it where it takes long or fails."""
    task = resources.go_on(work)
    await asyncio.wait({task}, timeout=RECORD_SECONDS)
    if not task.done() or task.cancelled() or task.exception() is not None:
        return None
    return task.result()
