"""A migration that would keep a large table locked is refused, with figures.

squawk judges the text of the SQL (`test_migrations`); this watches what PostgreSQL does.
"""

import asyncio

import alembic.command
import asyncpg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from aircall_oauth.storage.database import Database
from aircall_oauth.storage.migrations import alembic_config
from tests.support.watched_migrations import Watch, tables_of, watching

# An event waits while its table is locked, and Aircall waits five seconds for its answer.
MOST_SECONDS = 1.0


# Before the first version there are no rows: these made their indexes while nobody had the tables.
OF_THE_BEGINNING = {"0003"}
SAMPLES = {
    "ALTER TABLE audit ADD COLUMN more text": None,
    "ALTER TABLE subscription ADD CONSTRAINT named CHECK (name <> '')": None,
    "ALTER TABLE audit ADD CONSTRAINT known CHECK (actor <> '')": (
        "holds AccessExclusiveLock of audit for about 100 s: it reads 100,000,000 rows of audit, by ALTER TABLE audit"
    ),
    "CREATE INDEX more ON parked (attempts)": "holds ShareLock of parked for about 10 s: it reads 10,000,000 rows",
    "ALTER TABLE gap ALTER COLUMN added TYPE numeric": "about 5 s: it rewrites 1,000,000 rows of gap",
    "UPDATE parked SET attempts = 0": "holds locks on rows of parked for about 250 s: it updates 10,000,000 rows",
    "LOCK TABLE installation IN SHARE MODE; SELECT count(*) FROM attempt": (
        "holds ShareLock of installation for about 1,200 s: it reads 1,200,000,000 rows of attempt"
    ),
}


@pytest.mark.slow
async def test_no_migration_keeps_a_table_locked_for_long(empty_database: str) -> None:
    config, refusals = alembic_config(empty_database), list[str]()
    connection = await asyncpg.connect(empty_database)
    try:
        for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
            watch = Watch(script.revision, MOST_SECONDS, await tables_of(connection))
            with watching(watch):
                await asyncio.to_thread(alembic.command.upgrade, config, script.revision)
            refusals += watch.refusals if script.revision not in OF_THE_BEGINNING else []
    finally:
        await connection.close()

    assert refusals == []


async def test_what_would_keep_a_large_table_locked_is_refused_with_figures(database_url: str) -> None:
    connection, opened = await asyncpg.connect(database_url), Database(database_url)
    try:
        for statements, told in SAMPLES.items():
            watch = Watch("9999", MOST_SECONDS, await tables_of(connection))
            with watching(watch):
                async with opened.sessions.engine.begin() as session:
                    for statement in statements.split("; "):
                        await session.execute(text(statement))
                    await session.rollback()
            assert [bool(told)] == [len(watch.refusals) > 0], (statements, watch.refusals)
            assert told is None or any(told in refusal for refusal in watch.refusals), watch.refusals
    finally:
        await opened.close()
        await connection.close()
