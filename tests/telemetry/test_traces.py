"""Traces tell what happened and how long it took, and nothing of what was sent."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.telemetry import tracing
from tests.crash.test_processes import installed
from tests.support.processes import collector, world
from tests.support.service import Service, command_environment, run_command, run_service, settings_for
from tests.telemetry.test_canary import found

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


class Traced:
    """A service that traces: what leaves it, and what it would have been without the last step."""

    def __init__(self, service: Service, exporter: InMemorySpanExporter) -> None:
        self.service = service
        self._exporter = exporter
        self._unclean = InMemorySpanExporter()
        self._provider.add_span_processor(SimpleSpanProcessor(self._unclean))

    @property
    def _provider(self) -> TracerProvider:
        traces = self.service.resources.tracing
        assert traces
        return traces.provider

    def spans(self) -> list[ReadableSpan]:
        self._provider.force_flush()
        return list(self._exporter.get_finished_spans())

    def exported(self) -> str:
        return "\n".join(span.to_json() for span in self.spans())

    def unclean(self) -> str:
        return "\n".join(span.to_json() for span in self._unclean.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name == name]


@pytest.fixture
async def traced(database_url: str) -> AsyncIterator[Traced]:
    exporter = InMemorySpanExporter()
    async with run_service(settings_for(database_url, TRACES="true", PKCE="true"), exporter) as service:
        yield Traced(service, exporter)


@pytest.mark.slow
async def test_nothing_secret_leaves_in_a_trace(traced: Traced) -> None:
    service, secrets = traced.service, dict[str, str | bytes]()
    stranger = "canary-nobodys-secret"
    location = (await service.browser.get("/aircall/oauth/install")).headers["location"]
    back = urlsplit(await service.decide(location)).query
    state = parse_qs(back)["state"][0]
    secrets |= {"code": parse_qs(back)["code"][0], "state": state}
    secrets |= {f"cookie {number}": cookie.value or "" for number, cookie in enumerate(service.browser.cookies.jar)}
    for query in (back, f"{back}x", f"state={state}&error={stranger}", f"code={stranger}&state={stranger}"):
        for _ in range(2):
            await service.browser.get(f"/aircall/oauth/callback?{query}")
    async with await service.partner() as partner:
        secrets["API key"] = key = partner.headers["authorization"].removeprefix("Bearer ")
        (installation,) = (await partner.get("/v1/installations")).json()["items"]
        answer = await partner.get(f"/v1/installations/{installation['id']}/token")
        secrets["access token"] = token = answer.json()["access_token"]
        for asked in (f"/v1/installations/{token}", f"/v1/events?after={key}", f"/{token}/{key}?{key}"):
            await partner.get(asked, headers={**CALLER, "tracestate": f"x={stranger}", "baggage": f"y={stranger}"})
            await partner.request(stranger.upper(), asked)
    secrets["webhook token"] = known = service.webhook_token()
    for sent in (known, stranger):
        body = {"event": "call.ended", "token": sent, "data": {"note": stranger}}
        for number in range(2):
            await service.browser.post(f"/aircall/webhook?token={sent}&{number}", content=json.dumps(body))
    secrets["stranger's"] = stranger
    secrets["stranger's, in capitals"] = stranger.upper()

    told = traced.exported()

    assert found(secrets, told) == []
    assert {key for span in traced.spans() for key in span.attributes or ()} <= tracing.KEPT
    assert not any(span.events or span.links or span.context.trace_state for span in traced.spans())
    assert "per_page" in traced.unclean(), "what the libraries put in has query strings"
    assert "per_page" not in told


async def test_an_install_is_one_trace_of_what_was_asked_of_aircall_and_the_database(traced: Traced) -> None:
    await traced.service.install()

    (callback,) = traced.named("GET /aircall/oauth/callback")
    within = [span for span in traced.spans() if span.parent and span.parent.span_id == callback.context.span_id]

    assert (callback.attributes or {})["http.response.status_code"] == 303
    hosts = {(span.attributes or {}).get("server.address") for span in within}
    statements = [str((span.attributes or {}).get("db.statement")) for span in within]
    assert urlsplit(traced.service.settings.api_url).hostname in hosts
    assert any(statement.startswith("INSERT INTO flow") for statement in statements)
    assert {span.context.trace_id for span in within} == {callback.context.trace_id}


async def test_an_event_is_a_span_with_its_answer(traced: Traced) -> None:
    await traced.service.install()
    body = json.dumps({"event": "call.ended", "token": traced.service.webhook_token(), "data": {}}).encode()

    for content in (body, b"{"):
        await traced.service.post_event(content)

    spans = traced.named("POST /aircall/webhook")
    assert [(span.attributes or {})["http.response.status_code"] for span in spans] == [200, 400]


async def test_a_caller_continues_its_trace_and_a_stranger_does_not(traced: Traced) -> None:
    await traced.service.browser.get("/v1/events", headers=CALLER)
    await traced.service.browser.get("/aircall/oauth/install", headers=CALLER)

    (callers,), (strangers,) = traced.named("GET /v1/events"), traced.named("GET /aircall/oauth/install")

    assert (f"{callers.context.trace_id:032x}", strangers.parent) == (TRACE, None)
    assert f"{strangers.context.trace_id:032x}" != TRACE


async def test_a_failure_is_marked_and_what_was_said_of_it_stays_here(traced: Traced) -> None:
    state = await traced.service.begin()
    await traced.service.sql("ALTER TABLE flow ADD CONSTRAINT none CHECK (status <> 'unknown')")

    answer = await traced.service.return_with(state=state, code="some-code")

    (callback,) = traced.named("GET /aircall/oauth/callback")
    assert (answer.status_code, callback.status.is_ok) == (500, False)
    assert "Failing row contains" in traced.unclean(), "what a library puts in has what the database said"
    assert "Failing row contains" not in traced.exported()


async def test_what_belongs_to_no_request_is_not_told(traced: Traced) -> None:
    await traced.service.resources.database.schema_version()

    assert "alembic_version" in traced.unclean()
    assert traced.spans() == []


@pytest.mark.slow
async def test_traces_are_off_unless_asked_for_whatever_the_environment_says(tmp_path: Path, database_url: str) -> None:
    async with collector() as (url, received), world(tmp_path, database_url) as it:
        it.environment |= {"FASTAPI_OTEL_AUTO_CONFIGURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": url}
        service = await it.start_service("--with-worker")
        await installed(it)
        service.tell(signal.SIGTERM)
        assert await service.ended() == 0

    assert received == []


@pytest.mark.slow
async def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url, TRACES="true") as it:
        it.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
        service = await it.start_service("--with-worker")

        await installed(it)
        service.tell(signal.SIGTERM)

        assert await service.ended() == 0


@pytest.mark.slow
async def test_traces_without_the_extra_are_one_line_and_no_start(tmp_path: Path, database_url: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    environment = command_environment(database_url, TRACES="true") | {"PYTHONPATH": str(tmp_path)}

    ended = await run_command("work", environment=environment)

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == (
        "aircall-oauth: AIRCALL_OAUTH_TRACES needs what is not installed: the extra aircall-oauth[otel].\n"
    )
