"""The two long-running processes: the web server, and the worker."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from aircall_oauth.installations.oauth.look import require_install_page
from aircall_oauth.resources import Resources, import_clients, open_resources
from aircall_oauth.server import worker
from aircall_oauth.server.app import create_app
from aircall_oauth.server.console_port import console_served
from aircall_oauth.server.listener import listening
from aircall_oauth.server.metrics_port import metrics_served
from aircall_oauth.server.reloading import reloading
from aircall_oauth.server.web import collect_less, web_server
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log, retries

logger = log.get(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)
# Left to what a process does at its start, until it is ready.
FIRST_SECONDS = 1.0


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT; then stop being ready, close the port, and finish the requests in flight."""
    retries.log_at(logging.WARNING)
    require_install_page(settings)
    async with (
        open_resources(settings) as resources,
        reloading(resources),
        metrics_served(resources),
        console_served(resources),
    ):
        _log_if_not_ready(resources)
        server = web_server(create_app(partial(_with_worker if with_worker else _without_worker, resources)), resources)
        with listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # uvicorn raises the signal that stopped it once more, which would end the process with everything open.
            for number in STOPPING:
                signal.signal(number, lambda *_: None)
            async with _clients_opened(resources):
                await server.serve(sockets=[listener])


async def work(settings: Settings) -> None:
    """Run the worker's chores until SIGTERM or SIGINT."""
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


@asynccontextmanager
async def _without_worker(resources: Resources) -> AsyncIterator[Resources]:
    yield resources


@asynccontextmanager
async def _with_worker(resources: Resources) -> AsyncIterator[Resources]:
    async with worker.working(resources):
        yield resources
