"""The two long-running processes: the web server, and the worker."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.imports import uncollected
from aircall_oauth.installations.oauth.look import require_install_page
from aircall_oauth.resources import Resources, import_clients, open_resources
from aircall_oauth.server.console_port import listen_for_console
from aircall_oauth.server.front import Front
from aircall_oauth.server.listener import listening
from aircall_oauth.server.metrics_port import metrics_served
from aircall_oauth.server.receiving import open_receiver
from aircall_oauth.server.reloading import reloading
from aircall_oauth.server.web import Server, collect_less, web_server
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log, retries

if TYPE_CHECKING:
    from aircall_oauth.server.later import LoadedLater

logger = log.get(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)
# From when everything else is loaded until the clients for Aircall are imported.
CLIENTS_AFTER_SECONDS = 1.0


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT; then stop being ready, drain, close the port, and finish the requests in flight.

    Events are taken in first, and everything else is loaded meanwhile; if that fails, its error is raised.
    """
    retries.log_at(logging.WARNING)
    require_install_page(settings)
    receiver = Receiver()
    async with (
        open_resources(settings) as resources,
        reloading(resources),
        metrics_served(resources),
        open_receiver(resources, receiver) as inbox,
    ):
        _log_if_not_ready(resources)
        front = Front(resources, receiver, inbox)
        server = web_server(front, resources)
        with listen_for_console(settings) or nullcontext() as console, listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # From here on a signal stops the server, also before uvicorn handles signals itself. And uvicorn raises
            # the signal again once it has stopped: that would end the process before its resources are closed.
            for number in STOPPING:
                signal.signal(number, server.handle_exit)

            async with _with_all_else(server, resources, front, console_listener=console, with_worker=with_worker):
                await server.serve(sockets=[listener])


async def work(settings: Settings) -> None:
    """Run the worker's chores until SIGTERM or SIGINT."""
    with uncollected():
        from aircall_oauth.server import worker

    retries.log_at(logging.WARNING)
    async with (
        open_resources(settings) as resources,
        reloading(resources),
        metrics_served(resources),
        worker.working(resources),
        _clients_opened(resources),
    ):
        _log_if_not_ready(resources)
        collect_less()
        logger.info("working", chores=[chore.name for chore in worker.CHORES])
        await _stop_signal()
        logger.info("stopping")


@asynccontextmanager
async def _with_all_else(
    server: Server, resources: Resources, front: Front, *, console_listener: socket.socket | None, with_worker: bool
) -> AsyncIterator[None]:
    """Serve everything else too while the block lasts, from when a thread has imported and built it.

    If that fails, the server is stopped, and the error is raised at the block's end.
    """
    is_over = asyncio.Event()

    async def serve_it() -> None:
        try:
            later = await asyncio.to_thread(_load, resources, front, console_listener, with_worker=with_worker)
            if not is_over.is_set():
                async with later.opened(), _clients_opened(resources):
                    await is_over.wait()
        except Exception:
            logger.exception("not everything can be served")
            resources.leaving = True
            front.give_up()
            server.stop()
            raise

    task = asyncio.create_task(serve_it())
    try:
        yield
    finally:
        is_over.set()
        await task


def _load(
    resources: Resources, front: Front, console_listener: socket.socket | None, *, with_worker: bool
) -> "LoadedLater":
    with uncollected():
        from aircall_oauth.server.later import LoadedLater

        return LoadedLater(resources, front, console_listener=console_listener, with_worker=with_worker)


@asynccontextmanager
async def _clients_opened(resources: Resources) -> AsyncIterator[None]:
    """Open the clients for Aircall soon, while the process does its work already.

    They are imported in a thread, so that the first request that needs them does not hold up all
    others.
    """

    async def open_them() -> None:
        await asyncio.sleep(CLIENTS_AFTER_SECONDS)
        await asyncio.to_thread(import_clients)
        resources.open_clients()

    task = asyncio.create_task(open_them())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _log_if_not_ready(resources: Resources) -> None:
    """Log why the process is not ready yet: with a wrong setting it would wait forever."""
    if resources.waits_for is not None:
        logger.warning("not ready yet", reason=resources.waits_for)


async def _stop_signal() -> None:
    received = asyncio.Event()
    for number in STOPPING:
        asyncio.get_running_loop().add_signal_handler(number, received.set)
    await received.wait()
