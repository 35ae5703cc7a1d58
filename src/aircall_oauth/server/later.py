"""What `serve` does beside taking events in. It takes a second to import, so it is loaded while events come in."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.orm import configure_mappers

from aircall_oauth.resources import Resources
from aircall_oauth.server.app import create_app
from aircall_oauth.server.console_port import console_app, console_served
from aircall_oauth.server.front import Front
from aircall_oauth.server.web import collect_less


class LoadedLater:
    """The application, the console of a listening socket, if there is one, and the worker's chores, if they are wanted.

    To be made in a thread: what is imported in the event loop's own thread holds up events.
    """

    def __init__(
        self, resources: Resources, front: Front, *, console_listener: socket.socket | None, with_worker: bool
    ) -> None:
        self._resources, self._front, self._console_listener = resources, front, console_listener
        self._app = create_app(front.receiver)
        self._console_app = console_app(resources) if console_listener is not None else None
        self._worker_module = None
        if with_worker:
            from aircall_oauth.server import worker

            self._worker_module = worker
        # Otherwise the first statement would do this, in the event loop.
        configure_mappers()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the front lead to the application, and run all else, while the block lasts."""
        async with AsyncExitStack() as stack:
            # What waits is answered in a process that was told to stop; no work begins in it.
            if self._worker_module is not None and not self._resources.leaving:
                await stack.enter_async_context(self._worker_module.working(self._resources))
            await stack.enter_async_context(self._app.opened(self._resources, self._front.inbox))
            if self._console_app is not None and self._console_listener is not None:
                await stack.enter_async_context(console_served(self._console_app, self._console_listener))
            self._front.lead_to(self._app)
            collect_less()
            yield
