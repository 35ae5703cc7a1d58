"""The schema's migrations: where they are, which is the newest, and running them."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from aircall_oauth.storage import rights
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.faults import SETTING
from aircall_oauth.storage.fitness import require_fit_to_migrate
from aircall_oauth.storage.hosts import Route

if TYPE_CHECKING:
    from alembic.config import Config

LOCK_WAIT = timedelta(minutes=2)


def migrations_folder() -> Path:
    """Return the folder of the migrations: the wheel's copy, or the checkout's."""
    packaged = Path(str(files("aircall_oauth") / "_alembic"))
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "alembic"


def alembic_config(
    url: str = "", *, lock_wait: timedelta = LOCK_WAIT, tell: Callable[[str], None] = lambda _line: None
) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes |= {"url": url, "lock_seconds": lock_wait.total_seconds(), "tell": tell}
    return config


def newest_schema_version() -> str:
    """The revision this code was written for: the number that the last migration's file begins with.

    Read off the names, because every process asks at its start, and Alembic would read each file.
    """
    return max(path.name.partition("_")[0] for path in (migrations_folder() / "versions").glob("[0-9]*_*.py"))


async def migrate(
    url: str,
    *,
    setting: str = SETTING,
    lock_wait: timedelta = LOCK_WAIT,
    tell: Callable[[str], None] = lambda _line: None,
) -> None:
    """Bring the schema up to date; safe to run from many processes at once (once at a time within one).

    A table that is in use is tried again for as long as `lock_wait`; `tell` is called with what is waited for. A schema
    newer than this code is left alone: the version that made it works with ours. Errors name the URL's `setting`.
    Raises `DatabaseUnfit`.
    """
    database = Database(Route(url, setting=setting))
    try:
        await database.require_own_sessions()
        async with database.driver_connection() as connection:
            await require_fit_to_migrate(connection)
        version = await database.schema_version()
    finally:
        await database.close()
    if version is None or version < newest_schema_version():
        import alembic.command

        from aircall_oauth.storage.sessions import session_errors

        config = alembic_config(url, lock_wait=lock_wait, tell=tell)
        with session_errors():
            await asyncio.to_thread(alembic.command.upgrade, config, "head")


async def grants(url: str, role: str, *, setting: str = SETTING) -> str:
    """Return the SQL that lets a role run the service without owning anything."""
    database = Database(Route(url, setting=setting))
    try:
        async with database.driver_connection() as connection:
            return await rights.script(connection, role)
    finally:
        await database.close()
