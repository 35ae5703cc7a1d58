"""The public port before the application is loaded: events and probes are answered, all else waits."""

import asyncio
import dataclasses
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server.app import App
from aircall_oauth.server.front import Front
from tests.support.processes import eventually
from tests.support.service import Service, command_environment

# Run `serve`; it waits until the file `gate` exists and does `instead` before it loads the application.
SERVE = """
import os, sys, time
from aircall_oauth.server import processes
load = processes._load
def instead(*given, **options):
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    {instead}
    return load(*given, **options)
processes._load = instead
from aircall_oauth.cli.main import main
main()
"""


def front_of(service: Service) -> Front:
    app = app_of(service)
    return Front(service.resources, app.receiver, app.state.inbox)


def app_of(service: Service) -> App:
    assert isinstance(service.app, App)
    return service.app


@asynccontextmanager
async def behind(front: Front, service: Service) -> AsyncIterator[Service]:
    """The service as it is met through a front."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(front), base_url="http://localhost:8000") as browser:
        yield dataclasses.replace(service, browser=browser)


def seen(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], Any]:
    """An answer, without its length: JSON may be written in two ways."""
    headers = sorted(answer.headers.items())
    body = json.loads(answer.content or b"null")
    return answer.status_code, [line for line in headers if line[0] != "content-length"], body


async def test_an_event_is_kept_before_the_application_is_loaded(service: Service) -> None:
    await service.installed()
    body = (
        '{"resource":"call","event":"call.created","timestamp":1767261600,'
        f'"token":"{service.webhook_token()}","data":{{"id":1}}}}'
    )

    async with behind(front_of(service), service) as early:
        kept = await early.post_event(body.encode())
        refused = await early.post_event(b"{}")

    assert [kept.json(), refused.status_code] == [{"ok": True}, 400]
    assert len(await service.sql("SELECT FROM event WHERE type = 'call.created'")) == 1


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_probe_is_answered_as_by_the_application(service: Service, method: str, path: str) -> None:
    given = {"x-request-id": "probe-1"}

    async with behind(front_of(service), service) as early:
        first = await early.browser.request(method, path, headers=given)
        later = await service.browser.request(method, path, headers=given)
        async with service.database_away():
            if path == "/readyz":
                await eventually(lambda: is_away(service))
            away = await early.browser.request(method, path, headers=given)
            away_later = await service.browser.request(method, path, headers=given)

    assert (seen(first), first.content) == (seen(later), later.content)
    assert first.headers["x-request-id"] == "probe-1"
    assert away.status_code == (503 if path == "/readyz" else 200)
    assert seen(away) == seen(away_later)


async def is_away(service: Service) -> bool:
    return (await service.browser.get("/readyz")).status_code == 503


async def test_what_else_is_asked_waits_for_the_application_and_gets_its_answer(service: Service) -> None:
    front, partner = front_of(service), await service.partner()
    key = partner.headers["authorization"]
    async with behind(front, service) as early:
        asked = [
            asyncio.create_task(early.browser.request(method, path, headers={"authorization": key}))
            for method, path in (
                *(("GET", "/v1/installations"), ("GET", "/nothing"), ("GET", "/aircall/webhook")),
                ("OPTIONS", "/readyz"),
            )
        ]
        assert (await early.browser.get("/readyz")).status_code == 200
        assert not any(task.done() for task in asked)

        front.lead_to(app_of(service))

        answers = [await task for task in asked]
        ready = await early.browser.get("/readyz")

    assert [answer.status_code for answer in answers] == [200, 404, 405, 200]
    assert ready.status_code == 200


async def test_a_process_that_leaves_says_so_from_its_first_moment(service: Service) -> None:
    service.resources.leaving = True

    async with behind(front_of(service), service) as early:
        ready = await early.browser.get("/readyz")

    assert (ready.json()["code"], ready.headers["connection"]) == ("leaving", "close")


async def test_who_waits_for_events_is_answered_by_a_process_that_was_told_to_stop_meanwhile(service: Service) -> None:
    front, partner = front_of(service), await service.partner()
    async with behind(front, service) as early:
        waiting = early.browser.get("/v1/events?wait=30", headers={"authorization": partner.headers["authorization"]})
        asked = asyncio.create_task(waiting)
        assert (await early.browser.get("/livez")).status_code == 200

        front.end_waiting()
        front.lead_to(app_of(service))

        async with asyncio.timeout(20):
            assert (await asked).status_code == 200


async def test_where_the_application_does_not_come_events_are_still_taken_in_and_all_else_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aircall_oauth.server.front.WAIT_SECONDS", 0.05)
    front = front_of(service)
    async with behind(front, service) as early:
        late = await early.browser.get("/v1/installations")
        front.give_up()
        service.resources.leaving = True
        refused, alive = await early.browser.get("/v1/installations"), await early.browser.get("/livez")
        unready, event = await early.browser.get("/readyz"), await early.post_event(b"{}")

    assert [late.json()["code"], refused.json()["code"], unready.json()["code"]] == ["not_ready", "leaving", "leaving"]
    assert [late.status_code, refused.status_code, alive.status_code, event.status_code] == [503, 503, 200, 400]
    assert {answer.headers["connection"] for answer in (refused, alive, unready, event)} == {"close"}


async def test_a_request_that_waited_is_counted_with_all_of_its_time(service: Service) -> None:
    front = front_of(service)
    async with behind(front, service) as early:
        asked = asyncio.create_task(early.browser.get("/nothing"))
        await asyncio.sleep(0.3)
        front.lead_to(app_of(service))
        await asked

    seconds = service.resources.metrics.registry.get_sample_value(
        "aircall_oauth_http_request_seconds_sum", {"path": "(no door)", "method": "GET"}
    )
    assert seconds is not None
    assert seconds > 0.25


Started = tuple[asyncio.subprocess.Process, httpx.AsyncClient]


@asynccontextmanager
async def serve(service: Service, gate: Path, instead: str = "") -> AsyncIterator[Started]:
    """`serve` of the database of a service, which does not load its application before a file is there."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE.format(gate=str(gate), instead=instead), "serve", "--port", str(port)),
        env=command_environment(service.settings.database_url.get_secret_value()),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        try:
            await eventually(ready)
            yield process, client
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.mark.slow
async def test_a_signal_before_the_application_is_loaded_ends_it_once_what_waits_is_answered(
    service: Service, tmp_path: Path
) -> None:
    async with serve(service, tmp_path / "gate") as (process, client):
        asked = asyncio.create_task(client.get("/v1/installations"))
        assert (await client.get("/livez")).status_code == 200

        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        (tmp_path / "gate").touch()

        assert (await asked).status_code == 401
        assert await process.wait() == 0


@pytest.mark.slow
async def test_no_chore_and_no_console_begin_in_a_process_that_was_told_to_stop_before_they_are_loaded(
    service: Service, tmp_path: Path
) -> None:
    async with serve(service, tmp_path / "gate", "print('loading', file=sys.stderr)") as (process, _):
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.5)
        (tmp_path / "gate").touch()

        _, told = await process.communicate()

    assert process.returncode == 0
    assert "loading" in told.decode()
    assert "put off" not in told.decode()


@pytest.mark.slow
async def test_a_process_ends_where_its_application_can_not_be_loaded(service: Service, tmp_path: Path) -> None:
    async with serve(service, tmp_path / "gate", "raise ImportError('no such application')") as (process, client):
        asked = asyncio.create_task(client.get("/v1/installations"))
        assert (await client.get("/livez")).status_code == 200
        (tmp_path / "gate").touch()

        _, told = await process.communicate()

        assert process.returncode == 1
        assert "no such application" in told.decode().splitlines()[-1]
        assert ((await asked).status_code, (await asked).json()["code"]) == (503, "leaving")


# What happens between listening and the server's own handling of signals.
TOLD_AT_ONCE = """
import os, signal, uvicorn
serve = uvicorn.Server.serve
async def told(*given, **options):
    os.kill(os.getpid(), signal.{name})
    await serve(*given, **options)
uvicorn.Server.serve = told
from aircall_oauth.cli.main import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_signal_before_the_server_handles_signals_itself_ends_the_process(database_url: str, name: str) -> None:
    command = [sys.executable, "-c", TOLD_AT_ONCE.format(name=name), "serve", "--port", str(free_port())]
    process = await asyncio.create_subprocess_exec(*command, env=command_environment(database_url, DRAIN="0s"))

    async with asyncio.timeout(60):
        assert await process.wait() == 0
