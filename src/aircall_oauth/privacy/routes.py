"""The doors for what is held about people and customers."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from aircall_oauth.access.dependencies import PrivacyExporter, ResourcesDep, WhoDep
from aircall_oauth.access.parameters import InstallationId
from aircall_oauth.access.problems import problems
from aircall_oauth.access.routing import StrictRoute
from aircall_oauth.errors import InstallationNotFound, TooManyStreams
from aircall_oauth.events.streams import RETRY_SECONDS, Streams
from aircall_oauth.privacy import export

exports = APIRouter(prefix="/v1/installations", tags=["Privacy"], route_class=StrictRoute)

NDJSON = "application/x-ndjson"
EXPORTED: dict[str, Any] = {
    "description": "A JSON object per line: `kind`, and under that name what it holds. The last line is of kind `end`",
    "content": {
        NDJSON: {
            "schema": {"type": "string"},
            "example": '{"kind": "event", "event": {"id": "evt_019aaf0c8f7e7d1bb6c4f3a2d1e0c9b8", …}}\n',
        }
    },
}


class Export(StreamingResponse):
    """An export, counted as a stream of its API key for as long as it is sent."""

    media_type = NDJSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams: Streams = scope["app"].state.streams
        with streams.one_of(scope["state"]["caller"].id):
            await super().__call__(scope, receive, send)


@exports.get(
    "/{installation_id}/export",
    summary="Export what is held about a customer",
    response_class=StreamingResponse,
    responses={
        200: EXPORTED,
        **problems(401, 403, InstallationNotFound(), 422, TooManyStreams(RETRY_SECONDS), 503),
    },
)
async def export_installation(
    installation_id: InstallationId, key: PrivacyExporter, who: WhoDep, resources: ResourcesDep
) -> Export:
    """All that is held about one installation as NDJSON: its rows, its events, their deliveries, the audit; no secret.

    A line of kind `end` closes an export that is whole. The events are those up to `up_to_position` of the first line.
    The audit has a line for each export. It counts as one of the key's twenty open streams.
    """
    first = await export.begin(resources, key, who, installation_id)
    return Export(export.lines(resources, key, first), headers={"cache-control": "no-store"})
