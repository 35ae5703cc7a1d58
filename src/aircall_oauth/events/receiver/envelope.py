"""Reads what Aircall sends: an envelope of four fields around `data`, which is kept byte for byte.

`{"resource", "event", "timestamp", "token", "data"}`: no signature, no event id
(developers.aircall.io/api-references, read August 2026). A body that is anything else is one error, `EventMalformed`.
"""

import hashlib
import re
from array import array
from datetime import UTC, datetime
from itertools import accumulate
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in typeshed
from typing import Any

import msgspec
import simdjson

from aircall_oauth.aircall import calls
from aircall_oauth.errors import EventMalformed

MAX_DEPTH = 100
MAX_TOKEN = 1024
LARGE_BYTES = 64 * 1024
MISSING = (None, "")
NAME = re.compile(r"[\x21-\x7e]{1,255}")
NUMBER = re.compile(r"[0-9]{1,16}(\.[0-9]{1,9})?([eE]\+?[0-9]{1,2})?")
BLANK = re.compile(r"[ \t\n\r]*")
# Aircall's timestamps are seconds in most events and milliseconds in some.
MILLISECONDS_FROM = 100_000_000_000
PLAUSIBLE = (datetime(2010, 1, 1, tzinfo=UTC).timestamp(), datetime(2100, 1, 1, tzinfo=UTC).timestamp())
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BRACKETS = b"[{]}"
_STEPS = bytes.maketrans(_BRACKETS, bytes([1, 1, 255, 255]))  # 255 is -1 in a signed byte
_NOT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """An event as it was sent; `data` and `timestamp` are Aircall's text of them, `about` is the `id` in `data`."""

    event: str
    token: str
    data: str
    resource: Any
    timestamp: str
    about: int | str | None


def read(body: bytes) -> Envelope:
    """Read the envelope of a webhook's body; raises `EventMalformed` for a body that is not one.

    A field that is there twice is refused, since two parsers could each take another one. Inside `data` it may be.
    """
    try:
        envelope = _quickly(body) or _patiently(body)
        _refuse_depth(body)
    except (UnicodeError, ValueError, RecursionError):
        raise EventMalformed from None
    if not NAME.fullmatch(envelope.event) or not 0 < len(envelope.token) <= MAX_TOKEN:
        raise EventMalformed
    return envelope


def resource(envelope: Envelope) -> str | None:
    """Return the `resource` as Aircall named it, None if unusable. It is only shown, never branched on."""
    value = envelope.resource
    return value if isinstance(value, str) and NAME.fullmatch(value) else None


def occurred_at(envelope: Envelope) -> datetime | None:
    """Return when Aircall built the event, from seconds or milliseconds; None if its timestamp is unusable."""
    if not NUMBER.fullmatch(envelope.timestamp):
        return None
    value = float(envelope.timestamp)
    seconds = value / 1000 if value >= MILLISECONDS_FROM else value
    return datetime.fromtimestamp(seconds, UTC) if PLAUSIBLE[0] <= seconds <= PLAUSIBLE[1] else None


def fingerprint(envelope: Envelope) -> bytes:
    """Return the hash that recognises a repeat: of event, timestamp and data, to the byte.

    Aircall sends no event id. The timestamp is part of it, since `user.connected` has the same data every morning.
    """
    return hashlib.sha256(f"{envelope.event}\0{envelope.timestamp}\0{envelope.data}".encode()).digest()


class _Fields(msgspec.Struct, gc=False):
    event: str
    token: str
    data: msgspec.Raw
    resource: Any = None
    timestamp: msgspec.Raw = msgspec.Raw()


_fields = msgspec.json.Decoder(_Fields)
# It keeps its memory, and can read one body at a time: for those that the event loop's thread reads.
_parser = simdjson.Parser()


def _quickly(body: bytes) -> Envelope | None:
    """Read with simdjson, which builds no Python object of the body; None where it is stricter than some senders.

    msgspec then cuts out the fields' own text. It skips what it need not decode, and would take NaN, a bad escape or a
    broken string in there.
    """
    try:
        about = _check(simdjson.Parser() if len(body) > LARGE_BYTES else _parser, body)
        fields = _fields.decode(body)
        return Envelope(fields.event, fields.token, _text(fields.data), fields.resource, _text(fields.timestamp), about)
    except (UnicodeError, ValueError, RuntimeError, msgspec.MsgspecError):
        return None


def _check(parser: simdjson.Parser, body: bytes) -> int | str | None:
    """Return the `id` in `data`; raises `ValueError` or `RuntimeError` for a body that must be read patiently.

    So must one with a field that is there twice, however its name is spelled: of those msgspec takes the last one.
    """
    document = parser.parse(body)
    if not isinstance(document, simdjson.Object):
        raise ValueError
    if len(set(document)) < len(document):
        raise ValueError
    data = document.get("data")
    id_ = data.get("id") if isinstance(data, simdjson.Object) else None
    return id_ if type(id_) is int or type(id_) is str else None  # no bool


def _text(raw: msgspec.Raw) -> str:
    return str(memoryview(raw), "utf-8")


def _patiently(body: bytes) -> Envelope:
    """Read with the standard library's parser.

    It takes numbers of any size, and what JavaScript writes for half an emoji where a message was cut.
    """
    text = body.decode()
    fields: dict[str, tuple[Any, str]] = {}
    place, separator = _past(text, 0, "{"), ","
    while separator == ",":
        name, place = scanstring(text, _past(text, place, '"'))
        if name in fields:
            raise ValueError("a field is there twice")
        start = _blank(text, _past(text, place, ":"))
        value, place = _reader.raw_decode(text, start)
        fields[name] = value, text[start:place]
        place = _blank(text, place)
        separator, place = text[place : place + 1], place + 1
    if separator != "}" or _blank(text, place) != len(text):
        raise ValueError("not an object")
    (event, _), (token, _), (_, data) = (fields.get(name, MISSING) for name in ("event", "token", "data"))
    if not isinstance(event, str) or not isinstance(token, str) or not data:
        raise ValueError("not an event")
    resource_, timestamp = fields.get("resource", MISSING)[0], fields.get("timestamp", MISSING)[1]
    return Envelope(event, token, data, resource_, timestamp, calls.id_of(data))


def _past(text: str, place: int, character: str) -> int:
    place = _blank(text, place)
    if text[place : place + 1] != character:
        raise ValueError(f"no {character}")
    return place + 1


def _blank(text: str, place: int) -> int:
    """Return the next place that is not white space."""
    match = BLANK.match(text, place)
    assert match is not None
    return match.end()


def _refuse_depth(body: bytes) -> None:
    """Raise `ValueError` for JSON that is nested deeper than every reader of the log can parse.

    The body must be valid JSON: in a string that does not end, the search would begin anew at every quote.
    """
    if len(body.translate(None, _NOT_BRACKETS)) <= 2 * MAX_DEPTH:
        return
    steps = array("b", _STRING.sub(b"", body).translate(_STEPS, _NOT_BRACKETS))
    if max(accumulate(steps)) > MAX_DEPTH:
        raise ValueError("too deep")


def _no_constant(_name: str) -> None:
    raise ValueError("not JSON")


def _ignore(_digits: str) -> None:
    """Do not parse integers: Python would refuse very long ones, which a reader of the log may take."""


_reader = JSONDecoder(parse_constant=_no_constant, parse_int=_ignore)
