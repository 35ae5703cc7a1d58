"""The endpoint that Aircall sends events to: plain ASGI, so that an event costs no more than it must."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from aircall_oauth.access.problems import MEDIA_TYPE, headers, problem, problems
from aircall_oauth.aircall import calls, payloads
from aircall_oauth.errors import AppError, BodyTooLarge, EncodingRefused, InboxFull, Unavailable, WebhookTokenUnknown
from aircall_oauth.events.receiver import envelope
from aircall_oauth.events.receiver.body import MAX_BODY_BYTES, Bodies
from aircall_oauth.events.receiver.failures import Troubles
from aircall_oauth.events.receiver.inbox import Inbox, Outcome
from aircall_oauth.events.receiver.large import LargeBodies
from aircall_oauth.events.receiver.statement import ANSWER_SECONDS, Arrival, TakenIn
from aircall_oauth.resources import Resources
from aircall_oauth.storage.away import database_errors
from aircall_oauth.storage.sealed import REPEAT_PURPOSE, WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.telemetry import log
from aircall_oauth.telemetry.answered import Answered

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

PATH = "/aircall/webhook"
FAILED = "failed"
HUNG_UP = "hung_up"
# The answers that alerts are about.
UNWELCOME = [
    (AppError.status, FAILED),
    (WebhookTokenUnknown.status, WebhookTokenUnknown.code()),
    *((kind.status, kind.code()) for kind in Unavailable.every()),
]

Headers = list[tuple[bytes, bytes]]
logger = log.get(__name__)


class Answer(NamedTuple):
    """What a sender is told; `name` is the outcome or the error's code, as the metrics count it."""

    status: int
    name: str
    headers: Headers
    body: bytes

    def all_headers(self, request_id: str) -> Headers:
        return [
            *self.headers,
            (b"content-length", str(len(self.body)).encode()),
            (b"x-request-id", request_id.encode()),
        ]


ACCEPTED = {
    taken: Answer(200, taken.name.lower(), [(b"content-type", b"application/json")], b'{"ok": true}')
    for taken in (TakenIn.STORED, TakenIn.REPEATED)
}


class Receiver:
    """Receives events and answers Aircall: 200 for an event that is kept or repeated, else Aircall sends it again.

    It stands before the framework and its middleware, so it does what they do for other requests: the request's id, its
    line in the log, and an answer when something broke.
    """

    path = PATH

    _resources: Resources
    _inbox: Inbox
    _troubles: Troubles

    def __init__(self) -> None:
        self._bodies = Bodies()
        self._large = LargeBodies()
        self._noted: list[Answered] = []

    def open(self, resources: Resources, inbox: Inbox, troubles: Troubles) -> None:
        """Work with these from now on: all that it needs is there before the first request."""
        self._resources, self._inbox, self._troubles = resources, inbox, troubles

    @property
    def answers_directly(self) -> bool:
        """Whether a small event may be taken in by `offer`, without waiting for anything first."""
        resources = self._resources
        return (
            resources.settings.direct_receiver
            and resources.ready
            and not resources.leaving
            and resources.tracing is None
            and not resources.vault.changes_fingerprints
        )

    def offer(self, body: bytes, told: Callable[[Outcome], None]) -> None:
        """Put a small event into the inbox, which calls `told` later. Raises `EventMalformed` or `InboxFull`."""
        self._inbox.offer(self._arrival(envelope.read(body)), told)

    def note_answer(self, answer: Answer | None, *, started: float, request_id: str) -> None:
        """Have a request counted and logged, with all that are answered in this turn of the event loop.

        None is for a sender that hung up; `started` is a `perf_counter` time.
        """
        if not self._noted:
            asyncio.get_running_loop().call_soon(self._account_noted)
        self._noted.append(_answered(answer, started, request_id))

    def _account_noted(self) -> None:
        noted, self._noted = self._noted, []
        self._account(noted)

    def _account(self, answered: Sequence[Answered]) -> None:
        self._resources.metrics.acked(answered)
        for each in answered:
            self._troubles.note(each.status)
        log.requests("POST", PATH, answered)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        started = time.perf_counter()
        sent = dict(scope["headers"])
        request_id, answer = log.request_id(sent.get(b"x-request-id")), None
        try:
            outcome: Outcome
            try:
                _refuse_early(sent)
                outcome = await self._take_in(await self._bodies.read(receive))
            except ConnectionError:
                return
            except Exception as error:
                outcome = error
            answer = answer_to(outcome, request_id)
            await send_answer(send, answer, request_id)
        finally:
            self._account([_answered(answer, started, request_id)])

    async def _take_in(self, body: bytes) -> TakenIn:
        resources = self._resources
        event = envelope.read(body) if len(body) <= envelope.LARGE_BYTES else await self._large.read(resources, body)
        await _wait_until_ready(resources)
        arrival = self._arrival(event)
        taken = await self._inbox.take_in(arrival)
        # Its webhook may have the fingerprint of an older key still, until the worker has looked at it.
        for older in resources.vault.older_fingerprints(event.token, WEBHOOK_TOKEN_PURPOSE):
            if taken is TakenIn.UNKNOWN_TOKEN:
                taken = await self._inbox.take_in(msgspec.structs.replace(arrival, token_fingerprint=older))
        return taken

    def _arrival(self, event: envelope.Envelope) -> Arrival:
        resource = envelope.resource(event)
        resources = self._resources
        data, fingerprint, unkeyed = event.data, envelope.fingerprint(event), None
        if resources.redaction is not None:
            # What was left out or hashed could be guessed from an unkeyed hash of all that came.
            unkeyed, fingerprint = fingerprint, resources.vault.fingerprint(fingerprint.hex(), REPEAT_PURPOSE)
            data = resources.redaction.of(event.event, data)
        return Arrival(
            token_fingerprint=resources.vault.fingerprint(event.token, WEBHOOK_TOKEN_PURPOSE),
            type=event.event,
            resource=resource,
            occurred_at=envelope.occurred_at(event),
            fingerprint=fingerprint,
            data=data,
            call=calls.key(event.about) if event.event == calls.ENDED and event.about is not None else None,
            subject=payloads.subject(resource, event.about),
            unkeyed=unkeyed,
        )


def _answered(answer: Answer | None, started: float, request_id: str) -> Answered:
    status, name = (0, HUNG_UP) if answer is None else (answer.status, answer.name)
    return Answered(status, name, time.perf_counter() - started, request_id)


def answer_to(outcome: Outcome, request_id: str) -> Answer:
    """Return the answer for an event by what became of it."""
    if isinstance(outcome, Exception):
        return refused(outcome, request_id)
    # Aircall sends it again, so an event that overtakes its own webhook's registration is not lost.
    return refused(WebhookTokenUnknown(), request_id) if outcome is TakenIn.UNKNOWN_TOKEN else ACCEPTED[outcome]


def refused(error: Exception, request_id: str) -> Answer:
    """Return the answer for an event that was not taken in; an error that is none of ours is logged."""
    if isinstance(error, AppError):
        return _answer(error, error.code(), request_id)
    logger.error("request failed", request_id=request_id, exc_info=error)
    return _answer(AppError(), FAILED, request_id)


def _answer(error: AppError, name: str, request_id: str) -> Answer:
    raw = [(key.encode(), value.encode()) for key, value in headers(error).items()]
    raw.append((b"content-type", MEDIA_TYPE.encode()))
    return Answer(error.status, name, raw, json.dumps(problem(error, request_id)).encode())


async def _wait_until_ready(resources: Resources) -> None:
    if not resources.ready:
        with database_errors():
            async with asyncio.timeout(ANSWER_SECONDS):
                await resources.require_ready()


def _refuse_early(sent: dict[bytes, bytes]) -> None:
    """Refuse a request for what its headers alone tell; raises `EncodingRefused` or `BodyTooLarge`."""
    if sent.get(b"content-encoding", b"identity").lower() != b"identity":
        raise EncodingRefused
    declared = sent.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLarge


async def send_answer(send: "Send", answer: Answer, request_id: str) -> None:
    """Send an answer through ASGI."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.all_headers(request_id)})
    await send({"type": "http.response.body", "body": answer.body})


def documentation() -> dict[str, Any]:
    """Return the endpoint's part of the OpenAPI document; the framework lists its own routes only."""
    example = {
        "resource": "call",
        "event": "call.created",
        "timestamp": 1767261600,
        "token": "the webhook's token",
        "data": {"id": 2481173905, "direction": "inbound", "status": "initial"},
    }
    return {
        "post": {
            "tags": ["Webhook receiver"],
            "operationId": "receive_event",
            "summary": "Receive an event from Aircall",
            "description": "The endpoint for Aircall. The event is committed before the answer, and stored once "
            "however often it is sent. Its token is recognised, and never kept. Unknown event names are kept like any "
            "other. Aircall repeats what is not answered 2xx within 5 seconds.",
            "security": [],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/AircallEvent"},
                        "example": example,
                    }
                },
            },
            "responses": {
                "200": {
                    "description": "Stored now, or already stored",
                    "content": {
                        "application/json": {"schema": {"type": "object"}, "example": {"ok": True}},
                    },
                },
                **{str(k): v for k, v in problems(400, WebhookTokenUnknown(), 408, 413, 415, InboxFull()).items()},
            },
        }
    }


SCHEMA: dict[str, Any] = {
    "title": "AircallEvent",
    "type": "object",
    "description": "One event. There is no signature and no event id; `token` says which webhook it is of.",
    "required": ["event", "token", "data"],
    "properties": {
        "resource": {"type": "string", "examples": ["call"]},
        "event": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        "timestamp": {"description": "UNIX time in seconds, or in milliseconds"},
        "token": {"type": "string", "minLength": 1, "maxLength": envelope.MAX_TOKEN},
        "data": {"description": "Kept byte for byte"},
    },
}
