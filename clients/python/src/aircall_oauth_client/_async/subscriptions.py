"""Subscriptions: events delivered to your system."""

from __future__ import annotations

import builtins
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from aircall_oauth_client import errors, secret_file
from aircall_oauth_client.models import (
    Attempt,
    DeadEvent,
    Replay,
    ReplayAnswer,
    RetryAnswer,
    SecretAnswer,
    Subscription,
    SubscriptionCreated,
    TestResult,
)
from aircall_oauth_client.requests import Request, get, path_of, post

if TYPE_CHECKING:
    from aircall_oauth_client._async.client import AsyncClient

logger = logging.getLogger(__name__)

# What a change may change; the rest of a subscription stays what it was made with.
CHANGEABLE = ("url", "types", "owners", "installations", "order")


class AsyncSubscriptions:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(
        self, name: str, url: str, *, kind: str = "http", idempotency_key: str | None = None, **fields: Any
    ) -> SubscriptionCreated:
        """Make a subscription; its `secret` is in this answer and never again. Repeated where the connection broke.

        Fields: `types`, `owners`, `installations`, `order`, `from_`, and those of a broker's kind.
        """
        body = {"name": name, "url": url, "kind": kind, **fields}
        if "from_" in body:
            body["from"] = body.pop("from_")
        key = {"idempotency-key": idempotency_key or str(uuid4())}
        request = Request("POST", "/v1/subscriptions", body=body, repeatable=True, headers=key)
        return cast("SubscriptionCreated", await self._client.ask(request))

    async def ensure(
        self, name: str, url: str, *, kind: str = "http", **fields: Any
    ) -> Subscription | SubscriptionCreated:
        """Make a subscription of this name unless there is one; one that is there is changed where it differs.

        Only the answer of a new one has a `secret`. Fields that are not given are left as they are.
        """
        try:
            return await self.create(name, url, kind=kind, ensure=True, **fields)
        except errors.SubscriptionDiffers:
            async for one in self.list():
                owners = fields.get("owners", one["owners"])
                if (one["name"], one["kind"], sorted(one["owners"])) == (name, kind, sorted(owners)):
                    return await self._changed(one, {"url": url, **fields})
            raise

    async def secret(self, name: str, url: str, *, file: str, **fields: Any) -> str:
        """Do as `ensure` does, and return the subscription's secret, which is kept in `file` for the next start.

        Where the file lacks it, a new one is made, and the old one ends after 24 hours. For an app of one process:
        several take the secret from where you keep your other secrets.
        """
        one = await self.ensure(name, url, **fields)
        kept = cast("dict[str, Any]", one).get("secret") or secret_file.read(file, one["id"])
        if kept is None:
            kept = (await self.rotate_secret(one["id"]))["secret"]
            logger.warning("%s lacked the secret of %s: a new one is made, the old one ends in 24 hours", file, name)
        secret_file.write(file, one["id"], kept)
        return str(kept)

    async def _changed(self, one: Subscription, wanted: Mapping[str, Any]) -> Subscription:
        now = cast("dict[str, Any]", one)
        differing = [field for field in CHANGEABLE if field in wanted and now[field] != wanted[field]]
        return await self.change(one["id"], **{field: wanted[field] for field in differing}) if differing else one

    async def list(self) -> AsyncIterator[Subscription]:
        async for one in self._client.pages("/v1/subscriptions"):
            yield cast("Subscription", one)

    async def get(self, subscription_id: str) -> Subscription:
        return cast("Subscription", await self._client.ask(get(path_of("subscriptions", subscription_id))))

    async def change(self, subscription_id: str, **fields: Any) -> Subscription:
        """Change the fields that are given; its position stays."""
        request = Request("PATCH", path_of("subscriptions", subscription_id), body=fields, repeatable=True)
        return cast("Subscription", await self._client.ask(request))

    async def delete(self, subscription_id: str) -> None:
        await self._client.ask(Request("DELETE", path_of("subscriptions", subscription_id), repeatable=True))

    async def pause(self, subscription_id: str) -> Subscription:
        return cast("Subscription", await self._do(subscription_id, "pause", repeatable=True))

    async def resume(self, subscription_id: str) -> Subscription:
        return cast("Subscription", await self._do(subscription_id, "resume", repeatable=True))

    async def test(self, subscription_id: str) -> TestResult:
        """Send a sample event now, and say what came of it."""
        return cast("TestResult", await self._do(subscription_id, "test"))

    async def rotate_secret(self, subscription_id: str, *, now: bool = False) -> SecretAnswer:
        """Make a new secret; for 24 hours deliveries are signed with both, unless the old one is to end `now`."""
        return cast("SecretAnswer", await self._do(subscription_id, "rotate-secret", {"now": now}))

    async def attempts(self, subscription_id: str, **filters: Any) -> AsyncIterator[Attempt]:
        """Yield what was tried, newest first."""
        async for one in self._client.pages(path_of("subscriptions", subscription_id, "attempts"), **filters):
            yield cast("Attempt", one)

    async def dead(self, subscription_id: str) -> AsyncIterator[DeadEvent]:
        """Yield the events that were given up on."""
        async for one in self._client.pages(path_of("subscriptions", subscription_id, "dead")):
            yield cast("DeadEvent", one)

    async def retry_dead(self, subscription_id: str, event_ids: Sequence[str] | None = None) -> RetryAnswer:
        """Put events that were given up on back: these, or all of them."""
        body = {} if event_ids is None else {"event_ids": builtins.list(event_ids)}
        return cast("RetryAnswer", await self._do(subscription_id, "dead/retry", body))

    async def replay(self, subscription_id: str, **window: Any) -> ReplayAnswer:
        """Deliver a window once more, or move the live reader with `position` or `since` alone.

        The window's ends: `since` or `from_`, `until` or `to`. `dry_run=True` only counts.
        """
        if "from_" in window:
            window["from"] = window.pop("from_")
        return cast("ReplayAnswer", await self._do(subscription_id, "replay", window))

    async def replays(self, subscription_id: str) -> AsyncIterator[Replay]:
        async for one in self._client.pages(path_of("subscriptions", subscription_id, "replays")):
            yield cast("Replay", one)

    async def show_replay(self, subscription_id: str, replay_id: str) -> Replay:
        request = get(path_of("subscriptions", subscription_id, "replays", replay_id))
        return cast("Replay", await self._client.ask(request))

    async def stop_replay(self, subscription_id: str, replay_id: str) -> Replay:
        return cast("Replay", await self._do(subscription_id, f"replays/{replay_id}/stop", repeatable=True))

    async def _do(self, subscription_id: str, verb: str, body: Any = None, *, repeatable: bool = False) -> Any:
        path = path_of("subscriptions", subscription_id, *verb.split("/"))
        return await self._client.ask(post(path, body, repeatable=repeatable))
