"""The dialect that the engines of a test process share is what each would have worked out itself."""

from typing import Any

import asyncpg
from sqlalchemy import Dialect
from sqlalchemy.ext.asyncio import create_async_engine

from aircall_oauth.storage.database import Database

PLAIN = (bool, int, str, tuple, type(None))


def traits(dialect: Dialect) -> dict[str, Any]:
    return {name: value for name, value in vars(dialect).items() if isinstance(value, PLAIN)}


async def test_the_common_dialect_is_like_an_engines_own(database_url: str) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": lambda: asyncpg.connect(database_url)}
    )
    database, another = Database(database_url), Database(database_url)
    try:
        async with engine.connect(), database.session() as session:
            await session.connection()
    finally:
        await engine.dispose()
        await database.close()
    own, common = engine.dialect, database.sessions.engine.dialect

    assert common is another.sessions.engine.dialect
    assert common is not own
    assert traits(common).items() >= traits(own).items()
    assert traits(own)["server_version_info"] is not None
