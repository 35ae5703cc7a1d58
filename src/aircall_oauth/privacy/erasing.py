"""Carries out erasures, in steps of a few hundred events, each with a short transaction: a chore of the worker.

What is found stays in its place without its `data`, so no reader skips or repeats a position, and its fingerprint stays
too, so that Aircall's repeat of it and a back-fill are recognised. A worker that is killed leaves a step undone; the
next one goes on where the last step ended.
"""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import text

from aircall_oauth.access import audit
from aircall_oauth.access.audit import SERVICE, Action
from aircall_oauth.events.spans import HEAD
from aircall_oauth.privacy import stubs
from aircall_oauth.privacy.searching import Search, search_of
from aircall_oauth.resources import Resources
from aircall_oauth.storage.statuses import ErasureKind, ErasureStatus, InstallationStatus, ReplayStatus
from aircall_oauth.telemetry import log

logger = log.get(__name__)

RUN_SECONDS = 20.0
LEASE = timedelta(minutes=1)
LONG_LEASE = timedelta(minutes=4)  # while a day's pages are cleaned
# Longer than a delivery may take, and its reader needs to write down what came of it.
SETTLED_AFTER = timedelta(seconds=30)

DUE = "SELECT id FROM erasure WHERE due_at <= clock_timestamp()"
HAS_DUE = text(f"EXISTS ({DUE})")
CLAIM = f"""
    UPDATE erasure SET due_at = clock_timestamp() + $1, lease_number = lease_number + 1
    WHERE id = ({DUE} ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING *, ({HEAD}) AS head
"""  # noqa: S608 - only constants of ours are put in
MINE = "UPDATE erasure SET {} WHERE id = $1 AND lease_number = $2 RETURNING id"
STEP = MINE.format("""
    position = $3, searched = searched + $4, erased = erased + $5, parked = parked + $6, delivered = delivered + $7,
    due_at = clock_timestamp() + $8
""")
TURN = MINE.format("status = $3, position = $4, last_position = $5, due_at = clock_timestamp() + $6")
END = MINE.format(
    f"status = '{ErasureStatus.DONE}', pattern_sealed = NULL, ended_at = clock_timestamp(), due_at = NULL"
)
KEEP = MINE.format("due_at = clock_timestamp() + $3")
GIVE_BACK = MINE.format("due_at = clock_timestamp()")
BEHIND = "SELECT id FROM subscription WHERE position < $1 ORDER BY id FOR UPDATE"
# Each is taken over, by any worker, and reads its batch anew.
RENEW_REPLAYS = f"""
    UPDATE replay SET lease_number = lease_number + 1, lease_until = NULL
    WHERE status = '{ReplayStatus.RUNNING}' AND position < $1
"""  # noqa: S608 - only constants of ours are put in
PART = "INSERT INTO erasure_part (erasure_id, first, day, positions) VALUES ($1, $2, $3, $4)"
CALLS = "INSERT INTO erasure_call (erasure_id, fingerprint) SELECT $1, unnest($2::bytea[]) ON CONFLICT DO NOTHING"
DELIVERED = "SELECT count(DISTINCT event_id) FROM attempt WHERE event_id = ANY ($1) AND outcome = 'delivered'"
NEWEST_ERASED = "SELECT max(place) FROM erasure_part, unnest(positions) AS place WHERE erasure_id = $1"
LEFT_BEHIND = """
    SELECT array_agg(DISTINCT place) FROM erasure_part, unnest(positions) AS place
    WHERE erasure_id = $1 AND EXISTS (SELECT FROM parked WHERE position = place)
"""
# The row itself stays, without what it says of the company, unless the customer came back.
FORGET_COMPANY = f"""
    UPDATE installation SET company_name = NULL, number_ids = '{{}}'
    WHERE id = $1 AND status = '{InstallationStatus.REMOVED}'
"""  # noqa: S608 - only constants of ours are put in
FORGET_ATTEMPTS = f"""
    UPDATE install_attempt SET company_name = NULL WHERE installation_id = $1 AND EXISTS (
        SELECT FROM installation WHERE id = $1 AND status = '{InstallationStatus.REMOVED}'
    )
"""  # noqa: S608 - only constants of ours are put in
# What else had something of a customer: its keys, erased when the erasure began.
OF_CUSTOMERS = {ErasureKind.INSTALLATION: ("data_key",)}
DAYS = """
    SELECT DISTINCT day FROM erasure_part p JOIN pg_class c ON c.oid = to_regclass(p.day)
    WHERE erasure_id = $1 ORDER BY day
"""


class LeaseLost(Exception):
    """Another worker has taken the erasure over."""


async def erase(resources: Resources) -> None:
    """Carry on with the erasures that are due, for a while: a chore of the worker."""
    async with resources.database.driver_connection() as connection:
        row = await connection.fetchrow(CLAIM, LEASE)
    if row is None:
        return
    try:
        await Job(resources, row).run()
    except LeaseLost:
        logger.info("erasure taken over", erasure_id=row["id"])


class Job:
    """One erasure, while this worker has it."""

    def __init__(self, resources: Resources, row: asyncpg.Record) -> None:
        self._resources = resources
        self._row = dict(row)
        self._mine = (row["id"], row["lease_number"])
        self._status = ErasureStatus(row["status"])
        # A customer's end is known: if the customer comes back, what comes in then is none of it.
        self._last: int | None = row["last_position"] if row["kind"] == ErasureKind.INSTALLATION else None
        self._position: int = row["position"]
        self._search: Search | None = None

    async def run(self) -> None:
        """Go on until it has to wait, is done, or has had its time; raises `LeaseLost`."""
        enough_at = time.monotonic() + RUN_SECONDS
        while time.monotonic() < enough_at:
            if self._status == ErasureStatus.SETTLING:
                await self._end()
                return
            if await self._step() and not await self._turn():
                return
        async with self._resources.database.driver_connection() as connection:
            await self._write(connection, GIVE_BACK)

    async def _step(self) -> bool:
        """Search the next events and erase what is found; returns whether that was the end of the log."""
        if self._search is None:
            self._search = await search_of(self._resources, self._row)
        following = self._status == ErasureStatus.FOLLOWING
        found = await self._search.next(self._position, following=following, last=self._last)
        async with self._resources.database.driver_connection() as connection, connection.transaction():
            parked = delivered = 0
            erased: list[asyncpg.Record] = []
            if found.events:
                await connection.execute(stubs.LOCK)
                parked = await stubs.free(connection, [event.position for event in found.events])
                erased = await stubs.erase(
                    connection,
                    [event.position for event in found.events],
                    [event.received_at for event in found.events],
                )
                delivered = await connection.fetchval(DELIVERED, [row["id"] for row in erased])
                await self._note(connection, erased, found.calls)
            counts = (found.read, len(erased), parked, delivered)
            await self._write(connection, STEP, found.read_to, *counts, LEASE)
        self._position = found.read_to
        return found.is_end

    async def _note(self, connection: asyncpg.Connection, erased: Sequence[asyncpg.Record], calls: Any) -> None:
        for day in dict.fromkeys(row["day"] for row in erased):
            positions = sorted(row["position"] for row in erased if row["day"] == day)
            await connection.execute(PART, self._mine[0], positions[0], day, positions)
        await connection.execute(CALLS, self._mine[0], calls)

    async def _turn(self) -> bool:
        """Go on to what comes after a search; returns whether there is something to do at once."""
        erasure_id = self._mine[0]
        async with self._resources.database.driver_connection() as connection, connection.transaction():
            calls = await connection.fetchval("SELECT count(*) FROM erasure_call WHERE erasure_id = $1", erasure_id)
            if self._status == ErasureStatus.SEARCHING and calls:
                await self._write(connection, TURN, ErasureStatus.FOLLOWING, 0, self._position, LEASE)
                self._status, self._position, self._search = ErasureStatus.FOLLOWING, 0, None
                return True
            newest = await connection.fetchval(NEWEST_ERASED, erasure_id)
            if newest is not None:
                behind = [row["id"] for row in await connection.fetch(BEHIND, newest)]
                await stubs.renew(connection, behind)
                await connection.execute(RENEW_REPLAYS, newest)
            pause = SETTLED_AFTER if newest is not None else timedelta(0)
            await self._write(connection, TURN, ErasureStatus.SETTLING, self._position, self._position, pause)
        return False

    async def _end(self) -> None:
        """Delete what was parked meanwhile, give the pages back, and forget whom it was about."""
        erasure_id = self._mine[0]
        async with self._resources.database.driver_connection() as connection:
            days = [row["day"] for row in await connection.fetch(DAYS, erasure_id)]
            for table in [*days, "parked", *OF_CUSTOMERS.get(self._row["kind"], ())]:
                await self._write(connection, KEEP, LONG_LEASE)
                await connection.execute(f'VACUUM "{table}"')
        async with self._resources.database.session() as session:
            transaction = await session.connection()
            await transaction.execute(text(stubs.LOCK))
            driver = (await transaction.get_raw_connection()).driver_connection
            assert driver is not None
            late = await driver.fetchval(LEFT_BEHIND, erasure_id)
            parked = await stubs.free(driver, late or [])
            await self._write(driver, STEP, self._position, 0, 0, parked, 0, LEASE)
            await self._write(driver, END)
            if self._row["kind"] == ErasureKind.INSTALLATION:
                await driver.execute(FORGET_COMPANY, self._row["installation_id"])
                await driver.execute(FORGET_ATTEMPTS, self._row["installation_id"])
            await driver.execute("DELETE FROM erasure_call WHERE erasure_id = $1", erasure_id)
            row = await driver.fetchrow("SELECT erased, parked, delivered FROM erasure WHERE id = $1", erasure_id)
            await audit.record(
                session,
                SERVICE,
                Action.ERASURE_DONE,
                installation_id=self._row["installation_id"],
                owner=self._row["owner"],
                details={"erasure_id": erasure_id, "by": self._row["kind"], **dict(row)},
            )
        logger.info("erasure done", erasure_id=erasure_id, erased=row["erased"])

    async def _write(self, connection: asyncpg.Connection, statement: str, *values: Any) -> None:
        if await connection.fetchval(statement, *self._mine, *values) is None:
            raise LeaseLost
