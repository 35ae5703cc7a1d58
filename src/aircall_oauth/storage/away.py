"""Errors of PostgreSQL and the network that may pass, turned into `DatabaseAway`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import stamina

from aircall_oauth.errors import AppError, DatabaseAway
from aircall_oauth.storage.faults import explain, root

# PostgreSQL rolled the transaction back because of another one: the same again may succeed.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# Connection failures, and a server that is starting, stopping or full: nothing is wrong with the statement.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A connection that broke in the middle of an answer.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # SQLSTATE 57…: starting, stopping, cancelled
    asyncpg.InsufficientResourcesError,  # 53…: a full disk, no memory, too many connections
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    *UNDONE,
    # A migration ran while this process was up; the driver prepares the statement again next time.
    asyncpg.InvalidCachedStatementError,
)
# Those of them that say nothing about the connection.
OF_THE_STATEMENT = (*UNDONE, asyncpg.LockNotAvailableError)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's errors that may pass into `DatabaseAway`; let all others through.

    In a task that was cancelled, an error of its rollback does not take the place of the cancellation.
    """
    try:
        yield
    except AWAY as error:
        raise error_to_raise() from error


def error_to_raise() -> DatabaseAway | asyncio.CancelledError:
    """Return what to raise in place of an error that may pass: the cancellation, in a task that was cancelled."""
    task = asyncio.current_task()
    return asyncio.CancelledError() if task is not None and task.cancelling() else DatabaseAway()


def was_undone(error: Exception) -> bool:
    """Whether PostgreSQL rolled a transaction back because of another one."""
    return isinstance(error, DatabaseAway) and error.__cause__ is not None and isinstance(root(error.__cause__), UNDONE)


# For a function that is one transaction and has no other effect.
again_if_undone = stamina.retry(on=was_undone, attempts=3, wait_initial=0.05, wait_max=0.5, wait_jitter=0.1)


def reason(error: Exception) -> str:
    """Return what PostgreSQL or the network said, for the log and the operator.

    Not for an HTTP answer: it may name the database and its user.
    """
    cause = error.__cause__ if isinstance(error, DatabaseAway) else None
    if isinstance(error, AppError) and cause is None:
        return error.detail
    return str(explain(cause or error))
