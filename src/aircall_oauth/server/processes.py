"""The two long-running processes: the web server, and the worker."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.server import worker
from aircall_oauth.server.app import create_app
from aircall_oauth.server.listener import listening
from aircall_oauth.server.metrics_port import metrics_served
from aircall_oauth.server.web import web_server
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry import log

logger = log.get(__name__)

STOPPING = (signal.SIGTERM, signal.SIGINT)


async def serve(settings: Settings, *, host: str, port: int, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT: then not ready any more, no new connection, what is in flight is finished."""
    async with open_resources(settings) as resources, metrics_served(resources):
        _say_what_is_waited_for(resources)
        server = web_server(create_app(partial(_with_worker if with_worker else _alone, resources)), resources)
        with listening(host, port) as listener:
            logger.info("serving", host=host, port=port, with_worker=with_worker)
            # uvicorn raises the signal that stopped it once more, which would leave nothing here closed.
            for number in STOPPING:
                signal.signal(number, lambda *_: None)
            await server.serve(sockets=[listener])


async def work(settings: Settings) -> None:
    """Do the chores until SIGTERM or SIGINT."""
    async with open_resources(settings) as resources, metrics_served(resources), worker.working(resources):
        _say_what_is_waited_for(resources)
        logger.info("working", chores=[chore.name for chore in worker.CHORES])
        await _told_to_stop()
        logger.info("stopping")


def _say_what_is_waited_for(resources: Resources) -> None:
    """Log why the process is not ready: with a wrong setting it would wait in vain."""
    if resources.waits_for is not None:
        logger.warning("not ready yet", reason=resources.waits_for)


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
