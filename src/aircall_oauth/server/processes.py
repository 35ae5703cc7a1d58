"""The two long-running processes: the web server, and the worker."""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from aircall_oauth.events.receiver.endpoint import Receiver
from aircall_oauth.imports import uncollected
from aircall_oauth.installations.oauth.look import require_install_page
from aircall_oauth.resources import Resources, import_clients, open_resources
from aircall_oauth.server.console_port import listen_for_console
from aircall_oauth.server.front import Front
from aircall_oauth.server.listener import listening
from aircall_oauth.server.metrics_port import metrics_served
from aircall_oauth.server.receiving import receiving
from aircall_oauth.server.reloading import reloading
from aircall_oauth.server.web import Server, collect_less, web_server
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log, retries

if TYPE_CHECKING:
    from aircall_oauth.server.rest import Rest

logger = log.get(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)
# Left to what a process does at its start, until it is ready.
FIRST_SECONDS = 1.0


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT; then stop being ready, close the port, and finish the requests in flight.

    Events are taken in first; the rest is loaded meanwhile.
    """
    retries.log_at(logging.WARNING)
    require_install_page(settings)
    receiver = Receiver()
    async with (
        open_resources(settings) as resources,
        reloading(resources),
        metrics_served(resources),
        receiving(resources, receiver) as inbox,
    ):
        _log_if_not_ready(resources)
        front = Front(resources, receiver, inbox)
        server = web_server(front, resources, receiver)
        with listen_for_console(settings) or nullcontext() as console, listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # From here on a signal stops the server, also before it handles signals itself. And afterwards: it raises
            # the signal that stopped it once more, which would end the process with everything open.
            for number in STOPPING:
                signal.signal(number, server.handle_exit)

            async with _with_the_rest(server, resources, front, console=console, with_worker=with_worker):
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
async def _with_the_rest(
    server: Server, resources: Resources, front: Front, *, console: socket.socket | None, with_worker: bool
) -> AsyncIterator[None]:
    """Serve the rest too while the block lasts, from when it is imported and built, in a thread.

    If that fails, the server is stopped, and the error is raised at the block's end.
    """
    is_over = asyncio.Event()

    async def serve_it() -> None:
        try:
            rest = await asyncio.to_thread(_build_rest, resources, front, console=console, with_worker=with_worker)
            if not is_over.is_set():
                async with rest.opened(), _clients_opened(resources):
                    await is_over.wait()
        except Exception:
            logger.exception("the rest can't be served")
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


def _build_rest(*given: Any, **options: Any) -> "Rest":
    with uncollected():
        from aircall_oauth.server.rest import Rest

        return Rest(*given, **options)


@asynccontextmanager
async def _clients_opened(resources: Resources) -> AsyncIterator[None]:
    """Open the clients for Aircall soon, while the process does its work already.

    They are imported in a thread, so that the first request that needs them does not hold up all
    others.
    """

    async def open_them() -> None:
        await asyncio.sleep(FIRST_SECONDS)
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
