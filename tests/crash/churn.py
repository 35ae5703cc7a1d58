"""Admins and partners at work: installs, claims, disconnects, checks, webhooks switched off, proxied calls."""

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from aircall_oauth.operations.moments import MOMENTS
from tests.crash.processes import START_SECONDS, Fleet
from tests.support.processes import a_client, eventually

PAUSE_SECONDS = 0.6
PROXY_PAUSE_SECONDS = 0.4
AT_ONCE = 6
# Marks the campaign's own requests at Aircall.
OURS = {"by": "campaign"}
STIR_SECONDS = 0.5
COLLIDING = 10
COLLIDE_WITHIN_SECONDS = 6.0
MISSED_CALLS = 60
MISSED_SECONDS = 240
# What lasts for a time and is no work.
LEASES = {("webhook", "leased_until"), ("budget", "closed_until")}


class Partner:
    """One partner's page and systems, over the public address."""

    def __init__(self, fleet: Fleet, key: dict[str, str]) -> None:
        self._fleet = fleet
        self._key = key

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        hooks = {"response": [self._note]}
        async with a_client(self._fleet.url, headers=self._key, event_hooks=hooks) as client:
            client.timeout = httpx.Timeout(20.0)
            yield client

    async def _note(self, answer: httpx.Response) -> None:
        if answer.status_code == 500 and not _is_of_aircall(answer):
            door = answer.request.url.path
            self._fleet.records.failures.append(f"{answer.request.method} {door} answered 500")

    async def install(self, company_id: int, owner: str | None = None) -> bool:
        """A whole flow, by a link for its owner, if there is one, and claimed then; whether it is connected."""
        async with self.client() as partner, self.client() as browser:
            del browser.headers["authorization"]
            door = "/aircall/oauth/install"
            if owner is not None:
                link = await partner.post("/v1/install-links", json={"owner": owner})
                if link.status_code != 201:
                    return False
                door = link.json()["url"]
            departure = await browser.get(door)
            state = _query(departure).get("state") if departure.status_code == 303 else None
            if state is None:  # an error's page, or on the way home with an error
                return False
            code = (await self._fleet.aircall.post("/control/grant", json={"company": company_id})).json()["code"]
            back = await browser.get("/aircall/oauth/callback", params={"state": state, "code": code})
            claim = _query(back).get("claim") if back.status_code == 303 else None
            if owner is None or claim is None:
                return back.status_code in {200, 303}
            return (await partner.post("/v1/claims", json={"claim": claim, "owner": owner})).status_code == 200

    async def install_for_certain(self, company_id: int, owner: str | None = None) -> None:
        await eventually(lambda: self.install(company_id, owner), START_SECONDS)


class Churn:
    """Work that never ends on some installations, each step drawn."""

    def __init__(self, fleet: Fleet, partner: Partner, companies: Sequence[int], seed: str) -> None:
        self._fleet = fleet
        self._partner = partner
        self._companies = companies
        self._chance = random.Random(f"{seed} churn")
        self.steps: dict[str, int] = {}

    async def go_on(self) -> None:
        """Until cancelled, some at once. What fails, fails: the logs tell what it failed with."""
        await asyncio.gather(*(self._one_after_the_other() for _ in range(AT_ONCE)))

    async def _one_after_the_other(self) -> None:
        steps = (self._install, self._install_and_claim, self._disconnect, self._check, self._look, self._switch_off)
        while True:
            company = self._chance.choice(self._companies)
            (step,) = self._chance.choices(steps, (3, 3, 3, 4, 4, 3))
            with suppress(httpx.HTTPError, OSError, TimeoutError):
                await step(company)
                name = step.__name__.removeprefix("_")
                self.steps[name] = self.steps.get(name, 0) + 1
            await asyncio.sleep(AT_ONCE * PAUSE_SECONDS * self._chance.uniform(0.5, 1.5))

    async def call_aircall(self, company_id: int) -> None:
        """Ask through the proxy, more than the budget allows, until cancelled."""
        while True:
            with suppress(httpx.HTTPError, OSError, TimeoutError):
                installation_id = await self._installation(company_id)
                async with self._partner.client() as client:
                    await client.get(f"/v1/installations/{installation_id}/aircall/numbers")
            await asyncio.sleep(PROXY_PAUSE_SECONDS)

    async def stir(self, companies: Sequence[int]) -> None:
        """Switch their webhooks off at Aircall and let them be looked at now: each is told twice in the log."""
        for company in companies:
            with suppress(httpx.HTTPError, OSError, TimeoutError):
                async with asyncio.timeout(STIR_SECONDS):
                    await self._switch_off(company)

    async def collide(self, seconds: float, chance: random.Random) -> None:
        """Again and again a webhook is found off while its installation ends, is renewed, or is checked, too."""
        until = self._fleet.now() + seconds

        async def once(company_id: int) -> None:
            while self._fleet.now() < until:
                with suppress(httpx.HTTPError, OSError, TimeoutError):
                    await self._switch_off(company_id)
                    await asyncio.sleep(chance.uniform(0.0, COLLIDE_WITHIN_SECONDS))
                    await chance.choice((self._disconnect, self._install, self._check, self._install_and_claim))(
                        company_id
                    )

        await asyncio.gather(*(once(company) for company in chance.sample(self._companies, COLLIDING)))

    async def _install(self, company_id: int) -> None:
        await self._partner.install(company_id)

    async def _install_and_claim(self, company_id: int) -> None:
        await self._partner.install(company_id, "acme")

    async def _disconnect(self, company_id: int) -> None:
        async with self._partner.client() as client:
            await client.delete(f"/v1/installations/{await self._installation(company_id)}")

    async def _check(self, company_id: int) -> None:
        async with self._partner.client() as client:
            await client.post(f"/v1/installations/{await self._installation(company_id)}/check")

    async def _look(self, company_id: int) -> None:
        """The worker's next look comes now."""
        due = """
            UPDATE webhook SET due_at = now() FROM installation i
            WHERE i.id = installation_id AND i.company_id = $1 AND due_at IS NOT NULL
        """
        with suppress(Exception):  # PostgreSQL may be away
            await self._fleet.sql(due, company_id)

    async def _switch_off(self, company_id: int) -> None:
        """Calls are missed, too, and are asked for at once when it is on again."""
        saved = json.loads(self._fleet.state_file.read_bytes())
        tokens = [token["access_token"] for token in saved["tokens"] if token["company_id"] == company_id]
        webhooks = [webhook["webhook_id"] for webhook in saved["webhooks"] if webhook["company_id"] == company_id]
        if not tokens or not webhooks:
            return
        headers = {"authorization": f"Bearer {tokens[-1]}"}
        url = f"/v1/webhooks/{webhooks[-1]}"
        await self._fleet.aircall.put(url, json={"active": False}, headers=headers, params=OURS)
        now = time.time()
        missed = {"company": company_id, "count": MISSED_CALLS, "since": now - MISSED_SECONDS, "until": now}
        await self._fleet.aircall.post("/control/record-calls", json=missed)
        await self._look(company_id)

    async def _installation(self, company_id: int) -> str:
        try:
            rows = await self._fleet.sql("SELECT id FROM installation WHERE company_id = $1", company_id)
        except Exception as error:
            raise OSError("PostgreSQL is away") from error
        return str(rows[0]["id"]) if rows else "ins_none"


async def move_clock(fleet: Fleet, seconds: int) -> None:
    """Let so much time go by for everything that is due later, and for what was spent of the budget.

    The budget's minute begins anew each time. A row that is locked is passed over: waiting for it with others in hand
    could be a deadlock of our own making.
    """
    fleet.note_clock()
    for table, column in sorted({(moment.table, moment.column) for moment in MOMENTS if moment.is_work} | LEASES):
        earlier = f"{column} - make_interval(secs => {seconds})"
        await fleet.sql(_of_free_rows(table, column, earlier))
    await fleet.sql(_of_free_rows("budget", "second", f"second - {seconds}"))


def _of_free_rows(table: str, column: str, value: str) -> str:
    free = f"SELECT ctid FROM {table} WHERE {column} IS NOT NULL FOR UPDATE SKIP LOCKED"
    return f"UPDATE {table} SET {column} = {value} WHERE ctid = ANY (ARRAY({free}))"


def _query(answer: httpx.Response) -> dict[str, Any]:
    told = parse_qs(urlsplit(answer.headers.get("location", "")).query)
    return {name: values[0] for name, values in told.items()}


def _is_of_aircall(answer: httpx.Response) -> bool:
    """Whether the proxy passed it on as Aircall gave it: a refusal of the service itself is a problem document."""
    proxied = re.fullmatch(r"/v1/installations/[^/]+/aircall/.*", answer.request.url.path)
    return proxied is not None and "problem+json" not in answer.headers.get("content-type", "")
