"""Checks that the service can work with a database: for `migrate`, every start, and `doctor`."""

import asyncpg

from aircall_oauth.errors import DatabaseUnfit

OLDEST_POSTGRESQL = 150000
ENCODING = "UTF8"
# Days of the log are made and dropped while the service runs, so its user must own them and be able to create.
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
            f'CREATE SCHEMA … AUTHORIZATION "{found["role"]}", or correct the search_path.',
        )
    if not found["may_create"]:
        raise DatabaseUnfit(
            f"{found['role']!r} may not create tables in the schema {found['schema']!r}.",
            f'As the database\'s owner: GRANT USAGE, CREATE ON SCHEMA "{found["schema"]}" TO "{found["role"]}".',
        )
    if found["of_others"] is not None:
        raise DatabaseUnfit(
            f"{found['role']!r} does not own its tables ({found['of_others']}).",
            f'Connect as their owner, or GRANT their owner TO "{found["role"]}".',
        )
    return str(found["version"])
