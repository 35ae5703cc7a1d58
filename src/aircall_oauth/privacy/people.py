"""What a person is known by, and whether an event is about that person.

A phone number is compared by its digits, however it is written; an e-mail address without regard to case; an id of
Aircall's only where Aircall puts that kind of id.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from aircall_oauth.storage.statuses import ErasureKind

# ITU-T E.164: at most 15 digits. Fewer than seven are found in too much that is no such number.
LEAST_DIGITS, MOST_DIGITS = 7, 15
NATIONAL_DIGITS = 10
# The country codes of E.164 with one and with two digits; all others have three.
SHORT_CODES = re.compile(r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")
# What may stand between two digits: spaces, dashes, brackets, and the marks of direction that copying brings along.
BETWEEN = r"[\s().\-/\u2010-\u2015\u200e\u200f\u202a-\u202e\u2066-\u2069]*"
SPELLING = re.compile(rf"(?:tel:)?\+?(?:{BETWEEN}[0-9])+{BETWEEN}")
EMAIL = re.compile(r"[^\s@<>,;]{1,64}@[^\s@<>,;.]+(\.[^\s@<>,;.]+)+")
ID = re.compile(r"[!-~]{1,64}")
NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
FULL_WIDTH = "\uff10".encode()[:2]  # digits as East Asian keyboards write them
OTHER_COUNTRY = re.compile(rf"(?:\+|(?<!\d)00){BETWEEN}\d{{1,3}}{BETWEEN}$")
# The fields that hold a user, besides `user` and `users`; of each the samples of Aircall's events have one.
USERS = frozenset({"assigned_to", "transferred_by", "transferred_to", "posted_by", "tagged_by", "created_by"})
USERS |= {"updated_by", "user", "users", "agent", "agents"}
ROLES = {
    ErasureKind.USER: USERS,
    ErasureKind.CONTACT: frozenset({"contact", "contacts"}),
    ErasureKind.CALL: frozenset({"call", "calls"}),
}


class PatternRefused(ValueError):
    """What a person is to be found by is none, or too little; the reason quotes nothing of it."""


@dataclass(frozen=True)
class Person:
    """Whom to find: by a phone number, an e-mail address, or an id of Aircall's."""

    kind: ErasureKind
    value: str

    def __repr__(self) -> str:
        return f"Person({self.kind})"


@dataclass(frozen=True)
class Told:
    """What an event tells: its kind of resource, and its `data`."""

    resource: str | None
    data: Any

    def strings(self) -> Iterator[tuple[str, str]]:
        """Yield every text in it, with the name of its field."""
        yield from _strings("", self.data)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield every object in it."""
        return _objects(self.data)


def read(resource: str | None, data: bytes) -> Told:
    """Return what an event tells; JSON that cannot be read is one text."""
    try:
        return Told(resource, msgspec.json.decode(data))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Told(resource, data.decode(errors="replace"))


def parse(kind: ErasureKind, text: str) -> Person:
    """Return whom a text means; raises `PatternRefused` for one that is empty, wrong or too short."""
    match kind:
        case ErasureKind.PHONE:
            return Person(kind, _number(text))
        case ErasureKind.EMAIL:
            email = text.strip().casefold()
            if not EMAIL.fullmatch(email) or len(email) > 254:
                raise PatternRefused("must be an e-mail address, such as mara@example.org")
            return Person(kind, email)
        case _:
            if not ID.fullmatch(text.strip()):
                raise PatternRefused("must be an id of Aircall's")
            return Person(kind, text.strip())


def call_of(told: Told) -> str | None:
    """Return the id of the call that an event is about or belongs to."""
    if not isinstance(told.data, dict):
        return None
    call = told.data.get("call")
    named = told.data.get("id") if told.resource == "call" else told.data.get("call_id")
    id_ = named if named is not None or not isinstance(call, dict) else call.get("id")
    return str(id_) if isinstance(id_, (int, str)) else None


class Finder:
    """Finds one person in events."""

    def __init__(self, person: Person) -> None:
        self._person = person
        match person.kind:
            case ErasureKind.PHONE:
                self._number = _Number(person.value)
            case ErasureKind.EMAIL:
                self._email = re.compile(rf"(?<![\w.+%\-]){re.escape(person.value)}(?![\w\-]|\.\w)")

    def may_be_in(self, data: bytes) -> bool:
        """Whether it is worth reading an event's `data`: false for almost all that are about others, and cheap."""
        if b"\\u" in data or b"%" in data or FULL_WIDTH in data:
            return True
        match self._person.kind:
            case ErasureKind.PHONE:
                return self._number.national.encode() in data.translate(None, NO_DIGITS)
            case ErasureKind.EMAIL:
                return not self._person.value.isascii() or self._person.value.encode() in data.lower()
            case _:
                return self._person.value.encode() in data

    def finds(self, told: Told) -> bool:
        """Whether an event is about the person."""
        match self._person.kind:
            case ErasureKind.PHONE:
                return any(self._number.is_in(name, text) for name, text in told.strings())
            case ErasureKind.EMAIL:
                return any(
                    self._email.search(each) for _, text in told.strings() for each in _readings(text.casefold())
                )
            case kind:
                return self._has_id(told, kind)

    def _has_id(self, told: Told, kind: ErasureKind) -> bool:
        wanted = self._person.value
        if told.resource == kind and isinstance(told.data, dict) and str(told.data.get("id")) == wanted:
            return True
        for each in told.objects():
            for name, value in each.items():
                if name in {f"{kind}_id", f"{kind}_ids"} and wanted in _ids(value):
                    return True
                if name in ROLES[kind] and wanted in _ids(value):
                    return True
        return False


class _Number:
    """A phone number, found however it is written: with its country, or as it is dialled within it."""

    def __init__(self, value: str) -> None:
        # `_number` writes it with a plus where the country is known.
        self._digits = value.removeprefix("+")
        national = self._digits
        if value.startswith("+"):
            code = _country_code(self._digits)
            national = self._digits[len(code) :]
            abroad = rf"(?:\+|00)?{BETWEEN}{_spaced(code)}{BETWEEN}(?:0{BETWEEN})?"
        else:
            abroad = rf"(?:\+|00)?{BETWEEN}[1-9]\d{{0,2}}{BETWEEN}(?:0{BETWEEN})?"
        self.national = national
        self._abroad = re.compile(rf"(?<!\d){abroad}{_spaced(national)}(?!\d)")
        self._at_home = re.compile(rf"(?<![\d])(?P<zero>0{BETWEEN})?{_spaced(national)}(?!\d)")
        self._may_be_at_home = len(national) >= LEAST_DIGITS

    def is_in(self, name: str, text: str) -> bool:
        """Whether a field's text has the number. Other ids are no numbers, though they may have the same digits."""
        if name == "id" or name.endswith(("_id", "_at", "uuid")):
            return False
        return any(self._is_in(each) for each in _readings(text))

    def _is_in(self, text: str) -> bool:
        plain = (text if text.isascii() else unicodedata.normalize("NFKC", text)).replace("(0)", "")
        if self._abroad.search(plain):
            return True
        if not self._may_be_at_home:
            return False
        is_address = "://" in plain
        return any(
            (found["zero"] is not None or not is_address) and not OTHER_COUNTRY.search(plain[: found.start()])
            for found in self._at_home.finditer(plain)
        )


def _number(text: str) -> str:
    """Return a number's digits without trunk zeros, behind a plus where it names its country."""
    spelled = unicodedata.normalize("NFKC", text).strip().replace("(0)", "")
    if not SPELLING.fullmatch(spelled):
        raise PatternRefused("must be a phone number, best with its country, such as +33 1 23 45 67 89")
    digits = re.sub(r"\D", "", spelled)
    has_country = spelled.removeprefix("tel:").lstrip().startswith("+") or digits.startswith("00")
    digits = digits.lstrip("0")
    if not LEAST_DIGITS <= len(digits) <= MOST_DIGITS:
        raise PatternRefused(f"must have {LEAST_DIGITS} to {MOST_DIGITS} digits, the zeros in front not counted")
    # So many digits without a zero in front begin with a country's code.
    is_whole = len(digits) > NATIONAL_DIGITS and re.sub(r"\D", "", spelled) == digits
    return f"+{digits}" if has_country or is_whole else digits


def _country_code(digits: str) -> str:
    short = SHORT_CODES.match(digits)
    return short.group() if short else digits[:3]


def _spaced(digits: str) -> str:
    return BETWEEN.join(digits)


def _readings(text: str) -> set[str]:
    """Return a text as it is, and as an address says it."""
    return {text, unquote(text)} if "%" in text else {text}


def _ids(value: Any) -> list[str]:
    """Return the ids that a field has: itself, or those of its objects."""
    values = value if isinstance(value, list) else [value]
    return [str(each.get("id")) if isinstance(each, dict) else str(each) for each in values]


def _strings(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield texts and whole numbers, and the names of fields, which may be anything too."""
    stack = [(name, value)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            for key, each in value.items():
                yield "", key
                stack.append((key, each))
        elif isinstance(value, list):
            stack += [(name, each) for each in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, str(value)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            yield each
            stack += each.values()
        elif isinstance(each, list):
            stack += each
