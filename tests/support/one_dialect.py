"""One dialect of SQLAlchemy for all engines of a test process, which compile each statement once.

Each test's service has engines of its own, and compiled all statements anew: some hundredths of a test's time, up to a
tenth.
"""

from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import LRUCache

from aircall_oauth.storage import sessions

MOST_STATEMENTS = 5_000

_compiled: LRUCache[Any, Any] = LRUCache(MOST_STATEMENTS)
_dialect: Dialect | None = None


def share_dialect() -> None:
    """Give every database that is made in this process from now on the same dialect and compiled statements."""
    sessions.create_async_engine = _create_engine  # type: ignore[attr-defined]


def _create_engine(*arguments: Any, **options: Any) -> AsyncEngine:
    global _dialect  # noqa: PLW0603 - one for all tests of this process
    engine = create_async_engine(*arguments, **options)
    own: Any = engine.sync_engine
    # The first connection of an engine asks the server what its dialect needs to know.
    own.dialect.initialize = _initialize
    if _dialect is None:
        _dialect = own.dialect
    own.dialect = own.pool._dialect = _dialect
    own._compiled_cache = _compiled
    return engine


def _initialize(connection: Connection) -> None:
    assert _dialect is not None
    if _dialect.server_version_info is None:
        type(_dialect).initialize(_dialect, connection)
