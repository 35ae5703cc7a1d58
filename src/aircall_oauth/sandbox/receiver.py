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
MOST_SHOWN = 20_000
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Sample receiver</title>
<style>
:root {{ color-scheme: light dark; --line: #8886; --bad: #b3261e; }}
@media (prefers-color-scheme: dark) {{ :root {{ --bad: #ff8a80; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem; }}
summary {{ cursor: pointer; padding: .4rem 0; overflow-wrap: anywhere; }}
details {{ border-top: 1px solid var(--line); }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 1rem; font-size: .85rem; }}
.bad {{ color: var(--bad); }}
</style>
<h1>Sample receiver</h1>
<main id="shown">{shown}</main>
<script>
setInterval(async () => {{
  const shown = document.getElementById("shown");
  try {{
    const fresh = await (await fetch("shown")).text();
    if (fresh === shown.dataset.last) return;
    const open = [...shown.querySelectorAll("details[open]")].map((one) => one.id);
    shown.innerHTML = shown.dataset.last = fresh;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  }} catch {{}}
}}, 2000);
</script></html>"""
SHOWN_PART = """<p>{count} events, each signature verified, {repeats} repeats dropped; newest first.</p>
{refused}{rows}"""
REFUSED = (
    '<p class="bad">{count} refused: the signature is wrong. The last one, at {at}:</p><pre class="bad">{body}</pre>'
)
ROW = """<details id="{id}"><summary><b>{type}</b>, position {position}</summary><pre>{body}</pre></details>"""


@dataclass
class Sample:
    """The sample receiver: its secret, and the events that it got."""

    secret: str = ""
    seen: set[str] = field(default_factory=set)
    events: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=SHOWN))
    refused: int = 0
    repeats: int = 0
    last_refused: tuple[str, str] = ("", "")

    async def learn_secret(self, request: Request) -> Response:
        self.secret = (await request.json())["secret"]
        return Response(status_code=204)

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if not is_genuine(self.secret, dict(request.headers), body):
            self.refused += 1
            self.last_refused = (f"{time.strftime('%H:%M:%S')}", body[:MOST_SHOWN].decode("utf-8", "replace"))
            return Response("the signature is wrong", 401)
        event_id = request.headers["webhook-id"]
        if event_id in self.seen:
            self.repeats += 1
        else:
            self.seen.add(event_id)
            self.events.appendleft(json.loads(body))
        return Response(status_code=204)

    async def show(self, _request: Request) -> Response:
        return HTMLResponse(PAGE.format(shown=self._shown()))

    async def show_part(self, _request: Request) -> Response:
        """The part of the page that changes, which it asks for every two seconds."""
        return HTMLResponse(self._shown())

    def _shown(self) -> str:
        at, body = (html.escape(part) for part in self.last_refused)
        refused = REFUSED.format(count=self.refused, at=at, body=body) if self.refused else ""
        rows = "".join(_row(event) for event in self.events)
        return SHOWN_PART.format(count=len(self.seen), repeats=self.repeats, refused=refused, rows=rows)

    async def tell(self, _request: Request) -> Response:
        return JSONResponse({"events": list(self.events), "refused": self.refused})


def _row(event: dict[str, object]) -> str:
    body = json.dumps(event, indent=2, ensure_ascii=False)[:MOST_SHOWN]
    facts = {name: event.get(name) for name in ("id", "type", "position")} | {"body": body}
    return ROW.format(**{name: html.escape(str(value)) for name, value in facts.items()})


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
            Route("/shown", sample.show_part),
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
