"""Drops or hashes the fields of an event that the operator has named, before the event is committed.

The named fields are cut out of Aircall's text, or replaced in it: all else stays as it came, byte for byte. A field is
recognised however its name is spelled, as often as it is there, and in each element of a list.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined]  # not in typeshed

MOST_RULES, MOST_STEPS = 200, 10
ANY = "*"
ENTRY = re.compile(r"(?:(?P<type>\*|[A-Za-z0-9_.]+\*?)\s*:)?\s*(?P<path>[^\s:=]+)\s*=\s*(?P<action>drop|hash)")
STEP = re.compile(r"\*|[A-Za-z0-9_-]{1,100}")
BLANK = re.compile(r"[ \t\n\r]*")
# In JSON that is known to be valid.
NAME = re.compile(r'"([^"\\]*+)"[ \t\n\r]*:[ \t\n\r]*')
SCALAR = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^,\[\]{}\s]++')
# A member whose value is neither a list nor an object, and what is between it and the next one.
PLAIN = re.compile(rf"{NAME.pattern}({SCALAR.pattern})[ \t\n\r]*+,?[ \t\n\r]*+")
BETWEEN = re.compile(r"[ \t\n\r]*,?[ \t\n\r]*")
# Beside `data`, where the service needs them; a path leads from `data` on.
BESIDE = {"token", "event", "resource", "timestamp"}
# The texts that replace values begin so: neither a number nor an address.
MARK = "redacted:"


class Action(StrEnum):
    DROP = "drop"
    HASH = "hash"


@dataclass(frozen=True)
class Redact:
    """What becomes of one field of the events of some types; `path` leads to it from `data` on."""

    type: str
    path: tuple[str, ...]
    action: Action

    def __str__(self) -> str:
        return f"{self.type}:{'.'.join(self.path)}={self.action}"

    def is_of(self, type_: str) -> bool:
        return type_.startswith(self.type[:-1]) if self.type.endswith(ANY) else type_ == self.type


def parse(text: str) -> list[Redact]:
    """Read `[type:]path=drop|hash`, separated by commas; raises `ValueError`, which quotes nothing of it."""
    entries = [part.strip() for part in text.split(",") if part.strip()]
    if len(entries) > MOST_RULES:
        raise ValueError(f"has more than {MOST_RULES} entries")
    rules: dict[tuple[str, tuple[str, ...]], Redact] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            rule = _rule(entry)
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
        if rules.setdefault((rule.type, rule.path), rule) != rule:
            raise ValueError(
                f"entry {number} says of a field that is dropped that it is hashed, or the other way round"
            )
    return list(rules.values())


def _rule(entry: str) -> Redact:
    match = ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError("must look like call.*:contact.emails.value=hash or raw_digits=drop")
    path = tuple(match["path"].replace("[]", "").split("."))
    if len(path) > MOST_STEPS or not all(STEP.fullmatch(step) for step in path):
        raise ValueError(f"must have a path of at most {MOST_STEPS} names, with dots between them")
    if path[0] == "data" or path in {(name,) for name in BESIDE}:
        raise ValueError("must name a field inside data, without `data` itself in front; the service needs the others")
    if any(map(_is_id, path)):
        raise ValueError("names an id: the service needs ids to tell events apart and to find what is to be erased")
    action = Action(match["action"])
    if path == ("call",) and action is Action.DROP:
        raise ValueError("drops `call`, which says which call an event belongs to; name fields in it, or hash it")
    return Redact(match["type"] or ANY, path, action)


def _is_id(name: str) -> bool:
    return name in {"id", "ids"} or name.endswith(("_id", "_ids", "uuid"))


@dataclass
class _Step:
    """Where a path may go on, and what becomes of the field that it has come to."""

    action: Action | None = None
    next: dict[str, "_Step"] = field(default_factory=dict)

    def add(self, path: Sequence[str], action: Action) -> None:
        step = self
        for name in path:
            step = step.next.setdefault(name, _Step())
        step.action = action if step.action is None else min(step.action, action)  # dropping goes before hashing


class Redaction:
    """Drops and hashes what the rules name. `hashed` returns a keyed hash of a text: equal texts stay recognisable."""

    def __init__(self, rules: Iterable[Redact], hashed: Callable[[str], str]) -> None:
        self._rules = list(rules)
        self._hashed = hashed
        self._of_type = lru_cache(maxsize=1000)(self._start)

    def of(self, type_: str, data: str) -> str:
        """Return an event's `data`, which must be valid JSON, without what the rules of its type name."""
        start = self._of_type(type_)
        if not start.next:
            return data
        edits = _Edits(data, self._hashed)
        edits.walk(_blank(data, 0), [start], hashing=False)
        return edits.applied()

    def _start(self, type_: str) -> _Step:
        start = _Step()
        for rule in self._rules:
            if rule.is_of(type_):
                start.add(rule.path, rule.action)
        return start


class _Edits:
    """What is to be replaced in one text: (start, end, by what)."""

    def __init__(self, text: str, hashed: Callable[[str], str]) -> None:
        self._text = text
        self._hashed = hashed
        self._edits: list[tuple[int, int, str]] = []

    def walk(self, place: int, steps: Sequence[_Step], *, hashing: bool) -> int:
        """Note the edits of the value at a place, and return where it ends; an element of a list is as the list."""
        match self._text[place]:
            case "{":
                return self._object(place, steps, hashing=hashing)
            case "[":
                place = _blank(self._text, place + 1)
                while self._text[place] != "]":
                    place = self._next(self.walk(place, steps, hashing=hashing))
                return place + 1
            case _:
                return self._scalar(place, hashing=hashing)

    def applied(self) -> str:
        pieces, place = [], 0
        for start, end, replacement in sorted(self._edits):
            pieces += [self._text[place:start], replacement]
            place = end
        return "".join([*pieces, self._text[place:]])

    def _object(self, place: int, steps: Sequence[_Step], *, hashing: bool) -> int:
        members: list[tuple[int, int, bool]] = []
        named = None if hashing else _named(steps)
        place = _blank(self._text, place + 1)
        while self._text[place] != "}":
            plain = PLAIN.match(self._text, place)
            if plain is not None and named is not None and plain[1] not in named:
                members.append((place, plain.end(2), False))
                place = plain.end()
            else:
                members.append(self._member(place, steps, hashing=hashing))
                place = self._next(members[-1][1])
        self._edits += _cuts(members)
        return place + 1

    def _member(self, start: int, steps: Sequence[_Step], *, hashing: bool) -> tuple[int, int, bool]:
        """Note the edits of a member's value; returns where the member begins and ends, and whether it is dropped."""
        name, value = self._name(start)
        is_id = _is_id(name)
        wanted = [found for step in steps for each in (name, ANY) if (found := step.next.get(each)) is not None]
        if not is_id and any(step.action is Action.DROP for step in wanted):
            return start, self._past(value), True
        hashes = not is_id and (hashing or any(step.action is Action.HASH for step in wanted))
        end = self.walk(value, wanted, hashing=hashes) if hashes or wanted else self._past(value)
        return start, end, False

    def _name(self, start: int) -> tuple[str, int]:
        """Return a member's name, and where its value begins."""
        match = NAME.match(self._text, start)
        if match is not None:
            return match[1], match.end()
        name, colon = scanstring(self._text, start + 1)
        return name, _blank(self._text, _blank(self._text, colon) + 1)

    def _next(self, end: int) -> int:
        """Return where the next member or element begins, or the bracket that closes."""
        return _end(BETWEEN, self._text, end)

    def _scalar(self, place: int, *, hashing: bool) -> int:
        end = self._past(place)
        if not hashing or self._text[place] in "tfn" or self._text[place:end] == '""':
            return end
        is_text = self._text[place] == '"'
        value = scanstring(self._text, place + 1)[0] if is_text else self._text[place:end]
        self._edits.append((place, end, f'"{MARK}{self._hashed(value)}"'))
        return end

    def _past(self, place: int) -> int:
        if self._text[place] in "{[":
            return int(_scan(self._text, place)[1])
        return _end(SCALAR, self._text, place)


def _named(steps: Sequence[_Step]) -> frozenset[str] | None:
    """Return the names that steps lead to; None for all names."""
    names = frozenset(name for step in steps for name in step.next)
    return None if ANY in names else names


def _cuts(members: Sequence[tuple[int, int, bool]]) -> Iterator[tuple[int, int, str]]:
    """Yield what to cut out so that the members that stay are an object: each with the comma behind it or before it."""
    if not any(dropped for _, _, dropped in members):
        return
    stays = [n for n, (_, _, dropped) in enumerate(members) if not dropped]
    for before, after in zip([-1, *stays], [*stays, len(members)], strict=True):
        if after - before == 1:
            continue
        if after < len(members):
            yield members[before + 1][0], members[after][0], ""
        else:
            yield members[before][1] if before >= 0 else members[0][0], members[-1][1], ""


def _blank(text: str, place: int) -> int:
    """Return the next place that is not white space."""
    return _end(BLANK, text, place)


def _end(pattern: re.Pattern[str], text: str, place: int) -> int:
    match = pattern.match(text, place)
    assert match is not None
    return match.end()


def _ignore(_digits: str) -> None:
    """Do not parse integers: Python would refuse very long ones."""


_scan = JSONDecoder(parse_int=_ignore, parse_float=_ignore).scan_once  # type: ignore[attr-defined]  # not in typeshed
