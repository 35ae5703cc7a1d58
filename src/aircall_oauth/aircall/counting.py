"""Counts the requests that are sent to Aircall, for who has to draw them from the budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Sent:
    """Counts the requests sent to Aircall, each repeat too, but not those for which no connection could be made."""

    requests: int = 0


_sent = ContextVar("sent", default=Sent())  # noqa: B039 - outside of `counted` blocks, nobody reads the shared count


@contextmanager
def counted() -> Iterator[Sent]:
    """Yield a count of the requests that are sent to Aircall in the block, by this task and the tasks it starts."""
    sent = Sent()
    before = _sent.set(sent)
    try:
        yield sent
    finally:
        _sent.reset(before)


def current() -> Sent:
    """Return the count of the innermost `counted` block around the caller."""
    return _sent.get()
