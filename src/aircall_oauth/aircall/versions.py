"""The versions of Aircall's Public API in paths (`v2/users`): read, without judging where the path leads."""

import re

# Most of the API has one version, and a path without one means it.
USUAL = "v1"
NAMED = re.compile(r"(v[1-9][0-9]?)/(?=.)", re.DOTALL)
# What some reader could take for a version, though it is not spelled as one.
LIKE_ONE = re.compile(r"[Vv][0-9]+")


def split(path: str) -> tuple[str, str]:
    """Return the version that a path begins with, `v1` where it begins with none, and the rest of the path."""
    named = NAMED.match(path)
    return (named[1], path[named.end() :]) if named else (USUAL, path)


def whole(path: str) -> str:
    """Return a path with its version in front."""
    return "/".join(split(path))


def is_odd(segment: str) -> bool:
    """Whether a path's first segment, decoded and without what follows it, is like a version but begins no path."""
    return LIKE_ONE.fullmatch(segment) is not None
