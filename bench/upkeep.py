"""What upkeep costs with many installations, against only asking Aircall as often, in one run.

python -m bench.upkeep [--installations 10000]

Aircall is the sandbox's, in the same process, so the ratios hold its work too.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
from tests.support.many_installations import FIRST_COMPANY, install_many
from tests.support.service import Service, run_service, settings_for

from aircall_oauth.installations.outages import backfill, heartbeat
from aircall_oauth.installations.upkeep import schedule
from aircall_oauth.sandbox.aircall import create_app
from aircall_oauth.storage import migrations
from aircall_oauth.storage.stamps import now
from aircall_oauth.telemetry import log
from bench import ground

AT_ONCE = schedule.AT_ONCE
AWAY = timedelta(hours=12)
CALLS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--installations", type=int, default=10_000)
    log.configure("error", "json")
    asyncio.run(_measure(parser.parse_args().installations))


async def _measure(many: int) -> None:
    async with _service(many) as service:
        looks = await _seconds(lambda: schedule.reconcile_webhooks(service.resources))
        asked = await _seconds(lambda: _only_ask(service, "webhooks/{webhook_id}", times=1))
        _say(f"a look at each of {many}", looks, asked, "one GET each")
        await _be_away(service)
        filled = await _seconds(lambda: backfill.fill_gaps(service.resources))
        asked = await _seconds(lambda: _only_ask(service, "calls", times=2))
        _say(f"back-fill of a gap of {CALLS} calls for each of {many}", filled, asked, "two GETs each")
        (row,) = await service.sql("SELECT (SELECT count(*) FROM event) AS told, count(done_at) AS done FROM gap")
        assert (row["told"], row["done"]) == (many * CALLS, many)


@asynccontextmanager
async def _service(many: int) -> AsyncIterator[Service]:
    with (
        tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-") as folder,
        ground.durable_postgres(Path(folder)) as postgres,
    ):
        await migrations.migrate(postgres.dsn())
        async with run_service(settings_for(postgres.dsn(), AIRCALL_RATE_PER_MINUTE="60")) as service:
            await install_many(service, many)
            yield service


async def _be_away(service: Service) -> None:
    """Nobody was here for hours, and all that was missed is due."""
    since, until = now() - AWAY + timedelta(hours=1), now() - timedelta(hours=1)
    for company in service.aircall.companies:
        if company.id >= FIRST_COMPANY:
            service.aircall.record_calls(CALLS, since=since.timestamp(), until=until.timestamp(), company=company)
    await heartbeat.beat(service.resources)
    await service.sql("UPDATE pulse SET at = at - $1::interval", AWAY)
    await heartbeat.beat(service.resources)
    await service.sql("UPDATE gap SET due_at = now()")


async def _only_ask(service: Service, path: str, *, times: int) -> None:
    """What a loop would do that remembers nothing: the same requests, as many at once."""
    tokens = {token.company_id: token.access_token for token in service.aircall.grants.tokens.values()}
    hooks, turn = service.aircall.webhooks.all, asyncio.Semaphore(AT_ONCE)
    to_aircall = httpx.ASGITransport(create_app(service.aircall))
    async with httpx.AsyncClient(transport=to_aircall, base_url=service.settings.api_url) as client:

        async def ask(company_id: int, webhook_id: str) -> None:
            headers = {"authorization": f"Bearer {tokens[company_id]}"}
            async with turn:
                for _ in range(times):
                    answer = await client.get(path.format(webhook_id=webhook_id), headers=headers)
                    assert answer.status_code == 200, answer.text

        await asyncio.gather(*(ask(hook.company_id, hook.webhook_id) for hook in hooks))


async def _seconds(work: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


def _say(what: str, seconds: float, asked: float, asking: str) -> None:
    sys.stdout.write(f"{what}: {seconds:.1f} s, {seconds / asked:.1f} x only asking ({asking}: {asked:.1f} s)\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
