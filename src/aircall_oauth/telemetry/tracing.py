"""Traces with OpenTelemetry: off by default, and spans are exported with a list of attributes and no others.

The libraries that make spans put URLs with their query strings into them, and the messages of errors. The `code` and
the `state` of an install are in such a query string. So only listed attributes are let through, rather than taking out
those that are known to hold secrets.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aircall_oauth import __version__
from aircall_oauth.errors import StartRefused
from aircall_oauth.telemetry.metrics import method_label

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

SERVICE = "aircall-oauth"
LAST_SECONDS = 3.0
# Other routes are public and begin traces of their own: a stranger must not decide what is sampled.
CALLERS_DOORS = "/v1/"
KEPT = {
    "db.name",
    "db.namespace",
    "db.query.text",
    "db.statement",
    "db.system",
    "db.system.name",
    "error.type",
    "http.method",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "http.status_code",
    "server.address",
}


@dataclass(frozen=True)
class Tracing:
    """The traces of one process, exported in the background."""

    provider: "TracerProvider"
    exporter: "SpanExporter"
    tracer: Tracer

    @contextmanager
    def request(self, *, method: str, path: str, headers: Mapping[str, str]) -> Iterator["RequestSpan"]:
        """Open a span for a request. Of its path the span gets the template only, when it is answered."""
        parent = TraceContextTextMapPropagator().extract(headers) if path.startswith(CALLERS_DOORS) else Context()
        with self.tracer.start_as_current_span(
            method_label(method),
            context=parent,
            kind=SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield RequestSpan(span, method_label(method))

    def watched(self, transport: Any) -> Any:
        """Wrap an httpx transport so that each request to Aircall gets a span."""
        from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport

        return AsyncOpenTelemetryTransport(transport, tracer_provider=self.provider, request_hook=_name_the_host)

    def close(self) -> None:
        """Export what is left. Blocks; gives up after three seconds on a collector that does not answer."""
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor

        AsyncPGInstrumentor().uninstrument()  # type: ignore[no-untyped-call]
        give_up = threading.Timer(LAST_SECONDS, self.exporter.shutdown)
        give_up.start()
        self.provider.shutdown()
        give_up.cancel()


@dataclass(frozen=True)
class RequestSpan:
    """The open span of a request."""

    span: Span
    method: str

    def answered(self, *, template: str, status: int) -> None:
        self.span.update_name(f"{self.method} {template}")
        self.span.set_attributes(
            {"http.request.method": self.method, "http.route": template, "http.response.status_code": status}
        )
        if status >= 500 or not status:
            self.span.set_status(StatusCode.ERROR)


def open_tracing(exporter: "SpanExporter | None" = None) -> Tracing:
    """Start tracing, exported as OpenTelemetry's own `OTEL_…` variables say.

    Raises `StartRefused` where the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise StartRefused("AIRCALL_OAUTH_TRACES needs what is not installed: the extra aircall-oauth[otel].") from None
    named = Resource({SERVICE_NAME: SERVICE}).merge(Resource.create())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    cleaning = _cleaning(exporter or OTLPSpanExporter())
    provider.add_span_processor(BatchSpanProcessor(cleaning))
    AsyncPGInstrumentor().instrument(tracer_provider=provider)  # type: ignore[no-untyped-call]
    return Tracing(provider, cleaning, provider.get_tracer("aircall_oauth", __version__))


def _cleaning(exporter: "SpanExporter") -> "SpanExporter":
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Cleaning(SpanExporter):
        """Cleans spans as the last step before the exporter, after everything that could add to them."""

        closed = False

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            return exporter.export([_cleaned(span) for span in spans if not _is_stray(span)])

        def shutdown(self) -> None:
            if not self.closed:
                self.closed = True
                exporter.shutdown()

    return Cleaning()


def _is_stray(span: "ReadableSpan") -> bool:
    """A statement or a call that belongs to no request: the inbox, the notifier and the chores make thousands."""
    return span.parent is None and span.kind is SpanKind.CLIENT


def _cleaned(span: "ReadableSpan") -> "ReadableSpan":
    from opentelemetry.sdk.trace import ReadableSpan

    return ReadableSpan(
        name=span.name,
        context=_without_state(span.context),
        parent=_without_state(span.parent),
        resource=span.resource,
        attributes={name: value for name, value in (span.attributes or {}).items() if name in KEPT},
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _without_state(context: SpanContext | None) -> SpanContext | None:
    """Return a context with its ids and flags only: a caller may have filled `tracestate` with anything."""
    return context and SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


async def _name_the_host(span: Span, request: Any) -> None:
    span.set_attribute("server.address", request.url.host)
