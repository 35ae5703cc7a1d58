"""A worker is killed in the middle of its look, and the next one finds nothing half done."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import Process, World, eventually, world
from tests.support.service import CLIENT_ID, CLIENT_SECRET

LEASE_OVER = "UPDATE webhook SET due_at = now(), leased_until = NULL"
GRACE_OVER = "UPDATE retired_webhook SET due_at = now()"


async def another_hand_at_aircall(it: World) -> httpx.AsyncClient:
    """Another client, with a token of the same company."""
    exchange = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "redirect_uri": f"{it.service_url}/aircall/oauth/callback",
        "grant_type": "authorization_code",
        "code": (await it.control("grant"))["code"],
    }
    token = (await it.aircall.post("/v1/oauth/token", json=exchange)).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=it.aircall.base_url, headers=headers, trust_env=False)


async def told(it: World) -> list[str]:
    rows = await it.sql("SELECT type FROM event WHERE type LIKE 'webhook.%' ORDER BY position")
    return [row["type"] for row in rows]


async def kill_in_the_middle(it: World, worker: Process, method: str, path: str) -> Process:
    """Kill the worker while Aircall has done what it asked and has not answered yet; the next worker, just started."""
    await it.control("break", door=f"{method} webhooks", how="slow_reply", seconds=30)
    before = len(await it.asked(method, path))
    await it.sql(LEASE_OVER)

    async def in_the_middle() -> bool:
        assert worker.running, worker.said()
        return len(await it.asked(method, path)) > before

    await eventually(in_the_middle, 30.0)
    await worker.kill()
    await it.sql(LEASE_OVER)
    return await it.run("work")


async def well_again(it: World) -> Any:
    async def well() -> Any:
        rows = await it.sql("SELECT * FROM webhook WHERE status = 'active' AND leased_until IS NULL AND due_at > now()")
        return rows and rows[0]["checked_at"] is not None and not rows[0]["rotation_wanted"] and rows[0]

    return await eventually(well, 30.0)


@pytest.mark.slow
async def test_a_worker_killed_while_it_mends_leaves_nothing_half_done(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        await it.start_service()
        assert (await it.browser.get(await it.consent())).status_code == 303
        (hook,) = await it.webhooks()
        path = f"/v1/webhooks/{hook['webhook_id']}"

        async with await another_hand_at_aircall(it) as hand:
            await hand.put(path, json={"active": False, "events": hook["events"]})
            worker = await kill_in_the_middle(it, await it.run("work"), "PUT", path)
            await well_again(it)
            switched_on = await told(it)

            await hand.delete(path, headers={"content-type": "application/json"})
            worker = await kill_in_the_middle(it, worker, "POST", "/v1/webhooks")
            made = await well_again(it)
            made_again, after_making = await told(it), await it.webhooks()

            await it.sql("UPDATE webhook SET rotation_wanted = true")
            worker = await kill_in_the_middle(it, worker, "POST", "/v1/webhooks")
            rotated = await well_again(it)
            after_rotating = await it.webhooks()
            await it.sql(GRACE_OVER)

            async def one_is_left() -> bool:
                return [one["webhook_id"] for one in await it.webhooks()] == [rotated["webhook_id"]]

            await eventually(one_is_left, 30.0)
            assert worker.running, worker.said()

        once = ["webhook.disabled", "webhook.restored"]
        assert (switched_on, made_again, await told(it)) == (once, once * 2, once * 2)
        assert [one["webhook_id"] for one in after_making] == [made["webhook_id"]]
        assert len(after_rotating) == 2
        assert made["webhook_id"] != rotated["webhook_id"]
        assert [gap["open"] for gap in await it.sql("SELECT until IS NULL AS open FROM gap")] == [False, False]
