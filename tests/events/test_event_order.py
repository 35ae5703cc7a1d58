"""A reader that follows the log by position skips nothing, however many write and however slowly they commit."""

import asyncio
import hashlib
import os
from collections.abc import Callable

import asyncpg
import pytest

from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import Unavailable
from aircall_oauth.events import store
from aircall_oauth.events.receiver.inbox import Inbox
from aircall_oauth.events.receiver.statement import Arrival, TakenIn
from aircall_oauth.events.receiver.writers import open_inbox
from aircall_oauth.resources import Resources
from aircall_oauth.storage.database import Database
from aircall_oauth.storage.models.installations import Installation
from aircall_oauth.storage.sealed import WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.telemetry.metrics import Metrics
from tests.support.forked import fork
from tests.support.service import Service

WRITERS = 3
# More of them, such as 67000, take as much longer.
EVENTS_PER_WRITER = int(os.environ.get("EVENTS", "20000"))
# So many wait in each process at a time; they go in a few groups.
AT_ONCE = 700
OWN_EVENTS = 150
PATIENCE_SECONDS = 90.0

# A commit is slow now and then, after its positions were drawn: a deferred trigger runs when everything else is done.
SLOW_COMMITS = (
    """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < 0.001 THEN PERFORM pg_sleep(0.01); END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON event
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
    """,
)


@pytest.mark.slow
async def test_a_reader_skips_nothing_while_several_processes_write(service: Service) -> None:
    installation_id = await service.installed()
    url = service.settings.database_url.get_secret_value()
    token = service.resources.vault.fingerprint(service.webhook_token(), WEBHOOK_TOKEN_PURPOSE)
    for statement in SLOW_COMMITS:
        await service.sql(statement)

    writers = [fork(_write, url, token, number) for number in range(WRITERS)]
    appending = asyncio.create_task(_append_many(service.resources, installation_id))
    seen = await _follow(url, until=lambda: appending.done() and not any(w.is_alive() for w in writers))
    await appending

    assert [0] * WRITERS == [writer.exitcode for writer in writers]
    stored = [row["position"] for row in await service.sql("SELECT position FROM event ORDER BY position")]
    assert len(stored) == 1 + OWN_EVENTS + WRITERS * EVENTS_PER_WRITER
    assert seen == stored


async def test_a_reader_with_small_pages_meets_every_event_once(service: Service) -> None:
    installation_id = await service.installed()
    await _append_many(service.resources, installation_id, count=25)
    seen, after, more = [], 0, True

    async with await service.partner(Scope.EVENTS_READ) as partner:
        while more:
            page = (await partner.get("/v1/events", params={"after": after, "limit": 7})).json()
            seen += [event["position"] for event in page["events"]]
            after, more = page["next"], page["more"]

    assert seen == [row["position"] for row in await service.sql("SELECT position FROM event ORDER BY position")]
    assert len(seen) >= 25


def _write(url: str, token: bytes, writer: int) -> None:
    """A process that takes events in as the receiver's door does, many at once."""
    asyncio.run(_take_in_many(url, token, writer))


async def _take_in_many(url: str, token: bytes, writer: int) -> None:
    numbers = iter(range(EVENTS_PER_WRITER))
    database = Database(url)

    async def take_in(inbox: Inbox) -> None:
        for number in numbers:
            fingerprint = hashlib.sha256(b"%d %d" % (writer, number)).digest()
            arrival = Arrival(token, "call.created", "call", None, fingerprint, "{}")
            while await _tried(inbox, arrival) is None:
                pass

    async with open_inbox(database, Metrics()) as inbox, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(take_in(inbox))
    await database.close()


async def _tried(inbox: Inbox, arrival: Arrival) -> TakenIn | None:
    """Send an event again as long as it is refused, as Aircall does."""
    try:
        return await inbox.take_in(arrival)
    except Unavailable:
        return None


async def _append_many(resources: Resources, installation_id: str, count: int = OWN_EVENTS) -> None:
    for number in range(count):
        async with resources.database.session() as session:
            installation = await session.get_one(Installation, installation_id)
            await store.append(session, installation, "installation.changed", {"number": number})


async def _follow(url: str, until: Callable[[], bool]) -> list[int]:
    """Read on and on past the last position, close behind the writers; the positions as they came.

    With bare SQL: the door reads no other way, but a reader that falls behind would meet no commit under way.
    """
    seen = [0]
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            written = until()
            rows = await connection.fetch(
                "SELECT position FROM event WHERE position > $1 ORDER BY position LIMIT 1000", seen[-1]
            )
            seen += [row["position"] for row in rows]
            if written and not rows:
                await connection.close()
                return seen[1:]
