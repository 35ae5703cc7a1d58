"""What a role needs that runs the service and owns nothing: what it lacks, and the SQL that gives it.

It reads and writes rows. Days of the log are made and dropped for it by functions of the owner (migration 0028).
"""

from dataclasses import dataclass
from typing import Any

import asyncpg

from aircall_oauth.errors import NotReady, RoleRefused

ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
# All tables: without importing them, which takes half of a start.
TABLES = (
    *("alembic_version", "api_key", "attempt", "audit", "budget", "claim", "console_form", "console_link"),
    *("console_session", "creation_key", "data_key", "erasure", "erasure_call", "erasure_part", "event", "event_draft"),
    *("event_fingerprint", "farewell", "figure", "flow", "gap", "install_attempt", "install_tally", "installation"),
    *("log_epoch", "log_reader", "log_start", "owner_retention", "parked", "pulse", "replay", "retired_webhook"),
    *("rhythm", "subscription", "told_call", "trouble", "uninstall", "webhook"),
)
# Tables of which it needs less than the others; no right on a table that is not needed is given.
LESS = {"alembic_version": ("SELECT",), "audit": ("SELECT", "INSERT", "DELETE")}
FUNCTIONS = ("make_log_days(integer)", "drop_log_day(date)")
SEQUENCE = "event_position"
MAINTAIN_SINCE = 170000
SHOWN = 5
LACKED = """
    SELECT needed || ' on ' || named AS lacked
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS need (named, needed, number)
    WHERE NOT has_table_privilege(to_regclass(named), needed)
    UNION ALL
    SELECT 'SELECT on ' || relname FROM pg_inherits JOIN pg_class ON oid = inhrelid
    WHERE inhparent = to_regclass('event') AND NOT has_table_privilege(oid, 'SELECT')
    UNION ALL
    SELECT needed || ' on ' || $3 FROM unnest('{USAGE,SELECT}'::text[]) AS needed
    WHERE NOT has_sequence_privilege(to_regclass($3), needed)
    UNION ALL
    SELECT 'EXECUTE on ' || named FROM unnest($4::text[]) AS named
    WHERE NOT has_function_privilege(to_regprocedure(named), 'EXECUTE')
"""
# What is not needed for a start.
STANDING = """
    SELECT current_user AS role, pg_has_role(relowner, 'USAGE') AS owns,
           current_setting('server_version_num')::int >= $1 AS has_maintain,
           EXISTS (
               SELECT FROM pg_default_acl, aclexplode(defaclacl)
               WHERE defaclobjtype = 'r' AND defaclnamespace IN (0, relnamespace)
                     AND pg_has_role(defaclrole, relowner, 'USAGE')
                     AND privilege_type = 'INSERT' AND grantee <> 0 AND pg_has_role(grantee, 'USAGE')
           ) AS keeps_up
    FROM pg_class WHERE oid = to_regclass('event')
"""
UNMAINTAINED = """
    SELECT EXISTS (
        SELECT FROM (SELECT to_regclass('parked')::oid UNION ALL SELECT inhrelid FROM pg_inherits
                     WHERE inhparent = to_regclass('event')) AS vacuumed (oid)
        WHERE NOT has_table_privilege(oid, 'MAINTAIN')
    )
"""
GRANTED = """
    SELECT quote_ident($1) AS role, quote_ident(current_database()) AS database,
           quote_ident(current_schema()) AS schema,
           to_regprocedure('make_log_days(integer)') IS NOT NULL AS is_migrated,
           EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS is_there,
           (SELECT rolname FROM pg_roles WHERE rolname = $1 AND pg_has_role(oid, log.relowner, 'USAGE')) AS owner,
           (SELECT array_agg(DISTINCT quote_ident(rolname)) FROM pg_roles
            WHERE oid = log.relowner OR rolname = current_user) AS owners,
           current_setting('server_version_num')::int >= $2 AS has_maintain
    FROM (VALUES (1)) AS one LEFT JOIN pg_class AS log ON log.oid = to_regclass('event')
"""


@dataclass(frozen=True)
class Standing:
    """What a connection's role is to the service's tables."""

    role: str
    owns: bool
    keeps_up: bool  # it will have its rights on tables that later versions bring
    may_vacuum: bool
    is_old: bool  # a PostgreSQL in which only owners vacuum

    def doubts(self) -> list[tuple[str, str]]:
        """Return what the service can start without but not do well without, each with advice."""
        doubts = []
        again = f"As the owner, run what `aircall-oauth migrate --print-grants {self.role}` prints."
        if not self.keeps_up:
            doubts.append(("it will have no rights on tables that later versions bring", again))
        if not self.may_vacuum:
            seen = "it may not VACUUM: what is erased stays in PostgreSQL's files until something else vacuums"
            nightly = "Have the owner run VACUUM each night, or use PostgreSQL 17 (docs/database.md)."
            doubts.append((seen, nightly if self.is_old else again))
        return doubts


async def standing(connection: asyncpg.Connection) -> Standing:
    """Return what the connection's role is to the tables, which must be there."""
    found = await connection.fetchrow(STANDING, MAINTAIN_SINCE)
    owns, is_old = found["owns"], not found["has_maintain"]
    may_vacuum = owns or (not is_old and not await connection.fetchval(UNMAINTAINED))
    return Standing(found["role"], owns, found["keeps_up"], may_vacuum, is_old)


async def lacked(connection: asyncpg.Connection) -> list[str]:
    """Return the rights that the connection's role lacks on what is there; each as `INSERT on event`."""
    needs = [(name, right) for name in TABLES for right in LESS.get(name, ROWS)]
    names, rights = zip(*needs, strict=True)
    return [row["lacked"] for row in await connection.fetch(LACKED, names, rights, SEQUENCE, FUNCTIONS)]


def in_short(rights: list[str]) -> str:
    more = f", and {len(rights) - SHOWN} more" if len(rights) > SHOWN else ""
    return ", ".join(rights[:SHOWN]) + more


async def script(connection: asyncpg.Connection, role: str) -> str:
    """Return the SQL that lets a role run the service; it may be run any number of times, by the owner.

    Raises `NotReady` before the first migration, and `RoleRefused` for a role that can't be given rights so.
    """
    # PostgreSQL takes "public" for every role even in quotes.
    if not role or not role.isprintable() or role.lower() == "public":
        raise RoleRefused("Name one role of PostgreSQL's.")
    found = await connection.fetchrow(GRANTED, role, MAINTAIN_SINCE)
    if not found["is_migrated"]:
        raise NotReady("The database's schema is behind: run `aircall-oauth migrate` first.")
    if found["owner"] is not None:
        raise RoleRefused(f"{role!r} owns the tables, or may act as their owner; name a role that does not.")
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Any) -> list[str]:
    role, schema = found["role"], found["schema"]
    on_rows = ", ".join((*ROWS, *(["MAINTAIN"] if found["has_maintain"] else [])))
    functions = ", ".join(f"{schema}.{each}" for each in FUNCTIONS)
    lines = [f"-- What {role} needs to run aircall-oauth in {found['database']}; run it as the owner of the tables."]
    if not found["is_there"]:
        lines.append(f"-- The role is not there yet: CREATE ROLE {role} LOGIN PASSWORD '…';")
    lines += [
        "BEGIN;",
        f"GRANT CONNECT ON DATABASE {found['database']} TO {role};",
        f"REVOKE CREATE ON SCHEMA {schema} FROM {role}, PUBLIC;",
        f"GRANT USAGE ON SCHEMA {schema} TO {role};",
        f"GRANT {on_rows} ON ALL TABLES IN SCHEMA {schema} TO {role};",
        *(
            f"REVOKE {', '.join(right for right in ROWS if right not in rights)} ON {schema}.{table} FROM {role};"
            for table, rights in LESS.items()
        ),
        f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};",
        f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC;",
        f"GRANT EXECUTE ON FUNCTION {functions} TO {role};",
    ]
    for owner in found["owners"]:
        later = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"
        lines += [f"{later} {on_rows} ON TABLES TO {role};", f"{later} USAGE, SELECT ON SEQUENCES TO {role};"]
    return [*lines, "COMMIT;"]
