"""The two long-running processes: the web server, and the worker."""

import asyncio
import gc
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from aircall_oauth import log, worker
from aircall_oauth.app import App, create_app
from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.settings import Settings

logger = log.get(__name__)

GRACEFUL_SECONDS = 20
BACKLOG = 2048
HEADERS_SECONDS = 10.0
# At any door; the receiver's own is stricter, and says so.
BODY_SECONDS = 30.0
TICKS_PER_SECOND = 10
YOUNG_OBJECTS = 10_000
STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT: then no new connection, requests in flight are finished, resources closed."""
    async with open_resources(settings) as resources:
        opener = partial(_with_worker if with_worker else _alone, resources)
        server = Server(
            uvicorn.Config(
                create_app(opener),
                interface="asgi3",
                http=HttpToolsProtocol,
                ws="none",
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACEFUL_SECONDS,
            )
        )
        with _listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # uvicorn raises the signal that stopped it once more, which would leave nothing here closed.
            for number in STOPPING:
                signal.signal(number, lambda *_: None)
            _allow_many_connections()
            _collect_less()
            await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """Cuts off who sends no whole request, and sends readers that wait home before it waits for connections to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # By connection and its request so far: a busy one sends one request after the other.
        self._sending_since: dict[tuple[HttpToolsProtocol, RequestResponseCycle], float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_SECOND == 0:
            self._cut_off_slow()
        return await super().on_tick(counter)

    def _cut_off_slow(self) -> None:
        """Close the connections whose request has been on its way for too long, or has not begun.

        uvicorn bounds only how long a connection may be silent after an answer.
        """
        now, connections = time.monotonic(), self.server_state.connections
        http = [connection for connection in connections if isinstance(connection, HttpToolsProtocol)]
        sending = {(connection, connection.cycle): _may_take(connection) for connection in http}
        self._sending_since = {key: self._sending_since.get(key, now) for key, seconds in sending.items() if seconds}
        for key, since in self._sending_since.items():
            if now - since > sending[key]:
                key[0].transport.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app = self.config.app
        assert isinstance(app, App)
        app.state.bell.stop()
        await super().shutdown(sockets)


async def work(settings: Settings) -> None:
    """Do the chores until SIGTERM or SIGINT."""
    async with open_resources(settings) as resources, worker.working(resources):
        logger.info("working", chores=[chore.name for chore in worker.CHORES])
        await _told_to_stop()
        logger.info("stopping")


def _may_take(connection: HttpToolsProtocol) -> float:
    """How many seconds it may go on sending what it does; 0 where it sends nothing."""
    cycle = connection.cycle
    if cycle is not None and not cycle.response_complete:
        return BODY_SECONDS if cycle.more_body else 0
    # Between two requests uvicorn has a timer of its own, until the first byte of the next.
    return 0 if connection.timeout_keep_alive_task else HEADERS_SECONDS


def _allow_many_connections() -> None:
    """Many that are slow must leave room for those that are not."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _collect_less() -> None:
    """What is there by now stays to the end: looking through it again and again costs every event."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves out TCP_NODELAY and every answer waits 40 ms for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = (error.strerror or str(error)).partition(" (")[0]
        raise StartRefused(f"Cannot listen on {host}, port {port}: {why}.") from None
    return listener


async def _told_to_stop() -> None:
    told = asyncio.Event()
    for number in STOPPING:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


@asynccontextmanager
async def _alone(resources: Resources) -> AsyncIterator[Resources]:
    yield resources


@asynccontextmanager
async def _with_worker(resources: Resources) -> AsyncIterator[Resources]:
    async with worker.working(resources):
        yield resources
