"""The web application: its routes, its error answers, and `/docs`."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from aircall_oauth.access.faults import faults
from aircall_oauth.access.problems import MEDIA_TYPE, headers, problem
from aircall_oauth.errors import (
    AppError,
    FlowError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ParametersInvalid,
    TryAgainLater,
)
from aircall_oauth.events.notify import open_notifier
from aircall_oauth.events.receiver.endpoint import PATH, Receiver
from aircall_oauth.events.receiver.inbox import Inbox
from aircall_oauth.events.streams import Streams
from aircall_oauth.installations.attempts.tally import open_tally
from aircall_oauth.installations.oauth import routes
from aircall_oauth.installations.oauth.brake import Brake
from aircall_oauth.installations.outages import heartbeat
from aircall_oauth.resources import Resources
from aircall_oauth.server import outermost
from aircall_oauth.server.middleware import RequestMiddleware
from aircall_oauth.server.routers import ROUTERS, TITLE

DOCS_ASSETS = "/docs/assets"

# FastAPI's own telemetry would export query strings and error messages to where the environment says.
NO_TELEMETRY_BUT_OURS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


class App(FastAPI):
    """The ASGI application. Events from Aircall go straight to the receiver, past the framework and its middleware."""

    def __init__(self, receiver: Receiver, **options: Any) -> None:
        super().__init__(**options)
        self.receiver = receiver
        self.state.streams = Streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await outermost.answer(self._route(scope), self.state.resources, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _route(self, scope: Scope) -> ASGIApp:
        if scope["path"] == PATH and scope["method"] == "POST":
            scope["endpoint"] = self.receiver
            return self.receiver
        return super().__call__

    @asynccontextmanager
    async def opened(self, resources: Resources, inbox: Inbox) -> AsyncIterator[None]:
        """Open what the requests share, while the block lasts."""
        async with (
            open_notifier(resources.database, announces=resources.commits) as notifier,
            heartbeat.beating(resources),
            open_tally(resources) as tally,
        ):
            self.state.resources, self.state.inbox, self.state.notifier = resources, inbox, notifier
            self.state.brake, self.state.tally = Brake(), tally
            resources.metrics.expect_requests(
                (route.path, method) for route in _routes(self) for method in route.methods or ()
            )
            yield

    def end_waiting(self) -> None:
        """Answer the requests that wait for events: the process is about to end."""
        self.state.notifier.stop()


def create_app(receiver: Receiver) -> App:
    """Build the application around a receiver; `App.opened` opens what its requests share."""
    app = App(
        receiver,
        # The routes themselves: `include_router` builds each anew for every application, at its first request.
        routes=[route for router in ROUTERS for route in router.routes],
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY_BUT_OURS,
    )
    app.router.routes.append(Route(PATH, app.receiver, methods=["POST"], name="receive_event"))
    app.add_middleware(RequestMiddleware, on_error=_answer_error)
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    _serve_docs(app)
    return app


def _routes(app: FastAPI) -> list[Route]:
    return [route for route in app.routes if isinstance(route, Route)]


async def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return await _answer_error(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if _is_browser(request):
        return await _answer_error(request, ParametersInvalid())
    fields = _fields_of(request.scope.get("route"))
    return await _answer_error(request, InvalidRequest(faults(error.errors(), fields)))


def _fields_of(route: object) -> set[str]:
    """Return the names of all fields that the body of a route's request may have."""
    if not isinstance(route, APIRoute) or route.body_field is None:
        return set()
    body: Any = route.body_field.field_info.annotation
    schema = TypeAdapter(body).json_schema()
    models = [schema, *schema.get("$defs", {}).values()]
    return {name for model in models for name in model.get("properties", ())}


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, AppError):
        # Raised by our own code while the framework read the body.
        return await _answer_error(request, error.__cause__)
    allowed = {"allow": _methods_of(request) or "GET"} if error.status_code == 405 else {}
    if _is_browser(request):
        by_link = "link" in request.query_params
        page = routes.answer(routes.pages_for(request).nothing_here(error.status_code, by_link=by_link))
        page.headers.update(allowed)
        return page
    if request.url.path == "/" and request.method in {"GET", "HEAD"} and error.status_code == 404:
        return await _front_page(request)
    known = {404: NotFound, 405: MethodNotAllowed}
    return await _answer_error(request, known.get(error.status_code, InvalidRequest)(), allowed)


async def _front_page(request: Request) -> Response:
    """Say what this service is to a browser; to others answer as everywhere that there is nothing here."""
    wants_page = "text/html" in request.headers.get("accept", "").lower()
    if not wants_page:
        return await _answer_error(request, NotFound(), {"vary": "Accept"})
    page = routes.answer(routes.pages_for(request).welcome())
    page.headers.add_vary_header("Accept")
    return page


def _methods_of(request: Request) -> str:
    """Return every method of this address, for `Allow`: the framework knows those of one route only."""
    here = [route for route in _routes(request.app) if route.matches(request.scope)[0] != Match.NONE]
    return ", ".join(sorted({method for route in here for method in route.methods or ()}))


async def _answer_error(request: Request, error: AppError, also: dict[str, str] | None = None) -> Response:
    if _is_browser(request):
        shown, resources = _as_ending(error), request.app.state.resources
        resources.metrics.install_ended(shown.code())
        return await routes.ending_page(request, shown)
    body = problem(error, request.scope.get("request_id"))
    return JSONResponse(body, error.status, headers(error) | (also or {}), media_type=MEDIA_TYPE)


def _as_ending(error: AppError) -> AppError:
    """Return the ending that a browser is shown for an error, which may come from outside the install flow."""
    if isinstance(error, FlowError):
        return error
    if error.status < 500:
        return ParametersInvalid()
    return TryAgainLater() if error.status == 503 else error


def _is_browser(request: Request) -> bool:
    return request.url.path.startswith(outermost.BROWSER_DOORS)


def _serve_docs(app: FastAPI) -> None:
    """Serve `/docs` with its own copy of the assets, so that it works in a closed network."""
    spec = importlib.util.find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    app.mount(DOCS_ASSETS, StaticFiles(directory=Path(spec.origin).parent / "static"))

    # Relative to `/docs`, which a proxy may show under another path.
    openapi_url, assets = "openapi.json", DOCS_ASSETS.removeprefix("/")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=openapi_url,
            title=TITLE,
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
        )

    def document() -> dict[str, Any]:
        from aircall_oauth.server import openapi

        return openapi.document()

    app.openapi = document  # type: ignore[method-assign]
