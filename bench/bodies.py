"""Events as Aircall sends them: the samples in a likely mix, with other values in each; and one of a single letter.

The letters and digits of a sample's texts and numbers are others in each body, so that it packs as it would in truth. A
tenth of the bodies have `\\u` escapes. `data.id` is a slot that the load fills with the event's number.
"""

import json
import random
import string
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[1] / "src/aircall_oauth/sandbox/samples"
# The slot of the event's number: every number that the load puts there has as many digits.
SLOT = b"1000000000000000000"
DIFFERENT = 2000
# Of a hundred events so many are about calls, and so many of those are the ends of calls, as a busy company has them.
CALLS = 85
ENDED = 20
ESCAPED = 10
LETTER_BYTES = 2048
KEPT = frozenset({"event", "resource", "token", "status", "direction"})
COMMENT = {
    "id": 4821,
    "content": "Asked twice for the invoice of March, wants to hear of it by Friday morning.",
    "posted_at": 1700000000,
    "posted_by": {"id": 456, "name": "Aaaaaa Bbbbbbb", "email": "aaaaaa@example.com", "available": True},
}
BEYOND_ASCII = "éèüßçñøłžΩж日本語🙂"

_chance = random.Random(16)  # noqa: S311


def varied(token: str, at_least: int = 0) -> Iterator[bytes]:
    """Make different bodies, each with the slot in it; the same ones in every run but for their time.

    The mean is 2 KB. What is smaller than `at_least` bytes gets comments until it is not.
    """
    samples = [json.loads(path.read_bytes()) for path in sorted(SAMPLES.glob("event.*.json"))]
    usable = [sample for sample in samples if isinstance(sample["data"], dict) and sample["data"].get("id")]
    ended = [sample for sample in usable if sample["event"] == "call.ended"]
    calls = [sample for sample in usable if sample["event"].startswith("call.") and sample not in ended]
    others = [sample for sample in usable if not sample["event"].startswith("call.")]
    for number in range(DIFFERENT):
        draw = _chance.randrange(100)
        sample = _chance.choice(ended if draw < ENDED else calls if draw < CALLS else others)
        escaped = number % 100 < ESCAPED
        event = _Varied(escaped=escaped).of(sample)
        event["data"] = {"id": int(SLOT)} | {name: value for name, value in event["data"].items() if name != "id"}
        event |= {"token": token, "timestamp": int(time.time())}
        body = _encoded(event, escaped=escaped)
        while len(body) < at_least:
            event["data"].setdefault("comments", []).append(_Varied(escaped=escaped).of(COMMENT))
            body = _encoded(event, escaped=escaped)
        yield body


def varied_of_4_kb(token: str) -> Iterator[bytes]:
    """Make bodies of 4 KB and a little more, as the end of a call has with its comments and tags."""
    yield from varied(token, at_least=4096)


def of_one_letter(token: str) -> Iterator[bytes]:
    """Make the body that PostgreSQL packs to nearly nothing, and that takes no time to read."""
    data = {"id": int(SLOT), "direction": "inbound", "status": "done", "tags": [], "comments": [], "note": ""}
    event = {"resource": "call", "event": "call.ended", "timestamp": int(time.time()), "token": token, "data": data}
    data["note"] = "x" * (LETTER_BYTES - len(json.dumps(event, separators=(",", ":"))))
    yield json.dumps(event, separators=(",", ":")).encode()


def _encoded(event: dict[str, Any], *, escaped: bool) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=escaped).encode()


class _Varied:
    """Other letters and digits in all texts and numbers of one body; what was repeated in it still is."""

    def __init__(self, *, escaped: bool) -> None:
        self._escaped = escaped
        self._table = str.maketrans(
            {**_other(string.ascii_lowercase), **_other(string.ascii_uppercase), **_other(string.digits)}
        )

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: inner if name in KEPT else self.of(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.of(inner) for inner in value]
        if isinstance(value, str):
            drawn = value.translate(self._table)
            return drawn + _chance.choice(BEYOND_ASCII) if self._escaped and " " in value else drawn
        return int(str(abs(value)).translate(self._table)) if type(value) is int else value


def _other(characters: str) -> dict[str, str]:
    return dict(zip(characters, _chance.sample(characters, len(characters)), strict=True))
