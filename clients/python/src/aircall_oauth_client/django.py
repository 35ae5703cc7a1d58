"""URL patterns for Django: `urlpatterns = [*connect_routes(…), receiver(…)]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.urls import path as pattern
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from aircall_oauth_client._sync.client import Client
from aircall_oauth_client._sync.connecting import way_home
from aircall_oauth_client.home import PATH, Home
from aircall_oauth_client.inbox import MAX_BODY_BYTES, Handler, Inbox, IsNew, Seen

QUIET = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def connect_routes(
    client: Client,
    *,
    owner: Callable[[HttpRequest], Any],
    return_to: str | None = None,
    show: Callable[[HttpRequest, Home], Any] | None = None,
    path: str = PATH,
) -> list[Any]:
    """Return two patterns: `{path}/connect` sends the browser to Aircall, `{path}/connected` is where it comes home.

    `owner` returns your own id of the customer who is logged in, or a response, such as a redirect to your login.
    `return_to` is the full address of `{path}/connected`, which must be on the service's list. `show` makes your page.
    """

    def connect(request: HttpRequest) -> Any:
        who = owner(request)
        if isinstance(who, HttpResponseBase):
            return who
        return _redirect(client.install_links.create(who, return_to=return_to)["url"])

    def connected(request: HttpRequest) -> Any:
        who = owner(request)
        if isinstance(who, HttpResponseBase):
            return who
        query = {name: request.GET.get(name, "")[:512] for name in ("claim", "error", "attempt")}
        home = way_home(client, who, **query)
        if query["claim"] and home.installation is not None:
            # Out of the address bar and the history; a reload then says what is connected.
            return _redirect(request.path)
        if show is not None:
            return show(request, home)
        return HttpResponse(home.page(), status=home.status, headers=QUIET)

    here = path.strip("/")
    return [
        pattern(f"{here}/connect", require_GET(connect), name="aircall_connect"),
        pattern(f"{here}/connected", require_GET(connected), name="aircall_connected"),
    ]


def receiver(*secrets: str, on: Mapping[str, Handler], seen: Seen | IsNew | str, path: str = f"{PATH}/events") -> Any:
    """Return the pattern that deliveries come to."""
    inbox = Inbox(*secrets, on=on, seen=seen)

    def take(request: HttpRequest) -> Any:
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
            return HttpResponse(status=413)
        answer = inbox.take(request.headers, request.body)
        return HttpResponse(status=answer.status, headers=dict(answer.headers))

    return pattern(path.strip("/"), csrf_exempt(require_POST(take)), name="aircall_events")


def _redirect(url: str) -> Any:
    return HttpResponseRedirect(url, status=303, headers=QUIET)
