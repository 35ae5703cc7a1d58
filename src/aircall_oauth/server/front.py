"""The public port from its first moment: events are taken in while the rest of the service is still being loaded."""

import asyncio
import time
from typing import TYPE_CHECKING

from aircall_oauth.errors import Leaving
from aircall_oauth.events.receiver.endpoint import PATH, Answer, Receiver, refused, send_answer
from aircall_oauth.events.receiver.inbox import Inbox
from aircall_oauth.resources import Resources
from aircall_oauth.server import outermost
from aircall_oauth.server.readiness import require_serving
from aircall_oauth.telemetry import log

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from aircall_oauth.server.app import App

LIVES, READY = ("/livez", "/healthz"), "/readyz"
OK = Answer(200, "ok", [(b"content-type", b"application/json")], b'{"status":"ok"}')


class Front:
    """The ASGI application that the server calls. It answers events and probes itself until `lead_to` is called.

    Any other request waits until then, and gets the application's answer.
    """

    def __init__(self, resources: Resources, receiver: Receiver, inbox: Inbox) -> None:
        self._resources, self.receiver, self.inbox = resources, receiver, inbox
        self._app: asyncio.Future[App | None] = asyncio.get_running_loop().create_future()

    def lead_to(self, app: "App") -> None:
        """Leave all requests to the application from now on."""
        self._app.set_result(app)

    def give_up(self) -> None:
        """Refuse what waits for the application, unless it has come: it will not."""
        if not self._app.done():
            self._app.set_result(None)

    def end_waiting(self) -> None:
        """Answer the requests that wait for events: the process is about to end."""
        if self._app.done() and (app := self._app.result()):
            app.end_waiting()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        here = None if self._app.done() else self._answers_itself(scope)
        app = None if here else await asyncio.shield(self._app)
        if app is None:
            await outermost.answer(here or self._refuse, self._resources, scope, receive, send)
        else:
            await app(scope, receive, send)

    def _answers_itself(self, scope: "Scope") -> "ASGIApp | None":
        match scope["method"], scope["path"]:
            case "POST", path if path == PATH:
                scope["endpoint"] = self.receiver
                return self.receiver
            case "GET" | "HEAD", path if path in {*LIVES, READY}:
                return self._probe
        return None

    async def _probe(self, scope: "Scope", _receive: "Receive", send: "Send") -> None:
        started, error = time.perf_counter(), None
        if scope["path"] == READY:
            try:
                await require_serving(self._resources, prove=self.inbox.prove)
            except Exception as failure:
                error = failure
        await self._tell(scope, send, error, path=scope["path"], started=started)

    async def _refuse(self, scope: "Scope", _receive: "Receive", send: "Send") -> None:
        await self._tell(scope, send, Leaving(), path=outermost.UNMATCHED, started=time.perf_counter())

    async def _tell(self, scope: "Scope", send: "Send", error: Exception | None, *, path: str, started: float) -> None:
        """Answer 200 or with an error; count and log it, as the middleware does for other requests."""
        method, request_id = scope["method"], log.request_id(dict(scope["headers"]).get(b"x-request-id"))
        answer = OK if error is None else refused(error, request_id)
        await send_answer(send, answer, request_id)
        self._resources.metrics.requested(method=method, path=path, status=answer.status, started=started)
        log.request(method=method, path=path, status=answer.status, started=started, request_id=request_id)
