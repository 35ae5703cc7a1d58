"""Aircall's payloads as files, and fresh ones made from them: the same shape, new ids, times of now."""

import itertools
import json
import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "samples"
MOMENT = 1767261600  # UNIX seconds; every sample happens around it
DAY_SECONDS = 86_400

_ISO_TIME = re.compile(r"2026-01-01T\d\d:\d\d:\d\d(\.\d+)?Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ids = itertools.count(2_000_000_000 + secrets.randbelow(1_000_000_000))


def read(name: str) -> Any:
    """Return the JSON of a sample file, by its name without `.json`. The caller may change it."""
    return json.loads(_text(name))


def event(name: str) -> dict[str, Any]:
    """Return the sample of an event or a variant like `call.ended.missed`; a plausible one for an unknown name."""
    if (FOLDER / f"event.{name}.json").is_file():
        return dict(read(f"event.{name}"))
    return {**read("event.unknown.future"), "resource": name.partition(".")[0], "event": name}


def renewed(value: Any, swaps: Mapping[str, str], shift_seconds: int) -> Any:
    """The value with old ids swapped for new ones, wherever they stand, and every time shifted."""
    match value:
        case dict():
            return {key: renewed(item, swaps, shift_seconds) for key, item in value.items()}
        case list():
            return [renewed(item, swaps, shift_seconds) for item in value]
        case str():
            return _renewed_text(value, swaps, shift_seconds)
        case int() if not isinstance(value, bool):
            return _renewed_number(value, swaps, shift_seconds)
        case _:
            return value


def fresh_id() -> int:
    """Return a number that no other payload of this process has as its id."""
    return next(_ids)


def fresh_like(old: str | int) -> str:
    """Return a new id of the same kind: a number, a UUID, or a prefix with as many hex digits behind it."""
    if isinstance(old, int):
        return str(fresh_id() if old < 2**32 else old - fresh_id())
    if _UUID.fullmatch(old):
        return str(uuid.uuid4())
    prefix = re.sub(r"[0-9a-f]*$", "", old)
    return prefix + secrets.token_hex(len(old))[: len(old) - len(prefix)]


def _renewed_number(value: int, swaps: Mapping[str, str], shift_seconds: int) -> int:
    if str(value) in swaps:
        return int(swaps[str(value)])
    if abs(value - MOMENT) < DAY_SECONDS:
        return value + shift_seconds
    if abs(value - MOMENT * 1000) < DAY_SECONDS * 1000:
        return value + shift_seconds * 1000
    return value


def _renewed_text(value: str, swaps: Mapping[str, str], shift_seconds: int) -> str:
    if _ISO_TIME.fullmatch(value):
        moment = datetime.fromisoformat(value) + timedelta(seconds=shift_seconds)
        precision = "milliseconds" if "." in value else "seconds"
        return moment.isoformat(timespec=precision).replace("+00:00", "Z")
    for old, new in swaps.items():
        value = value.replace(old, new)
    return value


@cache
def _text(name: str) -> bytes:
    return (FOLDER / f"{name}.json").read_bytes()


def _documented_names() -> tuple[str, ...]:
    """Return every event name that has a sample; files of variants and of the invented event are left out."""
    bodies = ((path.name, read(path.stem)) for path in sorted(FOLDER.glob("event.*.json")))
    return tuple(body["event"] for name, body in bodies if name == f"event.{body['event']}.json")


EVENT_NAMES = _documented_names()
VENDOR_URL = read("event.call.created")["data"]["direct_link"].partition("/v1/")[0]
