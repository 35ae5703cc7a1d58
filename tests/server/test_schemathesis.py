"""What `/openapi.json` says is true of the running service: schemathesis asks it everything the document allows."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from aircall_oauth.access import keys
from aircall_oauth.access.scopes import Scope
from tests.support.service import Service

SECONDS = 15
EXAMPLES = 25
# A state, a code or a return address that fits the document is still not one that this service gave out; and deliveries
# do not go to every address, nor does a reader begin past the end of the log.
CONFIGURATION = """
[[operations]]
include-tag = "Install flow"
checks.positive_data_acceptance.enabled = false

# A path that fits the document is still not one that Aircall has.
[[operations]]
include-tag = "Aircall"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/install-links"
checks.positive_data_acceptance.enabled = false

# One that was disconnected is still shown, as `removed`.
[[operations]]
include-tag = "Installations"
checks.use_after_free.enabled = false

# Two parameters that say the same, or contradict each other, are refused.
[[operations]]
include-path = "/v1/events"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/events/stream"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/audit"
checks.positive_data_acceptance.enabled = false

# Exactly one of five fields says whom to erase, and not every text is a phone number.
[[operations]]
include-path = "/v1/erasures"
checks.positive_data_acceptance.enabled = false

# Not every text is a type or a duration.
[[operations]]
include-path = "/v1/retention/{owner}"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-tag = "Subscriptions"
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.slow
async def test_every_answer_is_one_that_the_document_promises(service: Service, tmp_path: Path) -> None:
    await service.installed()
    await service.aircall.send_event("call.created", repeat=3)
    await service.aircall.settle()
    service.app.state.notifier.stop()  # a request that would wait for an event is answered at once
    api_key = await keys.create(service.resources, name="schemathesis", scopes=list(Scope))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)

    async with _listening(service.app) as url:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"),
            *("--header", f"Authorization: Bearer {api_key}"),
            *("--max-examples", str(EXAMPLES), "--max-time", str(SECONDS), "--generation-deterministic"),
        ]
        run = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await run.communicate()

    assert run.returncode == 0, said.decode()


@asynccontextmanager
async def _listening(app: FastAPI) -> AsyncIterator[str]:
    """The application over real HTTP; its address."""
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving
