"""A database with a clock that tests set: `UPDATE clock SET ahead = …`; and tests that count by the minute."""

import asyncio
import time

import asyncpg

SECONDS_OF_A_TEST = 5.0


async def early_in_a_minute() -> None:
    """Wait until a minute has some seconds left: what a test counts into it, and the page it looks at, are of one."""
    left = 60 - time.time() % 60
    if left < SECONDS_OF_A_TEST:
        await asyncio.sleep(left + 0.1)


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
