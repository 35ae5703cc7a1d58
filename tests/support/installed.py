"""A first installation that is there at once: copied from one that a whole flow made a moment ago.

Most tests begin with an installation and are about what comes after it. A flow takes ten transactions; its rows, and
what the pretend Aircall knows afterwards, are written in one. Times, ids and secrets are those of the flow.
"""

import copy
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import asyncpg

from aircall_oauth.sandbox.aircall import PretendAircall
from aircall_oauth.settings import Settings
from tests.support.databases import TABLES
from tests.support.service import Service

# Then a flow is gone through again: what it made a while ago would be late for what comes due soon after an install.
FRESH_SECONDS = 20.0
NUMBERS = """
    SELECT format('SELECT setval(%L, %s)', format('%I.%I', schemaname, sequencename), last_value) FROM pg_sequences
    WHERE last_value IS NOT NULL AND schemaname = 'public'
"""
ANYTHING = " OR ".join(
    f"EXISTS (SELECT FROM {table})" for table in ("installation", "event", "flow", "install_attempt")
)
OF_A_FLOW = ("flow", "install_attempt", "installation", "webhook", "budget", "data_key", "event_")
WITHOUT_TRIGGERS = "SET LOCAL session_replication_role = replica"
TOLD = "NOTIFY aircall_oauth_log"


@dataclass(frozen=True)
class _Made:
    """What a flow made in a service with these settings."""

    at: float  # by the monotonic clock
    day: date  # of the table that its events are in
    settings: Settings
    installation_id: str
    rows: str
    known_at_aircall: tuple[Any, ...]


_made: list[_Made] = []


async def first_installation(service: Service) -> str:
    """The id of an active installation of the first company, in a service that has none and whose log is empty."""
    async with service.looking() as connection:
        assert not await connection.fetchval(f"SELECT {ANYTHING}"), "it would not be the first: install another one"
        assert not [*service.aircall.requests, *service.aircall.faults.waiting], "what was asked or broken would count"
        at, today = time.monotonic(), datetime.now(UTC).date()
        for made in _made:
            if (made.settings, made.day) == (service.settings, today) and at < made.at + FRESH_SECONDS:
                await connection.execute(made.rows)
                _tell(service.aircall, copy.deepcopy(made.known_at_aircall))
                return made.installation_id
        before = await _rows(connection)
        installation_id = await service.install()
        after = await _rows(connection)
        added = {table: rows for table, rows in after.items() if table not in before}
        # Nothing of a reader or of a chore that went on beside it.
        if before.items() <= after.items() and all(table.startswith(OF_A_FLOW) for table in added):
            numbers = [row[0] for row in await connection.fetch(NUMBERS)]
            inserts = [_insert(table, rows) for table, rows in added.items()]
            rows = "; ".join(["BEGIN", WITHOUT_TRIGGERS, *inserts, *numbers, TOLD, "COMMIT"])
            _made[:] = [made for made in _made if made.settings != service.settings]
            known = copy.deepcopy(_known(service.aircall))
            _made.append(_Made(at, today, service.settings, installation_id, rows, known))
        return installation_id


def _insert(table: str, rows: str) -> str:
    quoted = rows.replace("'", "''")
    return (
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM json_populate_recordset(NULL::{table}, '{quoted}')"
    )


async def _rows(connection: asyncpg.Connection) -> dict[str, str]:
    """The rows of each table that has some."""
    tables = [row[0] for row in await connection.fetch(TABLES)]
    asked = " UNION ALL ".join(f"SELECT '{table}', json_agg(one)::text FROM {table} AS one" for table in tables)
    return {table: rows for table, rows in await connection.fetch(asked) if rows is not None}


def _known(aircall: PretendAircall) -> tuple[Any, ...]:
    integrations = [company.integration for company in aircall.companies]
    return aircall.grants.codes, aircall.grants.tokens, aircall.webhooks.all, integrations, aircall.requests


def _tell(aircall: PretendAircall, known: tuple[Any, ...]) -> None:
    aircall.grants.codes, aircall.grants.tokens, aircall.webhooks.all, integrations, requests = known
    for company, integration in zip(aircall.companies, integrations, strict=True):
        company.integration = integration
    for request in requests:
        aircall.note(request)
