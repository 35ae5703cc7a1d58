"""What `serve` does beside taking events in. It takes a second to import, so it is loaded while events come in."""

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

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
        self._resources, self._front = resources, front
        self._app = create_app(front.receiver)
        self._console = (
            console_served(console_app(resources), console_listener) if console_listener is not None else nullcontext()
        )
        self._chores: AbstractAsyncContextManager[None] = nullcontext()
        if with_worker:
            from aircall_oauth.server import worker

            self._chores = worker.working(resources)
        # Otherwise the first statement would do this, in the event loop.
        configure_mappers()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the front lead to the application, and run all else, while the block lasts."""
        # What waits is answered in a process that was told to stop; no work begins in it.
        chores = nullcontext() if self._resources.leaving else self._chores
        async with chores, self._app.opened(self._resources, self._front.inbox), self._console:
            self._front.lead_to(self._app)
            collect_less()
            yield
