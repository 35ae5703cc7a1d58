"""aircall-oauth: holds a software company's connections to Aircall."""

from typing import Any

__version__: str


def __getattr__(name: str) -> Any:
    """Read `__version__` from the installed package when it is asked for: that takes as long as Python's own start."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("aircall-oauth")
