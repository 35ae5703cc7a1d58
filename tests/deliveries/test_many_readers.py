"""Many subscriptions in one worker: new events are read once, and a deleted subscription's reader ends at once."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest
from aiohttp import web

from aircall_oauth.deliveries.destinations.outcomes import Message
from aircall_oauth.deliveries.reader import memory, queue, tail
from aircall_oauth.deliveries.reader.connections import Connections
from aircall_oauth.deliveries.reader.queue import Item, Window
from aircall_oauth.deliveries.reader.read_ahead import ReadAhead
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.events.query import Filter
from aircall_oauth.storage.stamps import now
from tests.support.receivers import (
    LOOPBACK,
    Received,
    Receiver,
    answer_with,
    fill,
    raw_receiver,
    receiver,
    subscribe,
    subscription_body,
)
from tests.support.service import Service, run_service, settings_for, until

SUBSCRIPTIONS, EVENTS = 80, 40
FILL = """
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, source, data)
    SELECT nextval('event_position'), now(), 'evt_' || $1::text, 'ins_1', 1, 'call.created', 'call', 'aircall', '{}'
"""
COMMITTED = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


@pytest.mark.slow
async def test_events_that_are_not_wanted_cost_few_statements_however_many_subscriptions(service: Service) -> None:
    await service.installed()
    async with receiver() as to:
        partner = await subscribe(service, to.url, types=["message.*"])
        body = subscription_body(to.url, name="other", types=["message.*"])
        for _ in range(SUBSCRIPTIONS - 1):
            assert (await partner.client.post("/v1/subscriptions", json=body)).status_code == 201
        connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
        async with reading(service.resources):
            leased = "SELECT count(*) FROM subscription WHERE lease_until > now()"
            await until_value(connection, leased, SUBSCRIPTIONS)
            await connection.execute(FILL, "first")
            await connection.execute("NOTIFY aircall_oauth_log")
            await until_value(connection, "SELECT count(*) FROM subscription WHERE position >= 2", SUBSCRIPTIONS)
            before, started = await committed(connection), time.monotonic()
            for number in range(EVENTS):
                await connection.execute(FILL, str(number))
                await connection.execute("NOTIFY aircall_oauth_log")
                await asyncio.sleep(0.05)
            statements = await committed(connection) - before - 2 * EVENTS
            per_second = statements / (time.monotonic() - started)
            head = await connection.fetchval("SELECT max(position) FROM event")
            everywhere = f"SELECT count(*) FROM subscription WHERE position = {head}"
            await until_value(connection, everywhere, SUBSCRIPTIONS)
            await partner.stands(lag=0)
        await connection.close()

    # One for each event and subscription would be 1,600; a busy machine reports some of before too late.
    assert per_second < 3 * SUBSCRIPTIONS
    assert to.received == []


async def until_value(connection: asyncpg.Connection, query: str, value: int) -> None:
    async with asyncio.timeout(60):
        while await connection.fetchval(query) != value:  # noqa: ASYNC110 - of the database nothing tells
            await asyncio.sleep(0.1)


async def committed(connection: asyncpg.Connection) -> int:
    """Transactions so far, one for each statement of a reader."""
    await asyncio.sleep(1.1)  # the other connections report theirs once a second
    await connection.execute("SELECT pg_stat_force_next_flush()")
    count: int = await connection.fetchval(COMMITTED)
    return count


@pytest.mark.slow
async def test_those_that_keep_up_and_those_behind_get_all_they_want(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "PAGE", 7)
    monkeypatch.setattr(tail, "MOST_BYTES", 20 * queue.ITEM_BYTES)
    await service.installed()

    async def slowly(received: Received) -> web.Response:
        await asyncio.sleep(0.02)
        return web.Response()

    async with receiver() as to, receiver() as slow, reading(service.resources):
        slow.answer = slowly
        partners = [await subscribe(service, f"{to.url}/{n}") for n in range(3)]
        partners += [await subscribe(service, slow.url, order="installation")]
        nothing = await subscribe(service, to.url, types=["user.*"])
        for first in range(0, 300, 30):
            await fill(service, 30, first=first, installations=3)
            await asyncio.sleep(0.02)
        for partner in (*partners, nothing):
            await partner.stands(lag=0, seconds=60)

    assert to.count() == dict.fromkeys(range(300), 3)
    assert slow.count() == dict.fromkeys(range(300), 1)
    assert in_order(slow)


def in_order(to: Receiver) -> bool:
    taken = [(event["installation_id"], event["position"]) for event in to.taken]
    return sorted(taken, key=lambda each: each[0]) == sorted(taken)


async def test_a_filter_takes_in_memory_what_it_takes_in_sql(service: Service) -> None:
    await service.installed()
    kinds = ["call.created", "call.ended", "callback.created", "user.created", "call_x.ended", "callyx.ended"]
    for number, kind in enumerate(kinds * 2):
        await service.sql(FILL, str(number))
        owner = None if number < len(kinds) else "acme"
        await service.sql(
            "UPDATE event SET type = $1, owner = $2, installation_id = $3 WHERE id = $4",
            *(kind, owner, f"ins_{number % 3}", f"evt_{number}"),
        )
    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    followed = Tail()
    await followed.follow(connection, service.resources.data_keys)
    followed.start = followed.head = 0
    await followed.follow(connection, service.resources.data_keys)
    rows = await connection.fetch("SELECT * FROM event ORDER BY position")
    wanted = [
        Filter(types, owners, installations)
        for types in ([], ["call.*"], ["call.ended", "user.*"], ["*"], ["call_x.*"], ["c*"])
        for owners in ([], ["acme"], ["other"])
        for installations in ([], ["ins_1"], ["ins_0", "ins_2"])
    ]

    for each in wanted:
        conditions, values = each.sql(first=1)
        by_sql = await connection.fetch(
            f"SELECT position FROM event WHERE true {conditions} ORDER BY position", *values
        )
        items, read_to, more = followed.read(each, 0, limit=100, most_bytes=10**9)
        assert [item.position for item in items] == [row["position"] for row in by_sql]
        assert (read_to, more) == (rows[-1]["position"], False)
    await connection.close()


async def test_a_deleted_one_is_let_go_at_once_though_its_destination_hangs(service: Service) -> None:
    await service.installed()
    asked, closed = [], []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        while await reader.read(65536):
            pass
        closed.append(writer)

    async with raw_receiver(hang) as url, reading(service.resources):
        partner = await subscribe(service, url)
        await fill(service, 8)
        await until(lambda: len(asked) == 8)
        await partner.post("pause")
        await asyncio.sleep(0.2)  # its reader waits for what is out
        paused = list(closed)
        deleted = time.monotonic()
        assert (await partner.client.delete(f"/v1/subscriptions/{partner.id}")).status_code == 204
        await until(lambda: len(closed) == 8, seconds=10)
        let_go = time.monotonic()

    assert paused == []
    assert let_go - deleted < 5  # a delivery may take fifteen


async def test_a_reader_that_has_ended_gives_its_memory_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: set[memory.Memory] = set()
    note = memory.Memory.note

    def noted(self: memory.Memory, reader: object, held: int) -> None:
        note(self, reader, held)
        budgets.add(self)

    monkeypatch.setattr(memory.Memory, "note", noted)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        to.answer = answer_with(503)
        partner = await subscribe(service, to.url)
        await fill(service, 8)
        await partner.stands(health="down")
        (budget,) = budgets
        held = budget.held
        assert (await partner.client.delete(f"/v1/subscriptions/{partner.id}")).status_code == 204
        await until(lambda: budget.held == 0, seconds=10)

    assert held > 0


@pytest.mark.slow
async def test_all_readers_together_hold_no_more_than_their_budget_and_none_starves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, many = 256 * 1024, 12
    most, note = [0], memory.Memory.note

    def noted(self: memory.Memory, reader: object, held: int) -> None:
        note(self, reader, held)
        most[0] = max(most[0], self.held)

    monkeypatch.setattr(memory.Memory, "note", noted)
    monkeypatch.setattr(memory.Memory.__init__, "__defaults__", (budget,))
    await service.installed()
    answered = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await answered.wait()
        return web.Response()

    async with receiver() as to, reading(service.resources):
        to.answer = wait
        partners = [
            await subscribe(service, f"{to.url}/{n}", order=("none", "installation")[n % 2]) for n in range(many)
        ]
        await fill(service, 60, installations=10)
        await service.sql("UPDATE event SET data = data || repeat(' ', 10000) WHERE type = 'call.created'")
        await until(lambda: len({received.path for received in to.received}) == many, seconds=60)
        answered.set()
        for partner in partners:
            await partner.stands(lag=0, parked=0, seconds=60)

    assert budget / 2 < most[0] < 2 * budget + many * 20_000
    assert to.count() == dict.fromkeys(range(60), many)


async def test_events_that_were_set_aside_as_slow_still_count_as_held(service: Service) -> None:
    """A destination that hangs gets one event more each second otherwise, and the worker holds them all."""
    set_aside: dict[int, Item] = {}
    budget = memory.Memory(1000)
    ahead = ReadAhead(
        Window(0),
        Filter(),
        Connections(service.resources.database, service.resources.data_keys),
        tail=Tail(),
        memory=budget,
        at_once=64,
        retried=set_aside,
    )
    assert ahead.may_read()

    item = Item(Message("evt_1", "ins_1", "call.ended", b"x" * 1000), 1, now(), "")
    set_aside[item.position] = item
    ahead.note_memory()
    assert not ahead.may_read()

    set_aside.clear()
    ahead.note_memory()
    assert ahead.may_read()


async def test_what_is_forgotten_while_it_is_read_stays_forgotten(service: Service) -> None:
    await service.installed()
    log = Tail()
    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    await log.follow(connection, service.resources.data_keys)
    await connection.execute(FILL, "first")

    reading_on = asyncio.create_task(log.follow(connection, service.resources.data_keys))
    await asyncio.sleep(0)
    log.forget()

    assert await reading_on
    assert (log.start, log.head) == (None, None)
    await connection.close()
