"""What a process takes in and delivers itself is handed to its readers in memory, and read from the log otherwise."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from aircall_oauth.deliveries.reader import queries
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.deliveries.reader.tail import Tail
from aircall_oauth.events.query import COLUMNS, EventJson, event_of
from aircall_oauth.storage.commits import Committed
from aircall_oauth.storage.stamps import now
from tests.support.receivers import LOOPBACK, Receiver, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

ODD: list[dict[str, Any]] = [
    {"event": "call.ended", "resource": "call", "timestamp": 1767261600.25, "data": {"id": 7, "raw_digits": "+33 1"}},
    {"event": "call.created", "resource": "call", "timestamp": 1767261600123, "data": {"id": 8, "name": "Zoë 🙂 日本"}},
    {"event": "user.created", "resource": "user", "timestamp": "never", "data": {"id": 'u\u0001 \\ " / é'}},
    {"event": "message.sent", "resource": "message", "timestamp": 1, "data": None},
]


class Log:
    """The reading of the log's end, which can be made to hang."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        self.hangs = False
        self._read_unfiltered = queries.read_unfiltered
        monkeypatch.setattr(queries, "read_unfiltered", self._read_or_hang)

    async def _read_or_hang(self, *arguments: Any, **options: Any) -> Any:
        if self.hangs:
            await asyncio.Event().wait()
        found = await self._read_unfiltered(*arguments, **options)
        self.read += 1
        return found


@pytest.fixture(params=["", "raw_digits=hash"])
async def service(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service that may deliver to this machine; it redacts nothing, or a field."""
    settings = settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK, REDACT=request.param)
    async with run_service(settings) as running:
        yield running


async def take_in(service: Service, *events: dict[str, Any]) -> None:
    """Post events at once, so that some of them share a commit."""
    token = service.webhook_token()
    bodies = [json.dumps(event | {"token": token}, ensure_ascii=number % 2 == 0) for number, event in enumerate(events)]
    answers = await asyncio.gather(*(service.post_event(body.encode()) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}


async def take_in_until_the_log_is_read(service: Service, to: Receiver, log: Log) -> int:
    """Take in one event after the other, until the log's end was read once; returns how many were delivered.

    A reader finds events itself until it keeps up with the log.
    """
    while not log.read:
        before = len(to.received)
        await take_in(service, {**ODD[0], "data": {"id": before}})
        await until(lambda: len(to.received) > before)  # noqa: B023 - asked within this turn only
        await asyncio.sleep(0.05)
    return len(to.received)


def event_at(position: int) -> EventJson:
    data = msgspec.Raw(b"{}")
    about = ("call.created", "call", "call:1", "ins_1", 1, None)
    return EventJson(f"evt_{position}", position, *about, None, now(), "aircall", data)


async def test_events_go_out_byte_for_byte_without_the_log_being_read(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(monkeypatch)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        await subscribe(service, to.url)
        first = await take_in_until_the_log_is_read(service, to, log)
        log.hangs = True
        await take_in(service, *ODD)
        await until(lambda: len(to.received) == first + len(ODD))

    rows = await service.sql(f"SELECT {COLUMNS} FROM event WHERE source = 'aircall' ORDER BY position")
    stored = [msgspec.json.encode(event_of(row, service.resources.data_keys)) for row in rows]
    assert sorted(received.body for received in to.received) == sorted(stored)


async def test_an_event_of_another_process_in_between_is_not_passed_over(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(monkeypatch)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        await subscribe(service, to.url, order="installation")
        first = await take_in_until_the_log_is_read(service, to, log)
        for number in range(1, 21):
            if number % 3:
                await take_in(service, {**ODD[1], "data": {"id": number, "n": number}})
            else:
                await fill(service, 1, first=number)
        await until(lambda: len(to.received) == first + 20)

    assert to.count() == dict.fromkeys(range(1, 21), 1)


async def test_what_was_committed_to_a_log_of_another_epoch_is_not_delivered(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        await subscribe(service, to.url)
        await take_in(service, ODD[0])
        await until(lambda: len(to.received) == 1)
        newest = to.taken[0]["position"]
        service.resources.commits.note(1, Committed("log_another", [event_at(newest + 1)]))
        await take_in(service, ODD[1])
        await until(lambda: len(to.received) == 2)

    assert [event["type"] for event in to.taken] == ["call.ended", "call.created"]


@pytest.mark.parametrize(
    ("positions", "taken", "head"),
    [([4, 5], True, 5), ([3, 4], True, 4), ([2, 3], True, 3), ([5], False, 3), ([4, 6], False, 3)],
)
async def test_only_what_comes_right_after_the_end_in_memory_is_taken(
    service: Service, positions: list[int], taken: bool, head: int
) -> None:
    tail, events = Tail(), [event_at(position) for position in positions]
    assert not tail.take(events)  # nothing is known of the log

    await fill(service, 3)
    await service.sql(
        "UPDATE event SET position = n FROM (SELECT id, row_number() OVER (ORDER BY position) AS n "
        "FROM event) AS numbered WHERE event.id = numbered.id"
    )
    connection = await asyncpg.connect(service.settings.database_url.get_secret_value())
    await tail.follow(connection, service.resources.data_keys)
    await connection.close()

    assert tail.take(events) is taken
    assert tail.head == head


async def test_an_event_does_not_wait_while_what_came_of_others_is_written_down(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_go_on, keep = asyncio.Event(), asyncio.Event(), queries.keep

    async def keep_slowly(*arguments: Any) -> Any:
        begun.set()
        await may_go_on.wait()
        return await keep(*arguments)

    monkeypatch.setattr(queries, "keep", keep_slowly)
    await service.installed()
    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url)
        await take_in(service, ODD[0])
        await begun.wait()
        await take_in(service, ODD[1], ODD[2])
        await until(lambda: len(to.taken) == 3)
        may_go_on.set()
        await partner.stands(lag=0)

    assert len(await partner.attempts()) == len(to.received) == 3
