"""The two long-running processes: the web server, and the worker."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvicorn

from aircall_oauth import log, worker
from aircall_oauth.app import App, create_app
from aircall_oauth.errors import StartRefused
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.settings import Settings

logger = log.get(__name__)

GRACEFUL_SECONDS = 20
BACKLOG = 2048
STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT: then no new connection, requests in flight are finished, resources closed."""
    async with open_resources(settings) as resources:
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
            )
        )
        with _listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # uvicorn raises the signal that stopped it once more, which would leave nothing here closed.
            for number in STOPPING:
                signal.signal(number, lambda *_: None)
            await server.serve(sockets=[listener])


class Server(uvicorn.Server):
    """Sends readers that wait home before it waits for its connections to end."""

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
