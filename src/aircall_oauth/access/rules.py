"""The calls to Aircall that an API key allows: rules of methods and a path, such as `GET,POST /calls/*`.

A rule's path may begin with a version of Aircall's (`/v2/users`); without one it means `v1`, as a request's does.

A rule allows and never forbids. It is matched against the path as it is passed on, so an unusual spelling of an allowed
path may be refused, but one of a forbidden path is never allowed.
"""

import re
from functools import lru_cache

from aircall_oauth.aircall import versions

FORM = re.compile(r"(?:\*|[A-Z]+(?:,[A-Z]+)*) (?:/[A-Za-z0-9._~@:*-]*)+")
BELOW = "/**"
ANY_METHOD = "*"
# A key that allows GET allows HEAD too.
IMPLIED = {"HEAD": "GET"}


def checked(rule: str) -> str:
    """Return a rule if it is valid; raises `ValueError`.

    `*` matches one character or more within a segment, so never an empty one; `/**` at the end matches everything
    below; `*` as a method is every method.
    """
    if not FORM.fullmatch(rule) or "**" in rule.removesuffix(BELOW):
        raise ValueError("must look like 'GET,POST /calls/*', where * is one segment and /** at the end all below")
    path = rule.partition(" /")[2]
    if versions.is_odd(path.partition("/")[0]) and versions.NAMED.match(path) is None:
        raise ValueError("must have a path after its version, which is spelled v1 or v2")
    return rule


def allows(rule: str, method: str, path: str) -> bool:
    """Whether a rule allows a method on a path; the path has no slash in front."""
    methods, pattern = _read(rule)
    return (ANY_METHOD in methods or not methods.isdisjoint({method, IMPLIED.get(method, method)})) and bool(
        pattern.fullmatch(versions.whole(path))
    )


@lru_cache(maxsize=1000)
def _read(rule: str) -> tuple[frozenset[str], re.Pattern[str]]:
    methods, _, path = rule.partition(" /")
    path = versions.whole(path)
    below = path.endswith(BELOW)
    pattern = re.escape(path.removesuffix("**")).replace(r"\*", "[^/]+")
    return frozenset(methods.split(",")), re.compile(pattern + (".+" if below else ""))
