"""A sample receiver: what a partner's system does with a delivery. `python -m aircall_oauth.sandbox.receiver`

It verifies each signature as `docs/deliveries.md` shows, drops repeats, and shows what it got. It learns its secret by
`PUT /secret`, because in the sandbox it starts before its subscription is created.
"""

import argparse
import base64
import hashlib
import hmac
import html
import json
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

TOLERANCE_SECONDS = 300
SHOWN = 200
PAGE = """<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Sample receiver</title>
<style>body{{font:15px system-ui;margin:2rem}}td{{padding:.2rem 1rem .2rem 0}}code{{color:#555}}</style>
<h1>Sample receiver</h1><p>{count} events, each signature verified, repeats dropped; newest first.</p>
<table>{rows}</table>"""
ROW = "<tr><td>{type}</td><td>position {position}</td><td><code>{id}</code></td></tr>"


@dataclass
class Sample:
    """The sample receiver: its secret, and the events that it got."""

    secret: str = ""
    seen: set[str] = field(default_factory=set)
    events: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    refused: int = 0

    async def learn_secret(self, request: Request) -> Response:
        self.secret = (await request.json())["secret"]
        return Response(status_code=204)

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if not is_genuine(self.secret, dict(request.headers), body):
            self.refused += 1
            return Response("the signature is wrong", 401)
        event_id = request.headers["webhook-id"]
        if event_id not in self.seen:
            self.seen.add(event_id)
            self.events.appendleft(json.loads(body))
        return Response(status_code=204)

    async def show(self, _request: Request) -> Response:
        rows = "".join(ROW.format(**{k: html.escape(str(v)) for k, v in event.items()}) for event in self.events)
        return HTMLResponse(PAGE.format(count=len(self.seen), rows=rows))

    async def tell(self, _request: Request) -> Response:
        return JSONResponse({"events": list(self.events), "refused": self.refused})


def is_genuine(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Whether the body was signed with our secret, and not long ago."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not secret or not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(each, f"v1,{wanted}") for each in given)


def create_app() -> Starlette:
    sample = Sample()
    return Starlette(
        routes=[
            Route("/", sample.show),
            Route("/events", sample.tell),
            Route("/secret", sample.learn_secret, methods=["PUT"]),
            Route("/hook", sample.take, methods=["POST"]),
        ]
    )


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="python -m aircall_oauth.sandbox.receiver", description="A sample receiver.")
    parser.add_argument("--port", type=int, default=8200)
    port = parser.parse_args().port
    try:
        uvicorn.run(create_app(), host="127.0.0.1", port=port, access_log=False, log_level="warning")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
