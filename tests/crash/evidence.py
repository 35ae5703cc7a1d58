"""What a campaign looks up: the log's table, Aircall's side, and how busy the machine is."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from tests.crash.churn import OURS
from tests.crash.processes import Fleet
from tests.crash.records import Call, Standing, Stored

ROWS = "SELECT position, id, installation_id, type, owner, data FROM event ORDER BY position"

INSTALLATIONS = """
    SELECT i.id, i.status, i.company_id, format('webhook %s, due in %s s, lease ends in %s s, now %s', w.status,
        extract(epoch FROM w.due_at - now())::int, extract(epoch FROM w.leased_until - now())::int, now()) AS webhook
    FROM installation i LEFT JOIN webhook w ON w.installation_id = i.id
"""


async def the_log(sql: Callable[[str], Awaitable[list[Any]]]) -> list[Stored]:
    """Every row of it."""
    return [_row(row) for row in await sql(ROWS)]


async def standings(it: Fleet) -> list[Standing]:
    """Each installation, here and at Aircall."""
    state = (await it.aircall.get("/control/state")).json()
    companies = {company["id"]: company for company in state["companies"]}
    rows = await it.sql(INSTALLATIONS)
    ours = f"{it.url}/aircall/webhook"
    return [
        Standing(
            row["id"],
            row["status"],
            any(hook["active"] and hook["url"] == ours for hook in companies[row["company_id"]]["webhooks"]),
            companies[row["company_id"]]["integration"]["active"],
            row["webhook"] or "",
        )
        for row in rows
    ]


async def keep_ledger(it: Fleet) -> None:
    """Note what Aircall was asked, from its ledger of the last thousand requests, until cancelled."""
    seen: set[tuple[Any, ...]] = set()
    ours = "&".join(f"{name}={value}" for name, value in OURS.items())
    while True:
        with suppress(httpx.HTTPError):
            for row in (await it.aircall.get("/control/ledger")).json()["requests"]:
                place = (row["at"], row["method"], row["path"], row["company_id"])
                if row["company_id"] is not None and row["query"] != ours and place not in seen:
                    seen.add(place)
                    it.records.calls.append(Call(row["at"], row["company_id"]))
        await asyncio.sleep(1)


def busy_seconds() -> float:
    """Processor time of all others on this machine so far: of all, less our own and our ended children's."""
    try:
        first, *_ = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, hard, soft = (int(number) for number in first.split()[1:8])
    ours = os.times()
    all_of_it = (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")
    return all_of_it - (ours.user + ours.system + ours.children_user + ours.children_system)


def _row(row: Any) -> Stored:
    data = msgspec.json.decode(row["data"])
    fields = data if isinstance(data, dict) else {}
    about = fields.get("name") if row["type"].startswith("subscription.") else None
    return Stored(
        row["position"], row["id"], row["installation_id"], row["type"], row["owner"], fields.get("campaign"), about
    )
