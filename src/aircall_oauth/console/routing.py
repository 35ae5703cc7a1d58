"""Routes of the console: the host is checked, who asks is recognised, then form and query are checked."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.console import gate


class PageRoute(StrictRoute):
    """A page for a person who is signed in. Unknown query parameters are refused; empty ones are left out.

    A form sends every field of it, the empty ones too: the address without them is the one to share. What answers GET
    answers HEAD; the server leaves the body out.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.methods and "GET" in self.methods:
            self.methods.add("HEAD")

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def tidied(request: Request) -> Response:
            given = request.query_params.multi_items()
            filled = [(name, value) for name, value in given if value.strip()]
            if request.method in gate.READING_METHODS and filled != given:
                return RedirectResponse(f"?{urlencode(filled)}" if filled else request.url.path, 303)
            return await answer(request)

        return tidied

    async def admit(self, request: Request) -> None:
        gate.refuse_other_hosts(request)
        request.state.visitor = await gate.admit(request)
        gate.refuse_other_sites(request)


class OpenRoute(PageRoute):
    """A page for everyone: to sign in."""

    async def admit(self, request: Request) -> None:
        gate.refuse_other_hosts(request)
        request.state.visitor = await gate.visitor_of(request)
        gate.refuse_other_sites(request)
