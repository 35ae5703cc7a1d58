"""The languages of the pages that an admin sees: their words, and which one a browser asks for."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

FALLBACK = "en"
LANGUAGES = (FALLBACK, "fr", "de", "es", "pt")
# RFC 9110, 12.5.4 and 12.4.2.
RANGE = re.compile(
    r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9]{1,8})*\s*(?:;\s*[qQ]\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?"
)
# Browsers send a handful.
MOST_RANGES = 20


@dataclass(frozen=True)
class Words:
    """What the pages say in one language: labels of buttons, next steps, and the texts of each page."""

    language: str
    this_app: str
    your_account: str
    label: dict[str, str]
    next: dict[str, str]
    page: dict[str, dict[str, str]]


def chosen(accepted: str | None) -> str:
    """Return the language of ours that an `Accept-Language` header likes most; English where it likes none.

    A language counts whatever its region (`pt-BR`). Of several liked alike the first is chosen; a part that is no
    language range is passed over.
    """
    best, language = 0.0, FALLBACK
    for part in (accepted or "").split(",")[:MOST_RANGES]:
        given = RANGE.fullmatch(part)
        if given is None:
            continue
        name, weight = given[1].lower(), float(given[2] or 1)
        if weight > best and name in {*LANGUAGES, "*"}:
            best, language = weight, FALLBACK if name == "*" else name
    return language


@cache
def words(language: str) -> Words:
    """Return the words of one of `LANGUAGES`."""
    text = (files(__package__) / "words" / f"{language}.toml").read_text(encoding="utf-8")
    read: dict[str, Any] = tomllib.loads(text)
    return Words(language, **read)
