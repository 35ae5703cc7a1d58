"""All that `serve` does beside taking events in, which begins a moment later: it takes a second to import."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aircall_oauth.resources import Resources
from aircall_oauth.server.app import create_app
from aircall_oauth.server.console_port import console_served
from aircall_oauth.server.front import Front
from aircall_oauth.server.web import collect_less


@asynccontextmanager
async def opened(
    front: Front, resources: Resources, *, console: socket.socket | None, with_worker: bool
) -> AsyncIterator[None]:
    """Have the front lead to the application, and run the console and the worker's chores, while the block lasts."""
    app = create_app(front.receiver)
    async with AsyncExitStack() as stack:
        if with_worker:
            from aircall_oauth.server import worker

            await stack.enter_async_context(worker.working(resources))
        await stack.enter_async_context(app.opened(resources, front.inbox))
        await stack.enter_async_context(console_served(resources, console))
        front.lead_to(app)
        collect_less()
        yield
