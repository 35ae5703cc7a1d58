"""Delivers events to webhooks: five seconds for an answer, up to fifty attempts with the same body."""

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from aircall_oauth.sandbox.aircall import samples
from aircall_oauth.sandbox.aircall.habits import Habits
from aircall_oauth.sandbox.aircall.happenings import Event
from aircall_oauth.sandbox.aircall.webhooks import Webhook

MAX_TRIES = 50
SENT_AT_ONCE = 50
LEDGER_ROWS = 10_000
ANSWER_CHARACTERS = 200


@dataclass(frozen=True)
class Attempt:
    """One POST: the status of its answer, or the error instead of one."""

    at: float
    milliseconds: int
    status: int | None
    answer: str

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass
class Delivery:
    """One event on its way to one webhook. `body` stays the same through all attempts."""

    number: int
    company_id: int
    webhook_id: str
    url: str
    event: str
    body: bytes = field(repr=False)
    status: Literal["sending", "delivered", "given_up"] = "sending"
    attempts: list[Attempt] = field(default_factory=list)


class Courier:
    """Delivers in the background; `settle` waits until that is done, `close` cancels it."""

    def __init__(
        self,
        habits: Habits,
        clock: Callable[[], float],
        *,
        transport: httpx.AsyncBaseTransport | None,
        on_change: Callable[[], None],
    ) -> None:
        self.deliveries: deque[Delivery] = deque(maxlen=LEDGER_ROWS)
        self._habits = habits
        self._clock = clock
        self._transport = transport
        self._on_change = on_change
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)
        self._client: httpx.AsyncClient | None = None
        self._slots = asyncio.Semaphore(SENT_AT_ONCE)

    def post(self, webhook: Webhook, event: Event) -> Delivery:
        """Start delivering an event; the result appears in the returned delivery."""
        body = event.body(webhook.token)
        delivery = Delivery(next(self._numbers), webhook.company_id, webhook.webhook_id, webhook.url, event.name, body)
        self.deliveries.append(delivery)
        self.start(self._deliver(webhook, delivery))
        return delivery

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run work in the background; `settle` waits for it and `close` cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _deliver(self, webhook: Webhook, delivery: Delivery) -> None:
        for _ in range(MAX_TRIES):
            attempt = await self._try(webhook.url, delivery.body)
            delivery.attempts.append(attempt)
            self._note(webhook, attempt)
            if attempt.succeeded:
                delivery.status = "delivered"
                return
            await asyncio.sleep(self._habits.attempt_pause)
            if not self._is_tried(webhook, delivery):
                break
        delivery.status = "given_up"

    def _is_tried(self, webhook: Webhook, delivery: Delivery) -> bool:
        """Whether to go on trying. An uninstall deletes the webhook before its own event may have arrived."""
        farewell = delivery.event == "integration.deleted" and webhook.deleted
        return farewell or webhook.is_retried(self._clock())

    def _note(self, webhook: Webhook, attempt: Attempt) -> None:
        was_active = webhook.active
        if attempt.succeeded:
            webhook.note_success()
        else:
            webhook.note_failure(self._clock(), self._habits.disable_after)
        if webhook.active != was_active:
            self._on_change()

    async def _try(self, url: str, body: bytes) -> Attempt:
        async with self._slots:
            at, began = self._clock(), time.perf_counter()
            status, answer = await self._post(url, body)
        return Attempt(at, round((time.perf_counter() - began) * 1000), status, answer)

    async def _post(self, url: str, body: bytes) -> tuple[int | None, str]:
        try:
            async with asyncio.timeout(self._habits.webhook_timeout):
                response = await self._open_client().post(url, content=body, headers=_headers())
            return response.status_code, response.text[:ANSWER_CHARACTERS]
        except TimeoutError:
            return None, f"no answer within {self._habits.webhook_timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return None, f"{type(error).__name__}: {error}"[:ANSWER_CHARACTERS]

    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=SENT_AT_ONCE)
            self._client = httpx.AsyncClient(
                transport=self._transport, timeout=httpx.Timeout(None), limits=limits, trust_env=False
            )
        return self._client


def _headers() -> dict[str, str]:
    traces = {name: str(secrets.randbits(63)) for name in ("x-datadog-trace-id", "x-datadog-parent-id")}
    return {**samples.read("delivery.request-headers"), **traces}
