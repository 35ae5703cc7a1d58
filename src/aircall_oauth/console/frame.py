"""The frame of every page: its navigation, its headers, and how a route shows a template.

A new page is a route that calls `page.show`, a template that extends `frame.html`, and a line in `NAVIGATION`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, nodes, pass_context, select_autoescape
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from markupsafe import Markup, escape

from aircall_oauth.access.audit import Who
from aircall_oauth.access.callers import Caller
from aircall_oauth.console import assets, charts, corrections, gate, masks, once, times
from aircall_oauth.console.acts import Act
from aircall_oauth.console.once import Once
from aircall_oauth.console.visitors import TO_ACT, TO_DISCLOSE, Visitor
from aircall_oauth.errors import AppError, InvalidRequest
from aircall_oauth.events.query import EventJson
from aircall_oauth.events.store import NO_INSTALLATION
from aircall_oauth.resources import Resources
from aircall_oauth.settings import Settings
from aircall_oauth.telemetry.text import readable

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
NAVIGATION = {
    "/": "Is it well?",
    "/customers": "Customers",
    "/attempts": "Attempts",
    "/events": "Events",
    "/destinations": "Destinations",
    "/audit": "Audit",
    "/keys": "Keys",
    "/vault": "Vault",
    "/sessions": "Signed in",
}
ROW_OR_CELL = re.compile(r"<(tr|td|th)(?=[ >])")
CELL_ROLES = {"td": "cell", "th": "rowheader"}
THOUSANDS = "\u202f"
MOST_FORM_BYTES = 64 * 1024
MOST_FIELDS = 200


def _plainly(value: Any) -> Any:
    """Show invisible and control characters of every text as escapes: nothing that comes from outside hides."""
    if type(value) is not str or value.isprintable():
        return value
    # The space between thousands counts as invisible, and is harmless.
    return THOUSANDS.join(map(readable, value.split(THOUSANDS)))


def _shown(value: Any) -> Markup:
    """Return what a template shows of a value: escaped, unless it is markup of ours."""
    return value if type(value) is Markup else escape(_plainly(value))


class _ShownOnce(CodeGenerator):
    """Writes templates that show each value by `_shown` alone, which escapes it: twice would cost twice."""

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        assert finalize.src is not None
        self.write(finalize.src)

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write(")")


class _Environment(Environment):
    code_generator_class = _ShownOnce


_environment = _Environment(
    loader=PackageLoader("aircall_oauth.console"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    auto_reload=False,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)


@pass_context
def _when(context: Context, moment: datetime | None, seconds: bool = True) -> Markup:
    return times.shown(moment, context["zone"], seconds=seconds)


def _subject(event: EventJson) -> str:
    """Return what an event is about, as far as it is shown to everyone."""
    return masks.subject(event.subject or "", is_number=event.has_number_as_id)


@pass_context
def _chart(context: Context, chart: charts.Chart) -> Markup:
    return charts.draw(chart, context["zone"])


def _pretty(value: Any) -> Markup:
    """Return JSON for people, on many lines; invisible characters as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return escape("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))


def _lines(value: str) -> Markup:
    """Return text of several lines for a field; other invisible characters as escapes."""
    return Markup("\n").join(escape(readable(line)) for line in value.splitlines())


def _code(value: str) -> Markup:
    """Return a sentence with what stands in `backticks` as code."""
    parts = [escape(_plainly(part)) for part in value.split("`")]
    if len(parts) % 2 == 0:
        return escape(_plainly(value))
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))


def _in_words(value: Any) -> str:
    """Return JSON as one line for people: `name crm; scopes events:read, audit:read`."""
    match value:
        case {"from": before, "to": after}:
            return f"from {_in_words(before)} to {_in_words(after)}"
        case dict():
            return "; ".join(f"{key} {_in_words(each)}" for key, each in value.items())
        case list():
            return ", ".join(map(_in_words, value)) or "none"
        case None:
            return "none"
        case _:
            return str(value)


def _cells(rows: Markup, columns: Sequence[str]) -> Markup:
    """Return a table's rows with each cell's column and role: a phone shows them as cards, which are no table to it."""
    labels = [_label(column) for column in columns]
    left = iter(labels)

    def labelled(found: re.Match[str]) -> str:
        nonlocal left
        if found[1] == "tr":
            left = iter(labels)
            return '<tr role="row"'
        return f'<{found[1]} role="{CELL_ROLES[found[1]]}"{next(left, "")}'

    # What comes from outside is escaped by now, so each `<td` is a cell of ours.
    return Markup(ROW_OR_CELL.sub(labelled, str(rows)))  # noqa: S704 - see above


def _label(column: str) -> str:
    return "" if column.startswith("(") else f' data-label="{escape(column.removeprefix("#"))}"'


_environment.filters |= {
    "cells": _cells,
    "when": _when,
    "ago": times.ago,
    "span": times.length,
    "number": charts.number,
    "chart": _chart,
    "masked": masks.masked,
    "subject": _subject,
    "pretty": _pretty,
    "in_words": _in_words,
    "lines": _lines,
    "code": _code,
}
_environment.globals |= {
    "event_columns": ("Received", "Type", "About", "Customer", "Event"),
    "asset": assets.path,
    "navigation": NAVIGATION,
    "no_installation": NO_INSTALLATION,
}


@dataclass(frozen=True)
class Page:
    """A request for a page: its visitor, and what it needs to answer."""

    request: Request
    resources: Resources
    visitor: Visitor

    @property
    def settings(self) -> Settings:
        return self.resources.settings

    @property
    def caller(self) -> Caller:
        """Return the visitor as the functions behind the API know a caller."""
        return self.visitor.caller

    @property
    def who(self) -> Who:
        """Return the visitor for the audit."""
        return gate.who(self.request, self.visitor.actor)

    @property
    def form_token(self) -> str:
        """Return a token for a form of this page, which is sent to the page's own path."""
        return once.token(self.resources.vault, self.visitor.actor, self.request.url.path)

    @property
    def form(self) -> Mapping[str, str]:
        """Return what was filled in."""
        filled_in: Mapping[str, str] = self.request.state.form
        return filled_in

    def read_form(self) -> bytes:
        """Return by what the form's sending is known; raises `InvalidRequest` for a token that does not work."""
        vault, path = self.resources.vault, self.request.url.path
        given: str | None = self.request.state.form_token
        self.request.state.once = read = once.read(vault, given, self.visitor.actor, path, self.form)
        return read.fingerprint

    @property
    def once(self) -> Once:
        """Return as what the form makes something. A repeat makes it anew, so it must find what the first has made."""
        self.request.state.makes = True
        made: Once = self.request.state.once
        return made

    @property
    def makes(self) -> bool:
        """Whether `once` was asked for."""
        return getattr(self.request.state, "makes", False)

    @property
    def told(self) -> dict[str, Any]:
        """Return what `done` was told, to be told again."""
        told: dict[str, Any] = self.request.state.told
        return told

    def show(self, template: str, *, title: str, sentence: str, status: int = 200, **context: Any) -> HTMLResponse:
        """Show a page. `sentence` answers the page's question, before any evidence."""
        return show(
            self.request, template, visitor=self.visitor, status=status, title=title, sentence=sentence, **context
        )

    def ask(self, act: Act, *, wrong: AppError | None = None) -> HTMLResponse:
        """Ask before an act. With what was `wrong` it is asked again, with what was filled in."""
        problem, faults = (None, {}) if wrong is None else corrections.faults_of(wrong)
        named = [field.label for field in act.fields if field.name in faults]
        if faults and not named:  # of a field that this form does not have
            problem, faults = " ".join(faults.values()), {}
        return self.show(
            "act.html",
            title=act.title,
            sentence=act.sentence,
            act=act,
            refusal=self.visitor.refusal(act.needs),
            form_token=self.form_token,
            problem=problem or (f"correct what is marked below: {', '.join(named)}." if named else None),
            faults=faults,
            status=422 if wrong else 200,
        )

    def done(
        self,
        title: str,
        sentence: str,
        *,
        back: str,
        facts: Sequence[str] = (),
        secret: str | None = None,
        status: int = 200,
        again: bool = False,
    ) -> HTMLResponse:
        """Say what came of an act. `facts` are lines to add, `secret` is shown this once.

        It is kept, without the secret, for a form that is sent twice, and then told `again`.
        """
        told: dict[str, Any] = {"title": title, "sentence": sentence, "back": back, "facts": list(facts)}
        self.request.state.told = told
        return self.show("done.html", status=status, again=again, secret=secret, **told)

    def link(self, **changes: Any) -> str:
        """Return this page's address with some query parameters changed; those that are None are left out."""
        kept = {name: value for name, value in self.request.query_params.multi_items() if name not in changes}
        given = [*kept.items(), *((name, value) for name, value in changes.items() if value is not None)]
        return f"{self.request.url.path}?{urlencode(given)}" if given else self.request.url.path


async def page_of(request: Request) -> Page:
    return Page(request, gate.resources_of(request), request.state.visitor)


async def acting_page(page: Annotated[Page, Depends(page_of)]) -> Page:
    """Return the page for a handler that acts; raises `ReadOnly` for a visitor who may only look."""
    page.visitor.require(TO_ACT)
    return page


async def disclosing_page(page: Annotated[Page, Depends(page_of)]) -> Page:
    """Return the page for an act by which payloads may leave the console; raises `ReadOnly` or `PayloadsNeeded`."""
    page.visitor.require(TO_DISCLOSE)
    return page


async def form_of(request: Request) -> dict[str, str]:
    """Return a form's fields, without the empty ones; several of one name are joined by commas.

    Its token is kept beside them, for `Page.once`.
    """
    body = await request.body()
    if len(body) > MOST_FORM_BYTES:
        raise InvalidRequest("The form is too large.")
    try:
        given = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidRequest("The form is not well-formed.") from None
    fields: dict[str, list[str]] = {}
    for name, value in given:
        if value.strip():
            fields.setdefault(name, []).append(value.strip())
    form = {name: ",".join(values) for name, values in fields.items()}
    request.state.form_token, request.state.form = form.pop(once.FIELD, None), form
    return form


PageDep = Annotated[Page, Depends(page_of)]
ActingPage = Annotated[Page, Depends(acting_page)]
DisclosingPage = Annotated[Page, Depends(disclosing_page)]
Form = Annotated[Mapping[str, str], Depends(form_of)]


def show(
    request: Request,
    template: str,
    *,
    visitor: Visitor | None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Show a template in the frame, for a visitor or for everyone."""
    body = _environment.get_template(template).render(
        **context,
        visitor=visitor,
        zone=zone_of(request),
        path=request.url.path,
        this_page=_this_page(request, status),
        q=request.query_params.get("q", ""),
    )
    return HTMLResponse(body, status, headers=HEADERS | dict(headers or {}))


def _this_page(request: Request, status: int) -> str:
    """Return the address that shows this page again: with its filters, or of the page that an act belongs to."""
    if request.method not in {"GET", "HEAD"}:
        return request.url.path.rpartition("/")[0] or "/"
    return request.url.path if status >= 400 else address_of(request)


def address_of(request: Request) -> str:
    """Return the address that was asked for, with its query."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def zone_of(request: Request) -> tzinfo:
    return times.zone(request.cookies.get(times.COOKIE))


def guarded(response: Response) -> Response:
    """Return an answer that is no page, with the headers of one."""
    response.headers.update({name: value for name, value in HEADERS.items() if name not in response.headers})
    return response
