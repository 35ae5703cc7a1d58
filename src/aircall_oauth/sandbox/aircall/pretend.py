"""The pretend Aircall as one object, used by tests, the routes and the control page."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from aircall_oauth.sandbox.aircall import companies, happenings, refusals, samples, saved
from aircall_oauth.sandbox.aircall.companies import Company
from aircall_oauth.sandbox.aircall.courier import LEDGER_ROWS, Courier, Delivery
from aircall_oauth.sandbox.aircall.faults import Fault, Faults, How
from aircall_oauth.sandbox.aircall.grants import Client, Grants, Token
from aircall_oauth.sandbox.aircall.habits import Habits
from aircall_oauth.sandbox.aircall.happenings import Event
from aircall_oauth.sandbox.aircall.orders import Manner
from aircall_oauth.sandbox.aircall.rate import Rate
from aircall_oauth.sandbox.aircall.webhooks import Webhook, Webhooks

BURST = 50
PAIR_SECONDS = 60


@dataclass
class Received:
    """One REST request. `status` is None until it is answered, and where the answer was dropped."""

    at: float
    method: str
    path: str
    query: str
    company_id: int | None
    status: int | None = None
    broken: How | None = None


class PretendAircall:
    """A pretend Aircall. `company` is everywhere a pretend company or its id; the first one, if left out."""

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        redirect_uris: Sequence[str],
        base_url: str = "http://127.0.0.1:8100",
        rate_per_minute: int = 120,
        webhook_attempt_pause: float = 2.0,
        webhook_timeout: float = 5.0,
        disable_after: int = 10,
        clock: Callable[[], float] = time.time,
        transport: httpx.AsyncBaseTransport | None = None,
        state_file: Path | None = None,
        more_companies: int = 0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.clock = clock
        self.habits = Habits(rate_per_minute, webhook_attempt_pause, disable_after, webhook_timeout)
        self.companies = companies.default_companies() + companies.more_companies(more_companies)
        self.grants = Grants(Client(client_id, client_secret, redirect_uris), clock)
        self.webhooks = Webhooks()
        self.faults = Faults()
        self._received: deque[Received] = deque(maxlen=LEDGER_ROWS)
        self._rate = Rate()
        self._courier = Courier(self.habits, clock, transport=transport, on_change=self.save)
        self.late_seconds = 5.0
        self._state_file = state_file
        if state_file is not None:
            saved.load(state_file, self.companies, self.grants, self.webhooks)
            self.save()

    @property
    def requests(self) -> list[Received]:
        """The REST requests received, oldest first."""
        return list(self._received)

    @property
    def deliveries(self) -> list[Delivery]:
        """Every event sent to every webhook, oldest first, with its attempts."""
        return list(self._courier.deliveries)

    def company(self, wanted: Company | int | None = None) -> Company:
        """Return a company; raises `LookupError` for an unknown id."""
        if isinstance(wanted, Company):
            return wanted
        return self.companies[0] if wanted is None else companies.find(self.companies, wanted)

    def grant(
        self,
        company: Company | int | None = None,
        state: str | None = None,
        *,
        redirect_uri: str | None = None,
        challenge: str | None = None,
    ) -> str:
        """Give an admin's consent without a browser; returns the code. `state` is unused: only browsers carry it."""
        uri = redirect_uri or self.grants.client.redirect_uris[0]
        code = self.grants.new_code(self.company(company).id, uri, challenge)
        self.save()
        return code

    def exchange(self, request: Mapping[str, Any]) -> Token:
        try:
            return self.grants.exchange(request, same_again=self.habits.same_token_again)
        finally:
            self.save()

    def company_of(self, access_token: str) -> Company | None:
        company_id = self.grants.company_of(access_token)
        return None if company_id is None else self.company(company_id)

    def tokens_of(self, company: Company | int | None = None) -> list[str]:
        """Return the valid tokens of a company, oldest first."""
        wanted = self.company(company).id
        return [token.access_token for token in self.grants.tokens.values() if token.company_id == wanted]

    def admit(self, access_token: str) -> Company:
        """Return a token's company, and count one request for its rate limit; raises `RefusedError`."""
        company = self.company_of(access_token)
        if company is None:
            raise refusals.bad_token()
        self._rate.spend(company.id, self.habits.rate_per_minute, self.clock())
        return company

    async def send_event(
        self,
        name: str,
        data: Any = None,
        company: Company | int | None = None,
        *,
        repeat: int = 1,
        manner: Manner = "at_once",
    ) -> list[Delivery]:
        """Send an event to every webhook that wants it, `repeat` times with the same body.

        Returns what was sent at once; the late repeat is sent in the background.

        `name` is an event, a variant with a sample (`call.ended.missed`), or a name Aircall doesn't have yet.
        `data` replaces the sample's.
        """
        sender = self.company(company)
        ages = {"burst": [0] * BURST, "out_of_order": [0, PAIR_SECONDS]}.get(manner, [0])
        events = [happenings.happening(name, sender, self.base_url, self.clock() - age) for age in ages]
        told = [event if data is None else replace(event, data=data) for event in events]
        if manner == "late_repeat":
            self._courier.start(self._send_late(sender, told[0]))
        return [delivery for event in told for _ in range(repeat) for delivery in self._send(sender, event)]

    async def _send_late(self, company: Company, event: Event) -> None:
        await asyncio.sleep(self.late_seconds)
        self._send(company, event)

    async def place_call(
        self, company: Company | int | None = None, pause: float = 0.0, call_id: int | None = None
    ) -> int:
        """Place one whole inbound call, with `pause` seconds between its events; returns the call's id."""
        called, call_id = self.company(company), call_id or samples.fresh_id()
        for event in happenings.phone_call(called, self.base_url, self.clock(), call_id):
            called.calls[call_id] = happenings.call_in_rest(event.data)
            self._send(called, event)
            await asyncio.sleep(pause)
        return call_id

    def record_calls(
        self, count: int, *, since: float, until: float, company: Company | int | None = None
    ) -> list[int]:
        """Record calls spread evenly over a past time, in the list only: no events are sent. Returns their ids."""
        called = self.company(company)
        pace = (until - since) / count
        recorded = happenings.past_calls(called, self.base_url, [since + number * pace for number in range(count)])
        called.calls |= {call["id"]: call for call in recorded}
        return [call["id"] for call in recorded]

    def tell_end(self, call_id: int, company: Company | int | None = None, *, repeat: int = 1) -> list[Delivery]:
        """Send the end of a listed call, `repeat` times with the same body, however late."""
        called = self.company(company)
        event = happenings.call_ended(called.calls[call_id])
        return [delivery for _ in range(repeat) for delivery in self._send(called, event)]

    async def uninstall(
        self, company: Company | int | None = None, *, keep_integration_id: bool = True
    ) -> list[Delivery]:
        """Remove the app as an admin: send `integration.deleted`, and end tokens and webhooks at once."""
        left = self.company(company)
        deliveries = await self.send_event("integration.deleted", company=left)
        self.grants.revoke_company(left.id)
        self.webhooks.delete_company(left.id)
        left.integration.active = True
        left.integration.id += 0 if keep_integration_id else 1000
        self.save()
        return deliveries

    def _send(self, company: Company, event: Event) -> list[Delivery]:
        if not happenings.is_linked(event, company):
            return []
        return [self._courier.post(webhook, event) for webhook in self._listeners(company, event.name)]

    def _listeners(self, company: Company, name: str) -> list[Webhook]:
        return [hook for hook in self.webhooks.of(company.id) if hook.active and hook.wants(name)]

    def break_next(
        self, door: str, how: How, times: int = 1, *, seconds: float | None = None, size: int = 50 * 1024 * 1024
    ) -> None:
        """Break the next requests of a route (`oauth/token`, `POST webhooks`, `all`); raises `ValueError`.

        `seconds` is the delay, or the time until the rate limit is free again; `size` the length of a huge answer in
        bytes.
        """
        if seconds is None:
            seconds = 60.0 if how == "status_429" else 10.0
        self.faults.add(Fault(door, how, times, seconds, size))

    def heal(self) -> None:
        self.faults.heal()

    def note(self, received: Received) -> None:
        self._received.append(received)

    def start_call(self, company: Company | int | None = None, pause: float = 0.0) -> int:
        """Place a call in the background; returns the call's id at once."""
        called, call_id = self.company(company), samples.fresh_id()
        self._courier.start(self._place(called, pause, call_id))
        return call_id

    async def _place(self, called: Company, pause: float, call_id: int) -> None:
        await self.place_call(called, pause, call_id)

    async def settle(self) -> None:
        """Wait until nothing is being sent, repeats included."""
        await self._courier.settle()

    async def close(self) -> None:
        """Stop sending, and drop what was not delivered yet."""
        await self._courier.close()

    def save(self) -> None:
        if self._state_file is not None:
            saved.save(self._state_file, self.companies, self.grants, self.webhooks)
