"""All that `serve` does beside taking events in, which begins a moment later: it takes a second to import."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.orm import configure_mappers

from aircall_oauth.resources import Resources
from aircall_oauth.server.app import create_app
from aircall_oauth.server.console_port import console_app, console_served
from aircall_oauth.server.front import Front
from aircall_oauth.server.web import collect_less


class Rest:
    """The application, the console that listens at a socket, if any, and the worker's chores, if they are wanted.

    To be made in a thread: all that is imported in the event loop's own thread holds up events.
    """

    def __init__(self, resources: Resources, front: Front, *, console: socket.socket | None, with_worker: bool) -> None:
        self._resources, self._front, self._listener = resources, front, console
        self._app = create_app(front.receiver)
        self._console = console_app(resources) if console is not None else None
        self._worker = None
        if with_worker:
            from aircall_oauth.server import worker

            self._worker = worker
        # The first statement would.
        configure_mappers()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the front lead to the application, and run all else, while the block lasts."""
        async with AsyncExitStack() as stack:
            # What waits is answered in a process that was told to stop; no work begins in it.
            if self._worker is not None and not self._resources.leaving:
                await stack.enter_async_context(self._worker.working(self._resources))
            await stack.enter_async_context(self._app.opened(self._resources, self._front.inbox))
            if self._console is not None and self._listener is not None:
                await stack.enter_async_context(console_served(self._console, self._listener))
            self._front.lead_to(self._app)
            collect_less()
            yield
