"""The web server, and how it stops."""

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.resources import Resources
from aircall_oauth.server.front import Front
from aircall_oauth.server.protocol import BoundedServer, Protocol
from aircall_oauth.telemetry import log

logger = log.get(__name__)

GRACEFUL_SECONDS = 20
# Longer than the minute for which most proxies keep connections: the side that sends requests must be the first to
# close, or it sends one into a connection that is just being closed.
KEEP_ALIVE_SECONDS = 75
YOUNG_OBJECTS = 10_000


def web_server(front: Front, resources: Resources) -> "Server":
    """Build a server for the public port, and prepare the process for many connections."""
    _allow_many_connections()
    collect_less()
    config = uvicorn.Config(
        front,
        interface="asgi3",
        http=Protocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    return Server(config, resources, front.receiver, front.end_waiting)


class Server(BoundedServer):
    """Stops in order: not ready, drain for a few seconds, end waiting readers, close."""

    def __init__(
        self, config: uvicorn.Config, resources: Resources, receiver: Receiver, end_waiting: Callable[[], None]
    ) -> None:
        super().__init__(config, receiver=receiver)
        self._resources, self._end_waiting = resources, end_waiting
        self._loop = asyncio.get_running_loop()
        self._hurry = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Ctrl-C and a second signal end the drain at once.
        if self.should_exit or sig == signal.SIGINT:
            self._loop.call_soon_threadsafe(self._hurry.set)
        super().handle_exit(sig, frame)

    def stop(self) -> None:
        """Stop at once, without a drain."""
        self.should_exit = True
        self._hurry.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._drain()
        self._end_waiting()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        """Go on serving until load balancers have seen that this process is not ready any more."""
        self._resources.leaving = True
        seconds = self._resources.settings.drain.total_seconds()
        if not seconds:
            return
        logger.info("leaving", drain_seconds=seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()


def _allow_many_connections() -> None:
    """Raise the limit of open files as far as allowed: many slow connections must leave room for others."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_less() -> None:
    """Keep the garbage collector off the objects that exist by now: they stay, and scanning them costs every event."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
