"""The public port before the application is loaded: events and probes are answered, all else waits."""

import asyncio
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server.app import App
from aircall_oauth.server.front import Front
from tests.support.processes import eventually
from tests.support.service import Service, command_environment

# Run `serve` with something done before the rest of it is imported.
SERVE = """
import sys, time
from aircall_oauth.server import processes
load = processes._import_rest
def instead():
    {instead}
    return load()
processes._import_rest = instead
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


def seen(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer, without its id and what counts down."""
    headers = sorted(answer.headers.items())
    return answer.status_code, [line for line in headers if line[0] != "x-request-id"], answer.content


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
            await eventually(lambda: is_away(service) if path == "/readyz" else settled())
            away = await early.browser.request(method, path)
            away_later = await service.browser.request(method, path)

    assert seen(first) == seen(later)
    assert first.headers["x-request-id"] == "probe-1"
    assert away.status_code == (503 if path == "/readyz" else 200)
    assert [seen(away)[0], away.headers["content-type"]] == [seen(away_later)[0], away_later.headers["content-type"]]


async def is_away(service: Service) -> bool:
    return (await service.browser.get("/readyz")).status_code == 503


async def settled() -> bool:
    return True


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
        await early.browser.get("/readyz")
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


@asynccontextmanager
async def serve(service: Service, instead: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """`serve` of the database of a service, with something done before the rest of it is imported."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVE.format(instead=instead), "serve", "--port", str(port)),
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
async def test_a_signal_before_the_rest_is_loaded_ends_it_once_what_waits_is_answered(service: Service) -> None:
    async with serve(service, "time.sleep(2)") as (process, client):
        asked = asyncio.create_task(client.get("/v1/installations"))
        await asyncio.sleep(0.2)
        assert not asked.done()

        process.send_signal(signal.SIGTERM)

        assert (await asked).status_code == 401
        assert await process.wait() == 0


@pytest.mark.slow
async def test_a_process_ends_where_its_rest_can_not_be_loaded(service: Service) -> None:
    async with serve(service, "time.sleep(2); raise ImportError('no such rest')") as (process, client):
        asked = asyncio.create_task(client.get("/v1/installations"))

        _, told = await process.communicate()

        assert process.returncode == 1
        assert "no such rest" in told.decode().splitlines()[-1]
        assert ((await asked).status_code, (await asked).json()["code"]) == (503, "leaving")
