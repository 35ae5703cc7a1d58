"""Turns templates into pages, and forms into fields."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, status: int = 200, **facts: Any) -> Response:
    headers = {"cache-control": "no-store", "referrer-policy": "no-referrer"}
    return HTMLResponse(_templates.get_template(template).render(facts), status, headers)


async def form_fields(request: Request) -> dict[str, str]:
    """The filled-in fields of a plain form; empty ones are left out."""
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body))


def shortened(secret: str) -> str:
    """Enough of a secret to tell it from others."""
    return f"{secret[:4]}…{secret[-4:]}"


def clock(seconds: float) -> str:
    """The time of day, UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M:%S}"


_templates.filters |= {"shortened": shortened, "clock": clock}
