"""Many installations on a bad day, with Aircall counting sixty requests a minute for each company."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from starlette.responses import Response

from aircall_oauth.installations.outages import heartbeat
from aircall_oauth.resources import Resources, open_resources
from aircall_oauth.sandbox.aircall import create_app as create_aircall_app
from aircall_oauth.server.worker import CHORES
from aircall_oauth.storage.stamps import now
from tests.support.many_installations import FIRST_COMPANY, install_many, our_webhook
from tests.support.service import Service, ToAircall, run_service, settings_for

# More of them, such as 1000, take as much longer. A multiple of 20.
MANY = int(os.environ.get("INSTALLATIONS", "100"))
LIMIT = 60
AWAY = timedelta(hours=12)
# Every installation is looked at at least so often.
STATED_MINUTES = 15
CALLS = 2
LONG_UNSEEN = """
    SELECT webhook.* FROM webhook JOIN installation ON installation.id = installation_id
    WHERE installation.status = 'active' AND checked_at < now() - $1::interval
"""
# What waits for its time moves on; the log's own times stay.
STAY = ("audit", "event%", "log_start", "told_call")
TIMES = """
    SELECT table_name, string_agg(format('%1$I = %1$I - $1::interval', column_name), ', ') AS moved
    FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
    WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND data_type = 'timestamp with time zone'
      AND table_name NOT LIKE ALL ($1)
    GROUP BY 1
"""


@pytest.fixture
async def busy(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, AIRCALL_RATE_PER_MINUTE=str(LIMIT))) as service:
        service.aircall.habits.rate_per_minute = LIMIT
        await install_many(service, MANY)
        yield service


class Minutes:
    """A clock that is moved, for Aircall and for everything that waits here."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.moved = timedelta()
        service.aircall.clock = lambda: time.time() + self.moved.total_seconds()

    async def move(self, length: timedelta) -> None:
        self.moved += length
        for table in await self._service.sql(TIMES, STAY):
            await self._service.sql(f"UPDATE {table['table_name']} SET {table['moved']}", length)
        await self._service.sql("UPDATE budget SET second = second - $1", int(length.total_seconds()))


class Day:
    """What happens to which company."""

    def __init__(self, service: Service) -> None:
        self._service = service
        kinds = ("off", "gone", "doubled", "dead", "changed", "back", "left")
        self.of = {kind: range(FIRST_COMPANY + start, FIRST_COMPANY + MANY, 20) for start, kind in enumerate(kinds)}

    async def goes_wrong_while_nobody_is_here(self) -> None:
        aircall, hooks = self._service.aircall, {hook.company_id: hook for hook in self._service.aircall.webhooks.all}
        since, until = now() - AWAY + timedelta(hours=1), now() - timedelta(hours=1)
        for company in hooks:
            aircall.record_calls(CALLS, since=since.timestamp(), until=until.timestamp(), company=company)
        async with nobody_here(self._service):
            for company in self.of["off"]:
                for _ in range(aircall.habits.disable_after):
                    await aircall.send_event("call.created", company=company)
            await aircall.settle()
            for company in self.of["back"]:
                await aircall.uninstall(company)
            await aircall.settle()
        for company in self.of["gone"]:
            aircall.webhooks.all.remove(hooks[company])
        for company in self.of["doubled"]:
            our_webhook(self._service, company)
        for company in self.of["dead"]:
            aircall.grants.revoke_company(company)
        for company in self.of["changed"]:
            hooks[company].events = ["call.ended"]
        aircall.break_next("POST webhooks", "drop_reply", times=len(self.of["gone"]) // 2)
        await self._service.sql("UPDATE pulse SET at = at - $1::interval", AWAY)
        await self._service.sql("UPDATE webhook SET thorough_at = thorough_at - $1::interval", AWAY)

    async def goes_on(self, minute: int) -> None:
        aircall = self._service.aircall
        if minute == 2:
            for company in self.of["left"]:
                await aircall.uninstall(company)
            await aircall.settle()
        if minute == 7:
            for company in self.of["back"]:
                await self._service.install(company)


@asynccontextmanager
async def nobody_here(service: Service) -> AsyncIterator[None]:
    app = service.to_app.app
    service.to_app.app = Response(status_code=503)
    yield
    service.to_app.app = app


@asynccontextmanager
async def another_worker(service: Service) -> AsyncIterator[Resources]:
    """Another process, as far as the database and Aircall can tell."""
    to_aircall = ToAircall(create_aircall_app(service.aircall))
    async with open_resources(service.settings, aircall_transport=to_aircall) as resources:
        yield resources


async def a_minute_of_work(resources: Resources) -> None:
    for chore in CHORES:
        await chore.work(resources)


async def count(service: Service, statement: str) -> dict[str, int]:
    return {row[0]: row[1] for row in await service.sql(statement)}


async def told_once(service: Service) -> set[int]:
    """Return the calls that ended according to the log; fails if one ended twice."""
    rows = await service.sql("SELECT data FROM event WHERE type = 'call.ended'")
    told = Counter(json.loads(row["data"])["id"] for row in rows)
    assert set(told.values()) == {1}
    return set(told)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_installations_are_whole_again_soon_after_a_bad_day(busy: Service) -> None:
    """Twelve hours away; then a quarter of an hour, in each minute of which two workers do all that is due."""
    day, clock, asked = Day(busy), Minutes(busy), Counter[tuple[int, int]]()
    await heartbeat.beat(busy.resources)
    await day.goes_wrong_while_nobody_is_here()

    async with another_worker(busy) as second, another_worker(busy) as third:
        for minute in range(STATED_MINUTES + 1):
            began = busy.aircall.clock()
            await day.goes_on(minute)
            await heartbeat.beat(busy.resources)
            await asyncio.gather(*(a_minute_of_work(worker) for worker in (second, third)))
            received = [request for request in busy.aircall.requests if request.at >= began]
            assert {request.status for request in received} <= {200, 201, 204, 403, 404, None}
            asked.update((minute, request.company_id) for request in received if request.company_id is not None)
            await clock.move(timedelta(minutes=1))

    gone = {*day.of["dead"], *day.of["left"]}
    active = [company for company in range(FIRST_COMPANY, FIRST_COMPANY + MANY) if company not in gone]
    mended = sum(len(day.of[kind]) for kind in ("off", "gone", "back"))
    refused = len(day.of["dead"]) + len(day.of["back"])
    assert await count(busy, "SELECT status, count(*) FROM installation GROUP BY 1") == {
        "active": len(active),
        "unauthorized": len(day.of["dead"]),
        "removed": len(day.of["left"]),
    }
    assert await count(busy, "SELECT type, count(*) FROM event GROUP BY 1") == {
        "webhook.disabled": mended,
        "webhook.restored": mended,
        "installation.unauthorized": refused,
        "installation.connected": len(day.of["back"]),
        "installation.removed": len(day.of["left"]),
        "integration.deleted": len(day.of["left"]),
        "call.ended": CALLS * len(active),
    }
    assert await told_once(busy) == {call for company in active for call in busy.aircall.company(company).calls}
    # With a dead token no webhook can be deleted.
    hooks = [hook for hook in busy.aircall.webhooks.all if hook.company_id not in day.of["dead"]]
    assert sorted(hook.company_id for hook in hooks) == active
    assert all(hook.active and len(hook.events) > 1 for hook in hooks)
    assert await busy.sql(LONG_UNSEEN, timedelta(minutes=STATED_MINUTES)) == []
    assert max(asked.values()) <= LIMIT // 2
