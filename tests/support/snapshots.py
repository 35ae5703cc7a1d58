"""What stands in the database and at Aircall, with what is random left out: two ends of one story look the same."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import asyncpg

from aircall_oauth.resources import vault_of
from aircall_oauth.sandbox.aircall import PretendAircall, Webhook
from aircall_oauth.settings import Settings
from aircall_oauth.storage import partitions
from aircall_oauth.storage.sealed import WEBHOOK_TOKEN_PURPOSE

Picture = dict[str, list[tuple[Any, ...]]]

TABLES = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
    AND NOT relispartition ORDER BY relname
"""
# Which days are there is another thing after midnight; those that are long past are named.
PAST_DAYS = """
    SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'event'::regclass
    AND inhrelid::regclass::text < 'event_' || to_char(now() AT TIME ZONE 'UTC' - interval '2 days', 'YYYYMMDD')
    ORDER BY name
"""
# The number of requests to Aircall: a killed process has sent some of them twice. What was counted: it may be lost.
LEFT_OUT = {"budget", "figure", "log_epoch"}
# A position is drawn outside of transactions, so one that came to nothing leaves a hole. The order is what counts.
IN_ORDER = {"event": "position"}
# How often something was tried: once more by whoever comes after one that was killed.
TRIES = {"attempts", "lease_number"}
OF_ERASURE = re.compile(r"era_[0-9a-f]{32}")
RANDOM = re.compile(r"[a-z]{3}_[0-9a-f]{32}|v1\..+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def known_values(connection: asyncpg.Connection, aircall: PretendAircall) -> set[Any]:
    """All texts and fingerprints that are there, and all webhooks."""
    rows = [row for _, found in await _tables(connection) for row in found]
    values = {value for row in rows for value in row.values() if isinstance(value, str | bytes)}
    return values | {hook.webhook_id for hook in aircall.webhooks.all}


async def picture(
    connection: asyncpg.Connection, aircall: PretendAircall, settings: Settings, known: set[Any]
) -> Picture:
    """Every table, and every company at Aircall. Values in `known` are shown as they are."""
    shown: Picture = {}
    for table, rows in await _tables(connection):
        hidden = IN_ORDER.get(table)
        lines = [tuple(_shown(name, value, known) for name, value in row.items() if name != hidden) for row in rows]
        shown[table] = lines if hidden else sorted(lines, key=repr)
    shown["days past"] = [tuple(row) for row in await connection.fetch(PAST_DAYS)]
    shown["days ahead"] = [(await partitions.days_ahead(connection),)]
    shown["at Aircall"] = await _at_aircall(connection, aircall, settings, known)
    return shown


def differences(one: Picture, other: Picture) -> dict[str, tuple[Any, Any]]:
    """Where two pictures are not the same: what only the one has, and what only the other has."""
    return {
        name: (_without(one[name], other[name]), _without(other[name], one[name]))
        for name in one
        if one[name] != other[name]
    }


def _without(lines: list[tuple[Any, ...]], others: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    left = list(lines)
    for line in others:
        if line in left:
            left.remove(line)
    return left


async def _tables(connection: asyncpg.Connection) -> list[tuple[str, list[asyncpg.Record]]]:
    names = [row["relname"] for row in await connection.fetch(TABLES)]
    order = {name: f"ORDER BY {column}" for name, column in IN_ORDER.items()}
    return [
        (name, await connection.fetch(f"SELECT * FROM {name} {order.get(name, '')}"))
        for name in names
        if name not in LEFT_OUT
    ]


def _shown(column: str, value: Any, known: set[Any]) -> Any:
    if column in TRIES:
        return "tried" if value else "not tried"
    # What the audit tells of an erasure, in JSON.
    return _known(OF_ERASURE.sub("a new id", value) if column == "details" and value else value, known)


def _known(value: Any, known: set[Any]) -> Any:
    match value:
        case datetime():
            return "a time"
        case bytes() if value not in known:
            return "a new fingerprint"
        case str() if value not in known and RANDOM.fullmatch(value):
            return "a new id or secret"
        case asyncpg.BitString():
            return value.as_string()
        case list():
            return tuple(value)
        case _:
            return value


async def _at_aircall(
    connection: asyncpg.Connection, aircall: PretendAircall, settings: Settings, known: set[Any]
) -> list[tuple[Any, ...]]:
    vault = vault_of(settings)
    ours = {
        row["webhook_id"]: (row["installation_id"], row["token_fingerprint"])
        for row in await connection.fetch("SELECT webhook_id, installation_id, token_fingerprint FROM webhook")
    }
    retired = {row["webhook_id"] for row in await connection.fetch("SELECT webhook_id FROM retired_webhook")}

    def role(hook: Webhook) -> str:
        """Return what a webhook at Aircall is for, and whether its installation recognises its token."""
        if hook.webhook_id in retired:
            return "retired"
        installation_id, fingerprint = ours.get(hook.webhook_id, ("nobody", None))
        recognised = fingerprint == vault.fingerprint(hook.token, WEBHOOK_TOKEN_PURPOSE)
        return installation_id if recognised else f"{installation_id}, who does not recognise it"

    return [
        (
            company.id,
            company.integration.id,
            company.integration.active,
            len(aircall.tokens_of(company)),
            *sorted(
                (role(hook), _known(hook.webhook_id, known), hook.url, hook.custom_name, hook.active, len(hook.events))
                for hook in aircall.webhooks.of(company.id)
            ),
        )
        for company in aircall.companies
    ]
