"""Runs the migrations: one process at a time, and never waiting long for a lock that live traffic holds."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from aircall_oauth.database import Database
from aircall_oauth.models import Table

MIGRATION_LOCK = 0x61697263616C6C  # "aircall"
TIMEOUTS = ("SET lock_timeout = '5s'", "SET statement_timeout = '10min'")


def run(connection: Connection) -> None:
    # The second process waits here for the first to finish: so no lock timeout yet.
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
    for setting in TIMEOUTS:
        connection.execute(text(setting))
    connection.commit()
    context.configure(connection=connection, target_metadata=Table.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    database = Database(context.config.attributes["url"], command_timeout_seconds=None)
    try:
        async with database.engine.connect() as connection:
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
