"""The pretend Aircall as a real process: dropped connections, restarts with its state, a port that is taken."""

import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aircall_oauth.sandbox.aircall import PretendAircall

SECRET = "demo-secret-of-the-process"
REDIRECT_URI = "http://127.0.0.1:8000/aircall/oauth/callback"
CLIENT = ("--client-id", "demo-client", "--redirect-uri", REDIRECT_URI)


def opened(state_file: Path) -> PretendAircall:
    return PretendAircall(
        client_id="demo-client",
        client_secret=SECRET,
        redirect_uris=[REDIRECT_URI],
        state_file=state_file,
    )


async def start(*options: str, secret: str = SECRET) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aircall_oauth.sandbox.aircall",
        *options,
        env={**os.environ, "SANDBOX_CLIENT_SECRET": secret},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[httpx.AsyncClient]:
    """Started, awaited until it says where it is, and stopped in the end without a word on stderr."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await start("--port", str(port), *CLIENT, *options)
    assert process.stdout
    line = (await process.stdout.readline()).decode()
    assert line == f"pretend Aircall at http://127.0.0.1:{port}\n"
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    process.terminate()
    _, errors = await process.communicate()
    assert errors == b""


async def install(client: httpx.AsyncClient) -> dict[str, str]:
    code = (await client.post("/control/grant")).json()["code"]
    request = {
        "client_id": "demo-client",
        "client_secret": SECRET,
        "redirect_uri": REDIRECT_URI,
        "grant_type": "authorization_code",
        "code": code,
    }
    token = (await client.post("/v1/oauth/token", json=request)).json()["access_token"]
    return {"authorization": f"Bearer {token}"}


async def test_dropped_answers_close_the_connection() -> None:
    async with running() as client:
        token = await install(client)
        await client.post("/control/break", json={"door": "ping", "how": "drop_reply"})
        await client.post("/control/break", json={"door": "ping", "how": "drop_request"})

        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/v1/ping", headers=token)

        assert (await client.get("/v1/ping", headers=token)).status_code == 200


async def test_tokens_and_webhooks_go_on_working_after_a_restart(tmp_path: Path) -> None:
    kept = tmp_path / "aircall.json"
    async with running("--state", str(kept)) as client:
        token = await install(client)
        url = "http://127.0.0.1:8000/aircall/webhook"
        created = await client.post("/v1/webhooks", headers=token, json={"url": url})
        disabled = {**token, "content-type": "application/json"}
        await client.post("/v1/integrations/disable", headers=disabled)

    async with running("--state", str(kept)) as client:
        webhooks = (await client.get("/v1/webhooks", headers=token)).json()["webhooks"]
        integration = (await client.get("/v1/integrations/me", headers=token)).json()["integration"]

    assert created.json()["webhook"]["token"] == webhooks[0]["token"]
    assert integration["active"] is False


def test_state_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    opened(tmp_path / "aircall.json")

    assert stat.S_IMODE((tmp_path / "aircall.json").stat().st_mode) == 0o600


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        process = await start("--port", port, *CLIENT)
        output, errors = await process.communicate()

    assert (process.returncode, output) == (1, b"")
    assert errors.decode() == (f"pretend Aircall: cannot listen on 127.0.0.1:{port} (Address already in use)\n")


async def test_it_does_not_start_without_a_secret_or_with_a_state_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"tokens": 1}')

    for options, secret in (((), ""), (("--state", str(tmp_path / "other.json")), SECRET)):
        process = await start("--port", "0", *CLIENT, *options, secret=secret)
        _, errors = await process.communicate()
        assert (process.returncode, errors.count(b"\n")) == (1, 1)


def test_what_was_saved_is_taken_up_again(tmp_path: Path) -> None:
    first = opened(tmp_path / "aircall.json")
    code = first.grant(70078)
    second = opened(tmp_path / "aircall.json")

    assert second.grants.codes == first.grants.codes
    assert second.grants.codes[code].company_id == 70078
