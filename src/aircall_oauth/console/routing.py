"""Routes of the console: the host is checked, who asks is recognised, then form and query are checked."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.console import forms, gate
from aircall_oauth.console.frame import form_of, page_of


class PageRoute(StrictRoute):
    """A page for a person who is signed in. Unknown query parameters are refused; empty ones are left out.

    A form sends every field of it, the empty ones too: the address without them is the one to share. What answers GET
    answers HEAD; the server leaves the body out. What is sent acts once for each page it was shown on.
    """

    acts_once: ClassVar[bool] = True

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

    async def respond(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if not self.acts_once or request.method in gate.READING_METHODS:
            return await answer(request)
        await form_of(request)
        return await forms.act(await page_of(request), lambda: answer(request))


class OwnRoute(PageRoute):
    """A page whose form changes nothing but what its visitor sees; it may be sent again and again."""

    acts_once = False


class OpenRoute(OwnRoute):
    """A page for everyone: to sign in."""

    async def admit(self, request: Request) -> None:
        gate.refuse_other_hosts(request)
        request.state.visitor = await gate.visitor_of(request)
        gate.refuse_other_sites(request)
