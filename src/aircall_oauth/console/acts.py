"""An act of a person: what it will do, the same as a command, and what came of it. Each asks before it is done."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aircall_oauth.access.scopes import Scope
from aircall_oauth.console.parameters import moment_of
from aircall_oauth.console.visitors import TO_ACT

# The hidden field by which a form to edit says what it showed.
WAS = "was"


@dataclass(frozen=True)
class Field:
    """A field of an act's form. `kind` is an `<input>`'s type, or `select`, `checkboxes` or `textarea`."""

    name: str
    label: str
    kind: str = "text"
    value: str | Sequence[str] = ""
    hint: str = ""
    required: bool = False
    rows: int = 4  # of a `textarea`
    options: Mapping[str, str] = field(default_factory=dict)  # value to label, for `select` and `checkboxes`


@dataclass(frozen=True)
class Act:
    """What is asked before something is done."""

    title: str
    sentence: str  # what it will do
    button: str
    back: str  # where to go instead
    effects: Sequence[str] = ()
    curl: str | None = None
    command: str | None = None
    fields: Sequence[Field] = ()
    dangerous: bool = False
    needs: Sequence[Scope] = TO_ACT
    why_not: str | None = None  # why it makes no sense now


def curl(public_url: str, method: str, path: str, body: Any = None) -> str:
    """Return the request of the API that does the same, for a shell."""
    parts = ["curl", "-X", method, "-H", '"Authorization: Bearer $API_KEY"', shlex.quote(f"{public_url}{path}")]
    if body is not None:
        parts += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body, ensure_ascii=False))]
    return " ".join(parts)


def command(*words: str, options: Mapping[str, str | None] | None = None) -> str:
    """Return the command that does the same, for a shell; options without a value are left out."""
    given = [part for name, value in (options or {}).items() if value for part in (f"--{name}", value)]
    return " ".join(["aircall-oauth", *map(shlex.quote, [*words, *given])])


def in_utc(moment: str | None) -> str | None:
    """Return a time of a filter, which is in UTC where it names no zone, as the API and the command line take it."""
    if moment is None:
        return None
    at = moment_of(moment)
    return f"{at:%Y-%m-%dT%H:%M:%S}Z" if at.microsecond == 0 else f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"
