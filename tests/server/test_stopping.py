"""A process stops without a client noticing: first it is not ready, later closed, and nothing in flight is lost."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from tests.crash.test_processes import event, installed
from tests.support.processes import Process, World, eventually, world
from tests.support.relay import pass_both_ways

CLIENTS = 8
REQUESTS_PER_SECOND = 200
LOOK_SECONDS = 0.5
DRAIN = "2s"


async def readiness(it: World) -> httpx.Response:
    return await it.browser.get("/readyz")


async def test_sigterm_ends_readiness_first_and_serving_later(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url, DRAIN="5m") as it:
        service = await it.start_service()
        before = await it.browser.get("/livez")

        service.tell(signal.SIGTERM)

        async def not_ready() -> bool:
            return (await readiness(it)).status_code == 503

        await eventually(not_ready)
        unready, served = await readiness(it), await it.browser.get("/livez")
        unknown = await it.browser.post("/aircall/webhook", content=event("nobody's", 1))
        assert (unready.json()["code"], unready.headers["retry-after"]) == ("leaving", "2")
        assert (served.status_code, unknown.status_code) == (200, 401)
        assert "connection" not in before.headers
        assert {answer.headers["connection"] for answer in (unready, served, unknown)} == {"close"}
        assert service.running

        service.tell(signal.SIGTERM)

        assert await service.ended() == 0, "a second signal means now"


async def test_ctrl_c_ends_it_now(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url, DRAIN="5m") as it:
        service = await it.start_service("--with-worker")

        service.tell(signal.SIGINT)

        assert await service.ended() == 0


class Balancer:
    """Gives each new connection to the next process with a 200 on `/readyz`, as a load balancer does."""

    def __init__(self, ports: list[int]) -> None:
        self._ready = dict.fromkeys(ports, False)
        self._turns: Iterator[int] = itertools.cycle(ports)

    def is_ready(self, port: int) -> bool:
        return self._ready[port]

    async def watch(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
            while True:
                await asyncio.gather(*(self._look(client, port) for port in self._ready))
                await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, client: httpx.AsyncClient, port: int) -> None:
        try:
            answer = await client.get(f"http://127.0.0.1:{port}/readyz")
            self._ready[port] = answer.status_code == 200
        except httpx.TransportError:
            self._ready[port] = False

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = next(port for port in itertools.islice(self._turns, len(self._ready)) if self._ready[port])
        service_reader, service_writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            await pass_both_ways(reader, writer, service_reader, service_writer)


@asynccontextmanager
async def balancing(port: int, ports: list[int]) -> AsyncIterator[Balancer]:
    balancer = Balancer(ports)
    watch = asyncio.create_task(balancer.watch())
    server = await asyncio.start_server(balancer.join, "127.0.0.1", port)
    try:
        yield balancer
    finally:
        server.close()
        watch.cancel()


class Load:
    """Clients that keep their connections and send events at a steady pace until told to stop."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/aircall/webhook"
        self._token = token
        self._numbers = itertools.count(1)
        self.answers: list[int | str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        clients = [asyncio.create_task(self._send(stop)) for _ in range(CLIENTS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*clients)

    async def _send(self, stop: asyncio.Event) -> None:
        pause = CLIENTS / REQUESTS_PER_SECOND
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
            while not stop.is_set():
                due = time.monotonic() + pause
                body = event(self._token, next(self._numbers))
                try:
                    async with session.post(self._url, data=body) as answer:
                        await answer.read()
                        self.answers.append(answer.status)
                except aiohttp.ClientError as error:
                    self.answers.append(repr(error))
                await asyncio.sleep(due - time.monotonic())


@pytest.mark.slow
async def test_a_rolling_restart_under_load_fails_no_request(tmp_path: Path, database_url: str) -> None:
    ports = [free_port() for _ in range(4)]
    async with (
        world(tmp_path, database_url, DRAIN=DRAIN) as it,
        balancing(int(it.service_url.rpartition(":")[2]), ports) as balancer,
    ):

        async def started(port: int) -> Process:
            process = await it.run("serve", "--port", str(port))
            await it.answering(process, f"http://127.0.0.1:{port}/readyz")

            async def seen() -> bool:
                return balancer.is_ready(port)

            await eventually(seen)
            return process

        before = await asyncio.gather(*map(started, ports[:2]))
        await installed(it)
        load = Load(it.service_url, await it.webhook_token())

        async with load.running():
            for process, port in zip(before, ports[2:], strict=True):
                process.tell(signal.SIGTERM)
                exit_code, _ = await asyncio.gather(process.ended(), started(port))
                assert exit_code == 0, process.said()

        (stored,) = await it.sql("SELECT count(*) FROM event WHERE source = 'aircall'")
        assert {200} == set(load.answers)
        assert len(load.answers) > CLIENTS * 10
        assert stored["count"] == len(load.answers)
