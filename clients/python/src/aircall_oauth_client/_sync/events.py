"""The log of events: read, followed, searched."""

from __future__ import annotations

import json
from collections.abc import Iterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from aircall_oauth_client import errors
from aircall_oauth_client._sync.waiting import sleep
from aircall_oauth_client.models import Event, EventPage, EventWithDeliveries, TestResult
from aircall_oauth_client.requests import Request, get, known, path_of, pause_before_again

if TYPE_CHECKING:
    from aircall_oauth_client._sync.client import Client

WAIT_SECONDS = 25


class Events:
    def __init__(self, client: Client) -> None:
        self._client = client

    def page(self, after: int = 0, **filters: Any) -> EventPage:
        """Read one page of the log. Filters: `type`, `owner`, `installation_id`, `limit`, `wait`, `order` and so on."""
        return cast("EventPage", self._client.ask(get("/v1/events", after=after or None, **filters)))

    def follow(
        self,
        after: int = 0,
        *,
        epoch: str | None = None,
        save: Callable[[int, str], Any] | None = None,
        type: str | Sequence[str] | None = None,  # noqa: A002 - the service's name for it
        installation_id: str | None = None,
        owner: str | None = None,
        limit: int = 100,
    ) -> Iterator[Event]:
        """Yield every event past a position, for ever: nothing is skipped, and a connection that drops is resumed.

        `save(position, epoch)` is called when you ask for the event after the one it belongs to, and on the way past
        events that you filtered out. Keep both and begin with them: after a crash only events that were not finished
        come again. Raises `PositionGone` if the position is older than what is kept, and `PositionUnknown` if the log
        was restored; an outage of the service is waited for, however long.
        """
        filters = known({"type": type, "installation_id": installation_id, "owner": owner, "limit": limit})
        failures = 0
        while True:
            request = get("/v1/events", after=after or None, epoch=epoch, wait=WAIT_SECONDS, **filters)
            try:
                page = cast("EventPage", self._client.ask(request))
            except errors.ClientError as error:
                pause = pause_before_again(request, error, failures)
                if pause is None:
                    raise
                failures = min(failures + 1, 10)
                sleep(pause)
                continue
            failures, epoch, saved = 0, page["epoch"], after
            for event in page["events"]:
                yield event
                saved = event["position"]
                _told(save, saved, epoch)
            after = page["next"]
            if after != saved:
                _told(save, after, epoch)

    def stream(self, after: int = 0, **filters: Any) -> Iterator[Event]:
        """Yield events as the service pushes them, until the connection ends. `follow` goes on by itself."""
        with self._client.open(get("/v1/events/stream", after=after or None, **filters)) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield cast("Event", json.loads(line[5:]))

    def search(self, **filters: Any) -> Iterator[Event]:
        """Yield events, newest first. Filters: `type`, `owner`, `installation_id`, `since`, `until`, `occurred_since`,
        `occurred_until`, `subject`, `call_id`.
        """
        before = filters.pop("before", None)
        while True:
            page = cast("EventPage", self._client.ask(get("/v1/events", order="desc", before=before, **filters)))
            for event in page["events"]:
                yield event
            before = page["next"]
            if not page["more"]:
                return

    def get(self, event_id: str) -> EventWithDeliveries:
        """Read one event, and what became of it for each subscription."""
        return cast("EventWithDeliveries", self._client.ask(get(path_of("events", event_id))))

    def resend(self, event_id: str, subscription_id: str) -> TestResult:
        """Send one event to one subscription right now."""
        request = Request("POST", path_of("events", event_id, "resend"), body={"subscription_id": subscription_id})
        return cast("TestResult", self._client.ask(request))


def _told(save: Callable[[int, str], Any] | None, position: int, epoch: str) -> None:
    if save is not None:
        save(position, epoch)
