"""Streams that are not read: each holds little, and one API key has a few of them."""

import asyncio
import json
from contextlib import ExitStack, closing
from pathlib import Path

import aiohttp
import pytest

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from aircall_oauth.events import streams
from aircall_oauth.resources import open_resources
from tests.server.test_intake import MIB, peak_bytes
from tests.support.forked import web_processes
from tests.support.processes import eventually
from tests.support.service import Service, settings_for
from tests.support.serving import serving

EVENTS = 150
EVENT_BYTES = 100_000
UNREAD = 12


@pytest.mark.slow
async def test_streams_that_are_not_read_hold_little_memory(database_url: str, tmp_path: Path) -> None:
    async with open_resources(settings_for(database_url)) as resources:
        key = await keys.create(resources, name="test", scopes=[Scope.EVENTS_READ])
    async with web_processes(1, database_url, tmp_path) as ((service,), token):
        async with aiohttp.ClientSession() as aircall:
            for number in range(EVENTS):
                event = {"event": "call.created", "token": token, "data": [number, "x" * EVENT_BYTES]}
                async with aircall.post(f"{service.url}/aircall/webhook", data=json.dumps(event)) as answer:
                    assert answer.status == 200
        before = peak_bytes(service)
        with ExitStack() as stack:
            for _ in range(UNREAD):
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
                stack.enter_context(closing(writer))
                writer.write(follow(key))
                assert b" 200 " in await asyncio.wait_for(reader.readline(), 30)
            # What is fetched later is fetched by then.
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as partner:
                for _ in range(20):
                    async with partner.get(f"{service.url}/v1/events?limit=1") as answer:
                        assert answer.status == 200

            assert peak_bytes(service) - before < UNREAD * 4 * MIB


async def test_one_key_has_so_many_streams_and_no_more(service: Service) -> None:
    await service.installed()
    key, other = [await keys.create(service.resources, name="test", scopes=[Scope.EVENTS_READ]) for _ in range(2)]
    async with serving(service) as port:
        with ExitStack() as stack:

            async def status_of(with_key: str, within: ExitStack = stack) -> int:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                within.enter_context(closing(writer))
                writer.write(follow(with_key))
                return int((await asyncio.wait_for(reader.readline(), 30)).split()[1])

            statuses = [await status_of(key, last := ExitStack())]
            statuses += [await status_of(key) for _ in range(streams.STREAMS_PER_KEY)]
            another_keys = await status_of(other)
            last.close()

            async def opens() -> bool:
                return await status_of(key) == 200

            await eventually(opens, 30)
        service.app.state.notifier.stop()

    assert statuses == [200] * streams.STREAMS_PER_KEY + [429]
    assert another_keys == 200


def follow(key: str) -> bytes:
    return f"GET /v1/events/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n".encode()
