"""Checks that the service can work with a database: for `migrate`, every start, and `doctor`."""

from typing import Any

import asyncpg

from aircall_oauth.errors import DatabaseUnfit
from aircall_oauth.storage import rights

OLDEST_POSTGRESQL = 150000
ENCODING = "UTF8"
# The role that migrates must own the tables and may create some; for the service rights on them are enough.
FOUND = """
    SELECT current_setting('server_version_num')::int AS version_number,
           current_setting('server_version') AS version,
           current_setting('server_encoding') AS encoding,
           current_user AS role,
           current_schema() AS schema,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
           (SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class
            WHERE oid IN (to_regclass('alembic_version'), to_regclass('event'))
                  AND NOT pg_has_role(relowner, 'USAGE')) AS of_others
"""


async def require_fit(connection: asyncpg.Connection) -> str:
    """Return PostgreSQL's version; raises `DatabaseUnfit` for a database that the service cannot work with."""
    found = await connection.fetchrow(FOUND)
    _require_postgresql(found)
    if found["of_others"] is None:
        _require_ownership(found)
    elif lacked := await rights.lacked(connection):
        raise DatabaseUnfit(
            f"{found['role']!r} does not own its tables ({found['of_others']}), and lacks {rights.in_short(lacked)}.",
            f"Connect as their owner, or run as their owner what `aircall-oauth migrate --print-grants "
            f"{found['role']}` prints (docs/database.md).",
        )
    return str(found["version"])


async def require_fit_to_migrate(connection: asyncpg.Connection) -> None:
    """Raise `DatabaseUnfit` for a database that cannot be migrated, or not by the connection's role."""
    found = await connection.fetchrow(FOUND)
    _require_postgresql(found)
    _require_ownership(found)


def _require_postgresql(found: Any) -> None:
    if found["version_number"] < OLDEST_POSTGRESQL:
        raise DatabaseUnfit(f"It is PostgreSQL {found['version']}.", "PostgreSQL 15 or newer is needed.")
    if found["encoding"] != ENCODING:
        raise DatabaseUnfit(
            f"Its encoding is {found['encoding']}, which cannot hold every event.",
            "Make a database with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
        )
    if found["schema"] is None:
        raise DatabaseUnfit(
            f"No schema in the search_path of {found['role']!r} is there, or may be used.",
            "Connect as the role that owns the tables, where it is another one (docs/database.md, Two roles); or "
            f'CREATE SCHEMA … AUTHORIZATION "{found["role"]}", or correct the search_path.',
        )


def _require_ownership(found: Any) -> None:
    if found["of_others"] is not None:
        raise DatabaseUnfit(
            f"{found['role']!r} does not own its tables ({found['of_others']}).",
            "Connect as their owner; for `migrate` alone, where the service's role is to own nothing "
            f'(docs/database.md, Two roles). Or GRANT their owner TO "{found["role"]}".',
        )
    if not found["may_create"]:
        raise DatabaseUnfit(
            f"{found['role']!r} may not create tables in the schema {found['schema']!r}.",
            f'As the database\'s owner: GRANT USAGE, CREATE ON SCHEMA "{found["schema"]}" TO "{found["role"]}".',
        )
