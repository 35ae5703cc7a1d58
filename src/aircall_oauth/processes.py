"""The two long-running processes: the web server, and the worker; and beside each, its metrics."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import FrameType

import uvicorn
from prometheus_client import make_asgi_app

from aircall_oauth import log, worker
from aircall_oauth.app import App, create_app
from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.settings import Settings

logger = log.get(__name__)

GRACEFUL_SECONDS = 20
BACKLOG = 2048
# Whoever scrapes comes from elsewhere, to each process by itself.
EVERYWHERE = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104
METRICS_STOP_SECONDS = 1
STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT: then not ready any more, no new connection, what is in flight is finished."""
    async with open_resources(settings) as resources, _metrics_served(resources):
        opener = partial(_with_worker if with_worker else _alone, resources)
        server = Server(
            uvicorn.Config(
                create_app(opener),
                host=host,
                port=port,
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACEFUL_SECONDS,
            ),
            resources,
        )
        with _listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # uvicorn raises the signal that stopped it once more, which would leave nothing here closed.
            for number in STOPPING:
                signal.signal(number, lambda *_: None)
            await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """Leaves in order: it is not ready any more, then closed, then readers that wait are sent home."""

    def __init__(self, config: uvicorn.Config, resources: Resources) -> None:
        super().__init__(config)
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._hurry = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C and a second signal mean now.
        if self.should_exit or sig == signal.SIGINT:
            self._loop.call_soon_threadsafe(self._hurry.set)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        app = self.config.app
        assert isinstance(app, App)
        app.state.bell.stop()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        """Serve on until those who send requests have seen that this process is not ready any more."""
        self._resources.leaving = True
        seconds = self._resources.settings.drain.total_seconds()
        if not seconds:
            return
        logger.info("leaving", drain_seconds=seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()


async def work(settings: Settings) -> None:
    """Do the chores until SIGTERM or SIGINT."""
    async with open_resources(settings) as resources, _metrics_served(resources), worker.working(resources):
        logger.info("working", chores=[chore.name for chore in worker.CHORES])
        await _told_to_stop()
        logger.info("stopping")


class MetricsServer(uvicorn.Server):
    """Serves beside the process's real work, which decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _metrics_served(resources: Resources) -> AsyncIterator[None]:
    """`/metrics` on its own port while the block lasts."""
    listener = _metrics_listener(resources.settings)
    if listener is None:
        yield
        return
    config = uvicorn.Config(
        make_asgi_app(resources.metrics.registry),
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=METRICS_STOP_SECONDS,
    )
    server = MetricsServer(config)
    with listener:
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


def _metrics_listener(settings: Settings) -> socket.socket | None:
    """Only a port that was asked for is worth a refusal to start: two processes on one machine share the default."""
    if settings.metrics_port == 0:
        return None
    try:
        return _listening(EVERYWHERE, settings.metrics_port)
    except StartRefused as error:
        if "metrics_port" in settings.model_fields_set:
            raise StartRefused(f"AIRCALL_OAUTH_METRICS_PORT: {error.detail}") from None
        logger.warning("no metrics", reason=error.detail)
        return None


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves out TCP_NODELAY and every answer waits 40 ms for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            # Everywhere means IPv4 too, whatever this machine's default is.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
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
