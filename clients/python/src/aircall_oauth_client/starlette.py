"""Routes for Starlette and FastAPI: `app.router.routes.extend(connect_routes(…))`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Union

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from aircall_oauth_client._async.client import AsyncClient
from aircall_oauth_client._async.connecting import way_home
from aircall_oauth_client.home import PATH, Home
from aircall_oauth_client.inbox import MAX_BODY_BYTES, Handler, Inbox, IsNew, Seen

OwnerOf = Callable[[Request], Union[str, Response, Awaitable[Union[str, Response]]]]
Show = Callable[[Request, Home], Union[Response, Awaitable[Response]]]

QUIET = {"cache-control": "no-store", "referrer-policy": "no-referrer"}


def connect_routes(
    client: AsyncClient,
    *,
    owner: OwnerOf,
    return_to: str | None = None,
    show: Show | None = None,
    path: str = PATH,
) -> list[Route]:
    """Return two routes: `{path}/connect` sends the browser to Aircall, `{path}/connected` is where it comes home.

    `owner` returns your own id of the customer who is logged in, or a response, such as a redirect to your login.
    `return_to` is the full address of `{path}/connected`, which must be on the service's list. `show` makes your page.
    """

    async def connect(request: Request) -> Response:
        who = await _who(owner, request)
        if isinstance(who, Response):
            return who
        link = await client.install_links.create(who, return_to=return_to)
        return RedirectResponse(link["url"], status_code=303, headers=QUIET)

    async def connected(request: Request) -> Response:
        who = await _who(owner, request)
        if isinstance(who, Response):
            return who
        query = {name: request.query_params.get(name, "")[:512] for name in ("claim", "error", "attempt")}
        home = await way_home(client, who, **query)
        if query["claim"] and home.installation is not None:
            # Out of the address bar and the history; a reload then says what is connected.
            return RedirectResponse(request.url.path, status_code=303, headers=QUIET)
        if show is not None:
            return await _shown(show, request, home)
        return HTMLResponse(home.page(), home.status, headers=QUIET)

    return [
        Route(f"{path}/connect", connect, methods=["GET"], name="aircall_connect"),
        Route(f"{path}/connected", connected, methods=["GET"], name="aircall_connected"),
    ]


def receiver(*secrets: str, on: Mapping[str, Handler], seen: Seen | IsNew | str, path: str = f"{PATH}/events") -> Route:
    """Return the route that deliveries come to: `receiver(secret, on={"call.ended": f}, seen="seen.sqlite")`."""
    inbox = Inbox(*secrets, on=on, seen=seen)

    async def take(request: Request) -> Response:
        if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
            return Response(status_code=413)
        answer = await inbox.take_async(request.headers, await request.body())
        return Response(status_code=answer.status, headers=answer.headers)

    return Route(path, take, methods=["POST"], name="aircall_events")


async def _who(owner: OwnerOf, request: Request) -> str | Response:
    said = owner(request)
    return said if isinstance(said, (str, Response)) else await said


async def _shown(show: Show, request: Request, home: Home) -> Response:
    said = show(request, home)
    return said if isinstance(said, Response) else await said
