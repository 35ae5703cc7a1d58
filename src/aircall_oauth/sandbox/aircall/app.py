"""The application: Aircall's routes under /v1, /v2 and /oauth, the sandbox's own at / and under /control."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from aircall_oauth.sandbox.aircall import consent, control, refusals, routes
from aircall_oauth.sandbox.aircall.answers import refused
from aircall_oauth.sandbox.aircall.middleware import VERSIONS, Ledger
from aircall_oauth.sandbox.aircall.pages import render
from aircall_oauth.sandbox.aircall.pretend import PretendAircall
from aircall_oauth.sandbox.aircall.refusals import RefusedError


def create_app(aircall: PretendAircall) -> ASGIApp:
    """Build the ASGI application. The end of its lifespan closes `aircall`; without a lifespan, call `close`."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await aircall.close()

    app = Starlette(routes=[*routes.ROUTES, *consent.ROUTES, *control.ROUTES], lifespan=lifespan)
    app.state.aircall = aircall
    app.router.redirect_slashes = False
    app.add_exception_handler(RefusedError, _refuse)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(consent.ConsentError, consent.cannot_ask)
    app.add_exception_handler(control.OrderError, control.cannot_do)
    return Ledger(app, aircall)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refused(error)


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer 404 for an unknown path, and for a wrong method on a known one, as Aircall's gateway does."""
    if request.url.path.startswith(VERSIONS):
        return refused(refusals.no_such_path())
    return render("error.html", status=404, reason="There is no such page.")
