"""Routes that recognise the API key first, then check the parameters, and then read the body."""

import re
from collections.abc import Awaitable, Callable, Coroutine
from difflib import get_close_matches
from functools import cached_property
from typing import Any, get_origin

from fastapi import Request, Response, params
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute

from aircall_oauth.access import dependencies
from aircall_oauth.errors import InvalidRequest

# Names that an answer may repeat; anything else could be a secret in the wrong place.
PLAIN_NAME = re.compile(r"[A-Za-z_]{1,32}")


class KeyedRoute(APIRoute):
    """Recognises the API key before the body is read; the framework would read the body first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            await self.admit(request)
            self.judge(request)
            return await self.respond(request, answer)

        return keyed

    async def admit(self, request: Request) -> None:
        """Recognise who asks; raises `Unauthenticated`."""
        await dependencies.authenticate(request)

    async def respond(self, request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request that was let in."""
        return await answer(request)

    def judge(self, request: Request) -> None:
        """Refuse what no dependency of the endpoint checks; raises `InvalidRequest`."""


class StrictRoute(KeyedRoute):
    """Refuses unknown query parameters, and repeated ones that take one value.

    If a misspelt filter were ignored, the answer would have what the filter should have left out.
    """

    def judge(self, request: Request) -> None:
        given = [name for name, _ in request.query_params.multi_items()]
        faults = [_unknown(name, list(self._known)) for name in dict.fromkeys(given) if name not in self._known]
        faults += [
            f"query.{name}: is given more than once"
            for name, repeatable in self._known.items()
            if not repeatable and given.count(name) > 1
        ]
        if faults:
            raise InvalidRequest("; ".join(dict.fromkeys(faults)))

    @cached_property
    def _known(self) -> dict[str, bool]:
        """The endpoint's query parameters, and whether each may be repeated."""
        fields = [field for field in get_flat_params(self.dependant) if isinstance(field.field_info, params.Query)]
        return {field.alias: get_origin(field.field_info.annotation) is list for field in fields}


def _unknown(name: str, known: list[str]) -> str:
    said = f"query.{name}" if PLAIN_NAME.fullmatch(name) else "query"
    if nearest := get_close_matches(name.lower()[:64], known, n=1, cutoff=0.5):
        return f"{said}: there is no such parameter here; did you mean `{nearest[0]}`?"
    return f"{said}: there is no such parameter here; there is {', '.join(known) or 'none at all'}"
