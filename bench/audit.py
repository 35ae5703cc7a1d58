"""What reading the audit costs where it is large: `python -m bench.audit [rows]`, with a PostgreSQL of its own."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import httpx
from tests.support.service import run_service, settings_for

from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import migrations
from aircall_oauth.telemetry import log

FILL = """
    INSERT INTO audit (id, at, actor, action, installation_id, owner)
    SELECT 'aud_' || md5(n::text), now() - n * interval '10 s', 'key_' || n % 20,
           (ARRAY['aircall.read', 'aircall.read', 'aircall.read', 'aircall.write', 'token.read'])[1 + n % 5],
           'ins_' || md5((n % 1000)::text), 'o' || n % 1000
    FROM generate_series(1, $1::int) n
"""
QUESTIONS: tuple[dict[str, str], ...] = (
    {},
    {"action": "token.read"},
    {"action": "aircall.*"},
    {"action": "subscription.*"},
    {"owner": "o5"},
    {"owner": "o5", "action": "token.read"},
    {"actor": "key_3"},
    {"actor": "key_3", "action": "token.read"},
)
TIMES = 5


async def main(rows: int) -> None:
    log.configure("error", "json")
    with tempfile.TemporaryDirectory() as folder, Postgres.start(Path(folder) / "data", durable=False) as server:
        await migrations.migrate(server.dsn())
        async with run_service(settings_for(server.dsn())) as service:
            await service.sql(FILL, rows)
            await service.sql("ANALYZE audit")
            for owner in (None, "o7"):
                partner = await service.partner(owner=owner)
                for question in QUESTIONS:
                    if owner is None or "owner" not in question:
                        print(owner or "all", question, *await asked(partner, question))


async def asked(partner: httpx.AsyncClient, question: dict[str, str]) -> tuple[str, str]:
    """Return how many lines came, and the fastest of a few times."""
    seconds = []
    for _ in range(TIMES):
        started = time.perf_counter()
        answer = await partner.get("/v1/audit", params=question)
        seconds.append(time.perf_counter() - started)
    return f"{len(answer.json()['items'])} lines", f"{min(seconds) * 1000:.0f} ms"


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
