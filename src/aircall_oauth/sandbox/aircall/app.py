"""Puts the doors together: Aircall's own under /v1, /v2 and /oauth, ours at / and under /control."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from aircall_oauth.sandbox.aircall import consent, control, doors, refusals
from aircall_oauth.sandbox.aircall.answers import refused
from aircall_oauth.sandbox.aircall.edge import VERSIONS, Edge
from aircall_oauth.sandbox.aircall.pages import render
from aircall_oauth.sandbox.aircall.pretend import PretendAircall
from aircall_oauth.sandbox.aircall.refusals import RefusedError


def create_app(aircall: PretendAircall) -> ASGIApp:
    """The ASGI application. Its lifespan's end closes `aircall`; without one, call `close` yourself."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await aircall.close()

    app = Starlette(routes=[*doors.ROUTES, *consent.ROUTES, *control.ROUTES], lifespan=lifespan)
    app.state.aircall = aircall
    app.router.redirect_slashes = False
    app.add_exception_handler(RefusedError, _refuse)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(consent.ConsentError, consent.cannot_ask)
    app.add_exception_handler(control.OrderError, control.cannot_do)
    return Edge(app, aircall)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refused(error)


async def _not_found(request: Request, error: Exception) -> Response:
    """A wrong method on a known path is an unknown path too, as far as the edge is concerned."""
    if request.url.path.startswith(VERSIONS):
        return refused(refusals.no_such_path())
    return render("error.html", status=404, reason="There is no such page.")
