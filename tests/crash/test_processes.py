"""The whole story with real processes, and what is left when they are really killed."""

import asyncio
import itertools
import json
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.processes import World, durable_postgres, eventually, world
from tests.support.service import run_command

CALL = ["call.created", "call.ringing_on_agent", "call.answered", "call.hungup", "call.ended"]
KILLED = (httpx.RemoteProtocolError, httpx.ReadError)


def event(token: str, number: int) -> bytes:
    body = {
        "resource": "call",
        "event": "call.created",
        "timestamp": 1767261600,
        "token": token,
        "data": {"id": number},
    }
    return json.dumps(body).encode()


async def installed(it: World) -> None:
    answer = await it.browser.get(await it.consent())
    assert (answer.status_code, answer.headers.get("location")) == (303, it.environment["AIRCALL_OAUTH_SUCCESS_URL"])


@pytest.mark.slow
async def test_the_story_from_an_empty_database_to_an_event_read(tmp_path: Path, empty_database: str) -> None:
    async with world(tmp_path, empty_database) as it:
        migrated = await run_command("migrate", environment=it.environment)
        service = await it.start_service("--with-worker")
        answer = await it.browser.get(await it.consent())
        success = await it.browser.get(answer.headers["location"])

        assert migrated.exit_code == 0
        assert (answer.status_code, success.status_code) == (303, 200)
        assert "Your app is connected" in success.text

        async with await it.partner() as partner:
            await it.control("place-call")

            async def whole_call() -> list[dict[str, object]]:
                events = (await partner.get("/v1/events")).json()["events"]
                return events if len(events) > len(CALL) else []

            events = await eventually(whole_call)
            (installation,) = (await partner.get("/v1/installations")).json()["items"]

        assert sorted(["installation.connected", *CALL]) == sorted(str(e["type"]) for e in events)
        assert {installation["id"]} == {e["installation_id"] for e in events}
        assert (installation["status"], installation["webhook"]["status"]) == ("active", "active")
        service.tell(signal.SIGINT)
        assert await service.ended() == 0


@pytest.mark.slow
async def test_a_request_in_flight_is_finished_before_the_end(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        service = await it.start_service("--with-worker")
        await it.control("break", door="integrations/me", how="slow", seconds=1.0)
        callback = asyncio.create_task(it.browser.get(await it.consent()))
        await eventually(lambda: it.asked("GET", "/v1/integrations/me"))

        service.tell(signal.SIGTERM)
        answer = await callback

        assert (answer.status_code, await service.ended()) == (303, 0)
        (installation,) = await it.sql("SELECT status FROM installation")
        assert installation["status"] == "active"
        with pytest.raises(httpx.ConnectError):
            await it.browser.get(f"{it.service_url}/livez")


@pytest.mark.slow
async def test_killed_between_exchange_and_save_the_code_is_never_tried_again(
    tmp_path: Path, database_url: str
) -> None:
    async with world(tmp_path, database_url) as it:
        service = await it.start_service("--with-worker")
        await it.control("break", door="integrations/me", how="slow", seconds=5.0)
        back = await it.consent()
        callback = asyncio.create_task(it.browser.get(back))
        await eventually(lambda: it.asked("GET", "/v1/integrations/me"))

        await service.kill()
        with pytest.raises(KILLED):
            await callback
        await it.start_service("--with-worker")
        await it.sql("UPDATE flow SET used_at = used_at - interval '2 minutes'")
        again = await it.browser.get(back)

        assert (again.status_code, "We can&#39;t tell" in again.text) == (409, True)
        assert "/aircall/oauth/install" in again.text
        assert len(await it.asked("POST", "/v1/oauth/token")) == 1
        assert await it.sql("SELECT id FROM installation") == []
        await installed(it)
        assert len(await it.webhooks()) == 1


@pytest.mark.slow
async def test_killed_between_webhook_create_and_save_the_worker_finds_it_again(
    tmp_path: Path, database_url: str
) -> None:
    async with world(tmp_path, database_url) as it:
        service = await it.start_service()
        await it.control("break", door="POST webhooks", how="slow_reply", seconds=10.0)
        back = await it.consent()
        callback = asyncio.create_task(it.browser.get(back))
        await eventually(it.webhooks)

        await service.kill()
        with pytest.raises(KILLED):
            await callback
        (left,) = await it.sql("SELECT status, token_fingerprint, leased_until > now() AS leased FROM webhook")
        await it.start_service()
        worker = await it.run("work")
        again = await it.browser.get(back)
        await it.sql("UPDATE webhook SET leased_until = now()")
        await eventually(lambda: it.sql("SELECT 1 FROM webhook WHERE status = 'active'"))

        assert tuple(left) == ("pending", None, True)
        assert again.status_code == 303, "the installation was saved, so the flow ended well"
        (webhook,) = await it.sql("SELECT webhook_id FROM webhook")
        assert [webhook["webhook_id"]] == [hook["webhook_id"] for hook in await it.webhooks()]
        assert len(await it.asked("POST", "/v1/webhooks")) == 1
        await it.control("place-call")
        await eventually(lambda: it.sql("SELECT 1 FROM event WHERE type = 'call.ended'"))
        worker.tell(signal.SIGTERM)
        assert await worker.ended() == 0


@pytest.mark.slow
async def test_every_event_answered_200_survives_postgresql_and_the_service(tmp_path: Path) -> None:
    async with durable_postgres(tmp_path / "postgres") as postgres, world(tmp_path, postgres.dsn()) as it:
        assert (await run_command("migrate", environment=it.environment)).exit_code == 0
        service = await it.start_service()
        await installed(it)
        token = await it.webhook_token()
        numbers, kept, refused = itertools.count(), list[int](), list[httpx.Response]()

        async def send_until_refused() -> None:
            while not refused:
                number = next(numbers)
                answer = await it.browser.post("/aircall/webhook", content=event(token, number))
                if answer.status_code == 200:
                    kept.append(number)
                else:
                    refused.append(answer)

        senders = asyncio.gather(*(send_until_refused() for _ in range(4)))

        async def some_are_kept() -> bool:
            return len(kept) > 50

        await eventually(some_are_kept)
        await asyncio.to_thread(postgres.kill)
        await senders
        ready, alive = await it.browser.get("/readyz"), await it.browser.get("/livez")
        await asyncio.to_thread(postgres.restart)
        await eventually(lambda: it.sql("SELECT 1"))

        rows = await it.sql("SELECT data FROM event WHERE type = 'call.created'")
        assert set(kept) <= {json.loads(row["data"])["id"] for row in rows}
        assert (refused[0].status_code, refused[0].headers.get("retry-after")) == (503, "2"), refused[0].text
        assert (ready.status_code, alive.status_code) == (503, 200)

        async def takes_events_again() -> bool:
            answer = await it.browser.post("/aircall/webhook", content=event(token, 1_000_000))
            return answer.status_code == 200

        await eventually(takes_events_again)
        await service.kill()
        last = await it.sql("SELECT 1 FROM event WHERE data = $1", '{"id": 1000000}')
        assert len(last) == 1
