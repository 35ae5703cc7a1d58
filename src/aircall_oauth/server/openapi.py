"""The API as an OpenAPI document: what the framework knows of our routes, and what it does not.

`python -m aircall_oauth.server.openapi > docs/openapi.json` updates the copy in the documentation; a test compares
them.
"""

import json
import sys
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from aircall_oauth import __version__
from aircall_oauth.access.problems import Problem
from aircall_oauth.deliveries import documentation
from aircall_oauth.events import routes as events
from aircall_oauth.events.receiver import endpoint
from aircall_oauth.server import contract
from aircall_oauth.server.routers import ROUTERS, TITLE

DESCRIPTION = """
Holds a software company's connections to Aircall: the OAuth flow, the sealed tokens, the webhooks, and every event.

Errors of the `/v1` endpoints are `application/problem+json` with a stable `code`. Send an API key as
`Authorization: Bearer <API key>`; `aircall-oauth keys create` makes one.
"""
TAGS = {
    "Install flow": "For an admin's browser; answers are pages.",
    "Webhook receiver": "For Aircall.",
    "Installations": "For the partner's systems.",
    "Events": "For the partner's systems: the log.",
    "Subscriptions": "For the partner's systems: events delivered to them.",
    "Aircall": "For the partner's systems: the Aircall Public API, asked as an installation.",
    "Privacy": "For the partner's systems: what is held about people and customers.",
    "Audit": "For the partner's systems: who did what, when, from where.",
    "Operations": "For the platform.",
}


@cache
def document() -> dict[str, Any]:
    """Return every route with its parameters, answers and errors, as OpenAPI 3.1."""
    app = FastAPI(generate_unique_id_function=lambda route: route.name)
    for router in ROUTERS:
        app.include_router(router)
    schema = get_openapi(
        title=TITLE,
        version=__version__,
        summary="The Aircall connections of a software company",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": ".", "description": "This service, wherever this document is served"}],
        routes=app.routes,
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
    )
    schema["paths"][endpoint.PATH] = endpoint.documentation()
    schema["webhooks"] = documentation.webhooks()
    schema["components"]["schemas"] |= {
        "Problem": Problem.model_json_schema(),
        "AircallEvent": endpoint.SCHEMA,
        "StreamItem": events.STREAM_ITEM,
        **documentation.schemas(),
    }
    _drop_framework_errors(schema)
    _drop_null_parameters(schema)
    contract.name_scopes(
        schema, (route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute))
    )
    contract.name_unions(schema)
    contract.set_widths(schema)
    return contract.name_schemas(schema)


def _drop_null_parameters(schema: dict[str, Any]) -> None:
    """Remove "or null" from optional parameters: FastAPI writes it, but a query string has no null."""
    for path in schema["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                match parameter["schema"].get("anyOf"):
                    case [wanted, {"type": "null"}]:
                        del parameter["schema"]["anyOf"]
                        parameter["schema"] |= wanted


def _drop_framework_errors(schema: dict[str, Any]) -> None:
    """Remove FastAPI's own 422 where a route declares none: those routes answer 400 with a page."""
    for path in schema["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422", {})
            if answer.get("content", {}).keys() == {"application/json"}:
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def main() -> None:
    sys.stdout.write(json.dumps(document(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
