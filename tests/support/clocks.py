"""A database with a clock that tests set: `UPDATE clock SET ahead = …`; and tests that count by the minute."""

import asyncio
import time

import asyncpg

# What was counted in a minute is written within so many seconds; a plot does not show the minute before.
WRITTEN_SECONDS = 4.0
LATE_SECONDS = 54.0


async def early_in_a_minute() -> None:
    """Wait for the early seconds of a minute: what a test counts and the page it looks at belong to one then."""
    passed = time.time() % 60
    if not WRITTEN_SECONDS < passed < LATE_SECONDS:
        await asyncio.sleep((WRITTEN_SECONDS - passed) % 60 + 0.1)


async def set_a_clock(database_url: str) -> None:
    """PostgreSQL's clock in this database, put ahead or back for all connections from now on."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        """
        CREATE TABLE clock AS SELECT interval '0' AS ahead;
        CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
            'SELECT pg_catalog.clock_timestamp() + (SELECT ahead FROM public.clock)';
        CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql AS
            'SELECT pg_catalog.now() + (SELECT ahead FROM public.clock)';
        ALTER DATABASE test SET search_path = public, pg_catalog;
        ALTER FUNCTION make_log_days SET search_path = public, pg_catalog;
        ALTER FUNCTION drop_log_day SET search_path = public, pg_catalog;
        """
    )
    await connection.close()
