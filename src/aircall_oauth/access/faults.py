"""What is wrong with a request, in our own words: never the framework's, and never what was sent."""

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

Said = Mapping[str, Any]

A_MOMENT = "must be a time with its zone, such as 2026-01-01T00:00:00Z"
A_WHOLE_NUMBER = "must be a whole number"
A_NUMBER = "must be a number"
A_SWITCH = "must be true or false"
AN_OBJECT = "must be a JSON object"
WORDS: dict[str, str] = {
    "missing": "is required",
    "json_invalid": "must be valid JSON",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "dict_attributes_type"), AN_OBJECT),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), A_WHOLE_NUMBER),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), A_NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), A_SWITCH),
    **dict.fromkeys(
        ("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "datetime_object_invalid"), A_MOMENT
    ),
    **dict.fromkeys(("timezone_aware", "timezone_offset"), A_MOMENT),
    "string_type": "must be text",
    "string_unicode": "must be text",
    "list_type": "must be a list",
    "union_tag_not_found": "is required",
}
BOUNDS: dict[str, Callable[[Said], str]] = {
    "greater_than_equal": lambda ctx: f"must be {_plain(ctx['ge'])} or more",
    "greater_than": lambda ctx: f"must be more than {_plain(ctx['gt'])}",
    "less_than_equal": lambda ctx: f"must be {_plain(ctx['le'])} or less",
    "less_than": lambda ctx: f"must be less than {_plain(ctx['lt'])}",
    "string_too_short": lambda ctx: f"must have {ctx['min_length']} characters or more",
    "string_too_long": lambda ctx: f"must have {ctx['max_length']} characters or fewer",
    "string_pattern_mismatch": lambda ctx: f"must match {ctx['pattern']}",
    "too_short": lambda ctx: f"must have {ctx['min_length']} items or more",
    "too_long": lambda ctx: f"must have {ctx['max_length']} items or fewer",
    "enum": lambda ctx: _one_of(ctx["expected"]),
    "literal_error": lambda ctx: _one_of(ctx["expected"]),
    "union_tag_invalid": lambda ctx: _one_of(ctx["expected_tags"]),
    # Our own validators say what must be in a `ValueError`.
    "value_error": lambda ctx: str(ctx["error"]),
}
PLACES = ("body", "query", "path", "header", "cookie")


def faults(errors: Iterable[Mapping[str, Any]], fields: Collection[str] = ()) -> str:
    """Say what is wrong and where, from pydantic's errors; `fields` are the names that the endpoint's body may have.

    A field that may be one of several things says what each of them would be.
    """
    said: dict[str, list[str]] = {}
    for error in errors:
        place, words = _fault(error, fields)
        said.setdefault(place, []).append(words)
    return "; ".join(f"{place}: {', or '.join(dict.fromkeys(words))}" for place, words in said.items())


def _fault(error: Mapping[str, Any], fields: Collection[str]) -> tuple[str, str]:
    place, kind, ctx = list(error["loc"]), error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        near = get_close_matches(str(place.pop()), fields, n=1)
        words = "has a field that is not known here" + (f"; did you mean {near[0]!r}?" if near else "")
        return _written(place, fields), words
    if kind == "json_invalid":
        del place[1:]
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        discriminator = str(ctx["discriminator"]).strip("'")
        if discriminator in fields:
            place.append(discriminator)
    words = WORDS.get(kind) or (BOUNDS[kind](ctx) if kind in BOUNDS else "is not valid")
    return _written(place, fields), words


def _written(place: list[str | int], fields: Collection[str]) -> str:
    """Return the place with the fields' names and the numbers of items only: pydantic puts names of types between."""
    if not place or place[0] != "body":
        # A parameter's name is the endpoint's; what stands behind it are items and types.
        return ".".join([*map(str, place[:2]), *(str(part) for part in place[2:] if isinstance(part, int))])
    known = [str(part) for part in place[1:] if isinstance(part, int) or part in fields]
    return ".".join(["body", *(part for number, part in enumerate(known) if known[number - 1 : number] != [part])])


def _plain(bound: float) -> str:
    """Write a bound of a number field as it was given: pydantic makes 30 to 30.0."""
    return str(int(bound)) if bound == int(bound) else str(bound)


def _one_of(expected: str) -> str:
    """pydantic writes `'a', 'b' or 'c'`, and a tag of an enum as `<Kind.HTTP: 'http'>`."""
    quoted = expected.split("'")[1::2]
    return f"must be one of {', '.join(quoted)}"
