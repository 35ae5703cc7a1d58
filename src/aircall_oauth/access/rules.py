"""What an API key may ask Aircall for: rules of a method and a path, such as `GET,POST /calls/*`.

A rule allows and never forbids. It is compared with the path as it is passed on, so an unusual spelling of an allowed
path is refused, and never the other way round.
"""

import re
from functools import lru_cache

FORM = re.compile(r"(?:\*|[A-Z]+(?:,[A-Z]+)*) (?:/[A-Za-z0-9._~@:*-]*)+")
BELOW = "/**"
ANY_METHOD = "*"
# Whoever may read a thing may ask how large it is.
IMPLIED = {"HEAD": "GET"}


def checked(rule: str) -> str:
    """The rule, if it is one; raises `ValueError`.

    `*` is one character or more within one segment, so never an empty one; `/**` at the end is anything below; `*` as a
    method is every method.
    """
    if not FORM.fullmatch(rule) or "**" in rule.removesuffix(BELOW):
        raise ValueError("must look like 'GET,POST /calls/*', where * is one segment and /** at the end all below")
    return rule


def allows(rule: str, method: str, path: str) -> bool:
    """Whether a rule allows a method on a path that has no slash in front."""
    methods, pattern = _read(rule)
    return (ANY_METHOD in methods or not methods.isdisjoint({method, IMPLIED.get(method, method)})) and bool(
        pattern.fullmatch(f"/{path}")
    )


@lru_cache(maxsize=1000)
def _read(rule: str) -> tuple[frozenset[str], re.Pattern[str]]:
    methods, _, path = rule.partition(" ")
    below = path.endswith(BELOW)
    pattern = re.escape(path.removesuffix("**")).replace(r"\*", "[^/]+")
    return frozenset(methods.split(",")), re.compile(pattern + (".+" if below else ""))
