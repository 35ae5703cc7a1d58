"""The public port from its first moment: events are taken in while the application is still being loaded.

Small events do not come here: the protocol hands them to the receiver.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from aircall_oauth.errors import Leaving, NotReady
from aircall_oauth.events.receiver.endpoint import PATH, Answer, Receiver, refused, send_answer
from aircall_oauth.events.receiver.inbox import Inbox
from aircall_oauth.resources import Resources
from aircall_oauth.server import outermost
from aircall_oauth.server.readiness import require_serving
from aircall_oauth.telemetry import log

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from aircall_oauth.server.app import App

LIVES, READY = ("/livez", "/healthz"), "/readyz"
OK = Answer(200, "ok", [(b"content-type", b"application/json")], b'{"status":"ok"}')
# What waits for the application is refused after so long. Requests in flight get as long at a stop (`web`).
WAIT_SECONDS = 20.0


class Front:
    """The ASGI application that the server calls. It answers events and probes itself until `lead_to` is called.

    Any other request waits until then, and gets the application's answer.
    """

    def __init__(self, resources: Resources, receiver: Receiver, inbox: Inbox) -> None:
        self._resources, self.receiver, self.inbox = resources, receiver, inbox
        self._app: App | None = None
        self._decided = asyncio.Event()
        self._ends_waiting = False

    def lead_to(self, app: "App") -> None:
        """Leave all requests to the application from now on."""
        self._app = app
        self._decided.set()
        if self._ends_waiting:
            app.end_waiting()

    def give_up(self) -> None:
        """Refuse what waits for the application, which will not come; does nothing if it is there already."""
        self._decided.set()

    def end_waiting(self) -> None:
        """Answer the requests that wait for events, now or later: the process is about to end."""
        self._ends_waiting = True
        if self._app is not None:
            self._app.end_waiting()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        own: Receiver | _Reply | None = None
        if self._app is None:
            own = self._own_handler(scope)
            if own is None:
                own = await self._wait(scope)
        if own is None:
            assert self._app is not None
            await self._app(scope, receive, send)
        else:
            scope["endpoint"] = own
            await outermost.answer(own, self._resources, scope, receive, send)

    def _own_handler(self, scope: "Scope") -> "Receiver | _Reply | None":
        match scope["method"], scope["path"]:
            case "POST", path if path == PATH:
                return self.receiver
            case "GET" | "HEAD", path if path in LIVES:
                return _Reply(self._resources, path, _nothing)
            case "GET" | "HEAD", path if path == READY:
                return _Reply(self._resources, path, self._require_serving)
        return None

    async def _wait(self, scope: "Scope") -> "_Reply | None":
        """Wait for the application; return what refuses the request if it does not come."""
        scope[outermost.ARRIVED] = time.perf_counter()
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                await self._decided.wait()
        return None if self._app else _Reply(self._resources, outermost.UNMATCHED, self._refuse)

    async def _require_serving(self) -> None:
        await require_serving(self._resources, prove=self.inbox.prove)

    async def _refuse(self) -> None:
        raise Leaving() if self._decided.is_set() else NotReady("The service is still being loaded.")


async def _nothing() -> None: ...


class _Reply:
    """Answers 200, or the error that a check raises; counts and logs it, as the middleware does for the application's.

    `path` is the template that it is counted under.
    """

    def __init__(self, resources: Resources, path: str, check: Callable[[], Awaitable[None]]) -> None:
        self._resources, self.path, self._check = resources, path, check

    async def __call__(self, scope: "Scope", _receive: "Receive", send: "Send") -> None:
        started, method = scope.get(outermost.ARRIVED) or time.perf_counter(), scope["method"]
        request_id, answer = log.request_id(dict(scope["headers"]).get(b"x-request-id")), OK
        try:
            await self._check()
        except Exception as error:
            answer = refused(error, request_id)
        await send_answer(send, answer, request_id)
        self._resources.metrics.requested(method=method, path=self.path, status=answer.status, started=started)
        log.request(method=method, path=self.path, status=answer.status, started=started, request_id=request_id)
