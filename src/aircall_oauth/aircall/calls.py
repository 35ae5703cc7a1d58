"""Phone calls as Aircall lists them: the few fields that we use, and each call's exact text.

`GET /calls` with `from` and `to` (UNIX seconds of a call's start) lists 10,000 calls at most, 50 on a page
(developer.aircall.io/api-references, Calls, read August 2026).
"""

import hashlib
import re
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from aircall_oauth.errors import AircallUnavailable

ENDED = "call.ended"
RESOURCE = "call"
PER_PAGE = 50
MOST_LISTED = 10_000
HALF_AN_EMOJI = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class ListedCall(msgspec.Struct, frozen=True):
    """A listed call. `ended_at` is None while it goes on, `number_id` where Aircall names no number with an id."""

    id: str
    ended_at: datetime | None
    number_id: int | None
    text: str


class CallPage(msgspec.Struct, frozen=True):
    """One page of a list: its calls, the number of calls in the whole list, and whether there are more pages."""

    calls: list[ListedCall]
    total: int
    more: bool


class _Named(msgspec.Struct):
    id: int | str


class _Call(_Named):
    ended_at: Any = None
    number: Any = None


class _Meta(msgspec.Struct):
    total: int = 0
    next_page_link: str | None = None


class _Page(msgspec.Struct):
    calls: list[msgspec.Raw]
    meta: _Meta = msgspec.field(default_factory=_Meta)


Named = TypeVar("Named", bound=_Named)
_page = msgspec.json.Decoder(_Page)
_call = msgspec.json.Decoder(_Call)
_named = msgspec.json.Decoder(_Named)


def read_page(body: bytes) -> CallPage:
    """Read an answer of `GET /calls`, without calls that have no id; raises `AircallUnavailable` for another body."""
    try:
        text = body.decode()
        readable = _readable(text)
        msgspec.json.decode(readable)
        page = _page.decode(readable)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        raise AircallUnavailable("the answer is not a list of calls") from None
    calls, place = [], 0
    for raw in page.calls:
        # The readable text is as long as the one that was sent, so a call stands at the same place in both.
        found = str(memoryview(raw), "utf-8")
        place = readable.index(found, place)
        call = _read(_call, found)
        if call is not None:
            sent = text[place : place + len(found)]
            calls.append(ListedCall(str(call.id), _moment(call.ended_at), _number_id(call.number), sent))
        place += len(found)
    return CallPage(calls, page.meta.total, page.meta.next_page_link is not None)


def id_of(data: str) -> int | str | None:
    """Return the `id` in an event's `data`; None where there is none."""
    named = _read(_named, data)
    return None if named is None else named.id


def key(call_id: int | str) -> bytes:
    """Return the key of a call's end: the same for its event and for its back-filled twin, within an installation."""
    return hashlib.sha256(f"{ENDED}\0{call_id}".encode()).digest()


def _read(decoder: msgspec.json.Decoder[Named], data: str) -> Named | None:
    try:
        return decoder.decode(_readable(data))
    except (UnicodeError, msgspec.MsgspecError, RecursionError):
        return None


def _readable(text: str) -> str:
    """Replace half surrogate pairs, which JavaScript writes for a cut emoji and msgspec refuses. Keeps the length."""
    return HALF_AN_EMOJI.sub(r"\\ufffd", text)


def _moment(seconds: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _number_id(number: Any) -> int | None:
    id_ = number.get("id") if isinstance(number, dict) else None
    return id_ if isinstance(id_, int) else None
