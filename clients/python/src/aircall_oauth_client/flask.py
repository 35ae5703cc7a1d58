"""A blueprint for Flask: `app.register_blueprint(blueprint(…))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, redirect, request

from aircall_oauth_client._sync.client import Client
from aircall_oauth_client._sync.connecting import way_home
from aircall_oauth_client.home import PATH, Home
from aircall_oauth_client.inbox import MAX_BODY_BYTES, Handler, Inbox, IsNew, Seen

QUIET = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def connect_routes(
    client: Client,
    *,
    owner: Callable[[], Any],
    return_to: str | None = None,
    show: Callable[[Home], Any] | None = None,
    path: str = PATH,
) -> Any:
    """Return a blueprint: `{path}/connect` sends the browser to Aircall, `{path}/connected` is where it comes home.

    `owner` returns your own id of the customer who is logged in, or a response, such as a redirect to your login.
    `return_to` is the full address of `{path}/connected`, which must be on the service's list. `show` makes your page.
    """
    routes = Blueprint("aircall_connect", __name__)

    @routes.get(f"{path}/connect")  # type: ignore[untyped-decorator]
    def connect() -> Any:
        who = owner()
        if not isinstance(who, str):
            return who
        return _quiet(redirect(client.install_links.create(who, return_to=return_to)["url"], 303))

    @routes.get(f"{path}/connected")  # type: ignore[untyped-decorator]
    def connected() -> Any:
        who = owner()
        if not isinstance(who, str):
            return who
        query = {name: request.args.get(name, "")[:512] for name in ("claim", "error", "attempt")}
        home = way_home(client, who, **query)
        if query["claim"] and home.installation is not None:
            # Out of the address bar and the history; a reload then says what is connected.
            return _quiet(redirect(request.path, 303))
        if show is not None:
            return show(home)
        return _quiet(Response(home.page(), home.status, content_type="text/html; charset=utf-8"))

    return routes


def receiver(*secrets: str, on: Mapping[str, Handler], seen: Seen | IsNew | str, path: str = f"{PATH}/events") -> Any:
    """Return a blueprint with the route that deliveries come to."""
    inbox, routes = Inbox(*secrets, on=on, seen=seen), Blueprint("aircall_events", __name__)

    @routes.post(path)  # type: ignore[untyped-decorator]
    def take() -> Any:
        if (request.content_length or 0) > MAX_BODY_BYTES:
            return Response(status=413)
        answer = inbox.take(request.headers, request.get_data())
        return Response(status=answer.status, headers=dict(answer.headers))

    return routes


def _quiet(response: Any) -> Any:
    response.headers.update(QUIET)
    return response
