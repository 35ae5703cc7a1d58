"""The console's application: its pages, its errors as pages in the same frame, its own files."""

from contextlib import suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException

from aircall_oauth.access.faults import faults
from aircall_oauth.console import corrections, gate, refusals
from aircall_oauth.console.assets import ASSETS
from aircall_oauth.console.brake import SignInBrake
from aircall_oauth.console.frame import guarded
from aircall_oauth.console.pages import PAGES
from aircall_oauth.errors import AppError, BodyTooLarge, InvalidRequest, MethodNotAllowed, NotFound, SignInNeeded
from aircall_oauth.resources import Resources

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
FOR_GOOD = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}


def create_app(resources: Resources) -> FastAPI:
    """Build the console over the resources of the process that serves it."""
    routes = [route for router in PAGES for route in router.routes]
    app = FastAPI(
        routes=routes,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry=NO_TELEMETRY,
    )
    app.state.resources, app.state.brake = resources, SignInBrake()
    app.add_api_route("/assets/{name}", asset, methods=["GET", "HEAD"])
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    return app


async def asset(request: Request, name: str) -> Response:
    """Answer one of our own files."""
    gate.refuse_other_hosts(request)
    found = ASSETS.get(name)
    if found is None:
        raise NotFound
    return Response(found.body, media_type=found.media_type, headers=FOR_GOOD)


async def answer_error(request: Request, error: AppError) -> Response:
    """Answer an error with its page; a visitor who is not signed in is sent to sign in, and then back."""
    if isinstance(error, SignInNeeded) and request.method in gate.READING_METHODS:
        return guarded(RedirectResponse(refusals.sign_in_address(request), 303))
    if isinstance(error, BodyTooLarge):
        # It is refused before anyone is recognised: the page has its menu all the same.
        with suppress(AppError):
            gate.refuse_other_hosts(request)
            request.state.visitor = await gate.visitor_of(request)
    return await refusals.page(request, error)


async def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return await answer_error(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["loc"][0] == "path" for each in found):
        return await answer_error(request, NotFound())
    if all(each["loc"][0] == "query" and len(each["loc"]) > 1 for each in found):
        said, wrong = corrections.of_filters(found)
        request.state.wrong_filters = wrong
        return await answer_error(request, InvalidRequest(said))
    return await answer_error(request, InvalidRequest(faults(found)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    try:
        # Who is not signed in does not learn which addresses there are.
        gate.refuse_other_hosts(request)
        request.state.visitor = await gate.admit(request)
    except AppError as refusal:
        return await answer_error(request, refusal)
    known = {404: NotFound, 405: MethodNotAllowed}
    answer = await answer_error(request, known.get(error.status_code, InvalidRequest)())
    answer.headers.update({name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"})
    return answer
