"""Each form of the console acts once: a second click, a reload, a button pressed again get what came of the first.

What is sent is claimed before it is done, by the form's own token and what was filled in. What came of it is kept as
long as the token works. What makes something with an id or a secret of the form's own (`Page.once`) is done again
instead: it finds what was made, and shows it, secret too, which is not kept.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from fastapi import Response

from aircall_oauth.console import once
from aircall_oauth.console.acts import WAS, Act, Field
from aircall_oauth.console.frame import Page
from aircall_oauth.errors import InvalidRequest, ReadOnly
from aircall_oauth.resources import Resources

# Where forms are asked for by a page that counts first what they send.
COUNTED_FIRST = "/replay"
KEPT = timedelta(seconds=once.WORKS_SECONDS, minutes=1)
# Longer than an act takes that asks Aircall, or a destination, and waits for the answer.
WAITS_SECONDS, LOOKS_EVERY_SECONDS = 20.0, 0.1
CLAIM = """
    INSERT INTO console_form (fingerprint, begun_at, expires_at) VALUES ($1, now(), now() + $2::interval)
    ON CONFLICT DO NOTHING RETURNING true
"""
FOUND = "SELECT begun_at, answer::text AS answer FROM console_form WHERE fingerprint = $1"
END = "UPDATE console_form SET answer = $2::text::jsonb WHERE fingerprint = $1"
LET_GO = "DELETE FROM console_form WHERE fingerprint = $1"
AGAIN: dict[str, Any] = {}  # kept of what is done again


async def act(page: Page, do: Callable[[], Awaitable[Response]]) -> Response:
    """Do what a form asks for, unless it was done; raises `ReadOnly`. A form without its token is asked for again."""
    if not page.visitor.acts:
        raise ReadOnly
    try:
        claimed = page.read_form()
    except InvalidRequest as error:
        return _ask_again(page, error)
    deadline = asyncio.get_running_loop().time() + WAITS_SECONDS
    while not await _claim(page.resources, claimed):
        begun_at, answer = await _found(page.resources, claimed)
        if answer == AGAIN:
            return await do()
        if answer is not None:
            return page.done(**answer, again=True)
        if asyncio.get_running_loop().time() > deadline:
            return _under_way(page, begun_at)
        await asyncio.sleep(LOOKS_EVERY_SECONDS)
    return await _done(page, claimed, do)


async def _done(page: Page, claimed: bytes, do: Callable[[], Awaitable[Response]]) -> Response:
    """Do it, and keep what came of it; what was refused may be sent again."""
    answer = None
    try:
        response = await do()
        if response.status_code < 400:
            answer = AGAIN if page.makes else page.told
        return response
    finally:
        async with page.resources.database.driver_connection() as connection:
            if answer is None:
                await connection.execute(LET_GO, claimed)
            else:
                await connection.execute(END, claimed, json.dumps(answer))


async def _claim(resources: Resources, fingerprint: bytes) -> bool:
    async with resources.database.driver_connection() as connection:
        return await connection.fetchval(CLAIM, fingerprint, KEPT) is not None


async def _found(resources: Resources, fingerprint: bytes) -> tuple[datetime | None, dict[str, Any] | None]:
    """Return when it was begun, and what came of it; None if it is not known, or was refused meanwhile."""
    async with resources.database.driver_connection() as connection:
        row = await connection.fetchrow(FOUND, fingerprint)
    if row is None:
        return None, None
    return row["begun_at"], None if row["answer"] is None else json.loads(row["answer"])


def _ask_again(page: Page, error: InvalidRequest) -> Response:
    """Refuse a form without a token that works, and offer to send what was filled in: or first to count it again."""
    path = page.request.url.path
    counts = path.endswith(COUNTED_FIRST)
    return page.ask(
        Act(
            title="Nothing was done",
            sentence="What was sent is below. Check it and send it, or go back to the page that asks for it.",
            button="Send it",
            back=f"{path}?{urlencode(page.form)}" if counts else path,
            why_not="It is counted before it is sent: go back to the page that counts it." if counts else None,
            fields=[
                Field(name, name.replace("_", " ").capitalize(), _kind(name, value), value)
                for name, value in page.form.items()
            ],
        ),
        wrong=error,
    )


def _kind(name: str, value: str) -> str:
    return "hidden" if name == WAS else "textarea" if "\n" in value else "text"


def _under_way(page: Page, begun_at: datetime | None) -> Response:
    since = f" at {begun_at:%H:%M:%S} UTC" if begun_at else ""
    return page.done(
        "It was begun already",
        f"This was sent before{since}, and what came of it is not known yet.",
        back=page.request.url.path,
        facts=["It is not done a second time. See what has changed, then open its page again if it is still wanted."],
        status=409,
    )
