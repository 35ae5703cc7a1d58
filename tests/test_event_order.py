"""A reader that follows the log by position skips nothing, however many write and however slowly they commit."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from aircall_oauth import eventlog
from aircall_oauth.app import create_app
from aircall_oauth.models import Installation, Scope
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.settings import Settings
from tests.fakes import Service

EVENTS_PER_POSTER = 250
POSTERS_PER_PROCESS = 5
OWN_EVENTS = 150

# Every writer's commit is slow now and then: a deferred trigger runs when everything else is done.
SLOW_COMMITS = (
    """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF random() < 0.05 THEN PERFORM pg_sleep(0.01); END IF;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON event
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
    """,
)


async def test_a_reader_skips_nothing_while_many_write(service: Service) -> None:
    installation_id = await service.install()
    token, written = service.webhook_token(), asyncio.Event()
    for statement in SLOW_COMMITS:
        await service.sql(statement)

    async with (
        await service.partner(Scope.EVENTS_READ) as partner,
        _another_process(service.settings) as (other, elsewhere),
    ):
        following = asyncio.create_task(_follow(partner, until=written))
        async with asyncio.TaskGroup() as writers:
            for number in range(POSTERS_PER_PROCESS):
                writers.create_task(_post_many(service.browser, token, f"here {number}"))
                writers.create_task(_post_many(elsewhere, token, f"there {number}"))
            writers.create_task(_append_many(other, installation_id))
        written.set()
        seen = await following

    stored = [row["position"] for row in await service.sql("SELECT position FROM event ORDER BY position")]
    assert len(stored) >= 2 * POSTERS_PER_PROCESS * EVENTS_PER_POSTER + OWN_EVENTS
    assert seen == stored


async def test_a_reader_with_small_pages_meets_every_event_once(service: Service) -> None:
    installation_id = await service.install()
    await _append_many(service.resources, installation_id, count=25)
    seen, after, more = [], 0, True

    async with await service.partner(Scope.EVENTS_READ) as partner:
        while more:
            page = (await partner.get("/v1/events", params={"after": after, "limit": 7})).json()
            seen += [event["position"] for event in page["events"]]
            after, more = page["next"], page["more"]

    assert seen == [row["position"] for row in await service.sql("SELECT position FROM event ORDER BY position")]
    assert len(seen) >= 25


@asynccontextmanager
async def _another_process(settings: Settings) -> AsyncIterator[tuple[Resources, httpx.AsyncClient]]:
    """The service once more on the same database, with nothing shared but that."""
    async with open_resources(settings) as resources:

        @asynccontextmanager
        async def opened() -> AsyncIterator[Resources]:
            yield resources

        app = create_app(opened)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url=settings.public_url) as client,
        ):
            yield resources, client


async def _post_many(client: httpx.AsyncClient, token: str, name: str) -> None:
    for number in range(EVENTS_PER_POSTER):
        event = {"event": "call.created", "token": token, "data": {"name": name, "number": number}}
        answer = await client.post("/aircall/webhook", content=json.dumps(event))
        assert answer.status_code == 200


async def _append_many(resources: Resources, installation_id: str, count: int = OWN_EVENTS) -> None:
    for number in range(count):
        async with resources.database.session() as session:
            installation = await session.get_one(Installation, installation_id)
            await eventlog.append(session, installation, "installation.noticed", {"number": number})


async def _follow(partner: httpx.AsyncClient, until: asyncio.Event) -> list[int]:
    """Read on and on, until everything is written and there is nothing more; the positions as they came."""
    seen: list[int] = []
    while True:
        written = until.is_set()
        page = (await partner.get("/v1/events", params={"after": seen[-1] if seen else 0, "limit": 1000})).json()
        seen += [event["position"] for event in page["events"]]
        if written and not page["more"]:
            return seen
