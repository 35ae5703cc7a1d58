"""Runs the migrations: one process at a time, and never waiting long for a lock that live traffic holds."""

import asyncio
import time
from itertools import chain, repeat

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from aircall_oauth.storage import locks
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.faults import root
from aircall_oauth.storage.models.base import Table

# Whoever comes after a lock that is waited for waits too, events among them; Aircall gives an event five seconds.
TIMEOUTS = ("SET lock_timeout = '300ms'", "SET statement_timeout = '10min'")
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
LONGEST_PAUSE_SECONDS = 5.0
TELL_AGAIN_SECONDS = 15.0
ASK_AGAIN_SECONDS = 0.2
OLDEST_TRANSACTION = """
    SELECT pid, application_name, extract(epoch FROM clock_timestamp() - xact_start)::int AS seconds
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    ORDER BY xact_start LIMIT 1
"""


def run(connection: Connection) -> None:
    _be_alone(connection)
    for setting in TIMEOUTS:
        connection.execute(text(setting))
    connection.commit()
    give_up_at, tell_at = time.monotonic() + context.config.attributes["lock_seconds"], 0.0
    for pause in chain(PAUSES_SECONDS, repeat(LONGEST_PAUSE_SECONDS)):
        try:
            _migrate(connection)
        except DBAPIError as error:
            connection.rollback()
            if not isinstance(root(error), asyncpg.LockNotAvailableError) or time.monotonic() >= give_up_at:
                raise
            if time.monotonic() >= tell_at:
                _tell(f"A table is in use{_by_whom(connection)}; tried again in pauses in which events flow.")
                tell_at = time.monotonic() + TELL_AGAIN_SECONDS
            time.sleep(min(pause, max(give_up_at - time.monotonic(), 0)))
        else:
            return


def _be_alone(connection: Connection) -> None:
    """Wait for other processes' migrations to finish, without a lock timeout.

    It asks again and again instead of waiting in a statement: an index that is built beside its table's writers waits
    for every statement under way, so the other migration would wait for this one.
    """
    told = False
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": locks.MIGRATION}):
        connection.rollback()
        if not told:
            _tell("Another migration is under way; waiting for it.")
            told = True
        time.sleep(ASK_AGAIN_SECONDS)


def _migrate(connection: Connection) -> None:
    """Each migration in a transaction of its own; those that were done before are not done again."""
    context.configure(connection=connection, target_metadata=Table.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def _by_whom(connection: Connection) -> str:
    oldest = connection.execute(text(OLDEST_TRANSACTION)).one_or_none()
    connection.rollback()
    if oldest is None:
        return ""
    return f" (the oldest transaction: process {oldest.pid}, {oldest.application_name!r}, for {oldest.seconds} s)"


def _tell(line: str) -> None:
    context.config.attributes["tell"](line)


async def online() -> None:
    database = Database(context.config.attributes["url"], command_timeout_seconds=None)
    try:
        async with database.sessions.engine.connect() as connection:
            # The session's end gives the advisory lock back, whatever happens before.
            await connection.run_sync(run)
            await connection.invalidate()
    finally:
        await database.close()


def offline() -> None:
    """Print the SQL, for the migration linter."""
    context.configure(dialect_name="postgresql", target_metadata=Table.metadata)
    for setting in TIMEOUTS:
        context.execute(setting)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
