"""The webhooks registered in Aircall's accounts, with the rules that partners often get wrong.

An integration sees only its own webhooks, but the limit of 100 is for all webhooks of a company. Here each company has
one integration, ours, so both are the same webhooks.
"""

import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from aircall_oauth.sandbox.aircall import refusals
from aircall_oauth.sandbox.aircall.samples import EVENT_NAMES

LIMIT_PER_COMPANY = 100
RETRIED_WHILE_DISABLED_SECONDS = 12 * 3600
LOCALHOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass
class Webhook:
    webhook_id: str
    number: int  # the older, numeric id; paths still accept it
    company_id: int
    created_at: float
    url: str
    events: list[str]
    token: str = field(repr=False)
    custom_name: str = "Webhook"
    active: bool = True
    failures_in_a_row: int = 0
    disabled_at: float | None = None  # when Aircall switched it off after failures; None if it did not
    deleted: bool = False

    def wants(self, name: str) -> bool:
        """Return whether this webhook gets an event. One with an unknown name goes to webhooks that have all events."""
        return name in self.events or (name not in EVENT_NAMES and set(EVENT_NAMES) <= set(self.events))

    def is_retried(self, now: float) -> bool:
        """Return whether a failed event is sent again: while the webhook is on, and for 12 h after Aircall disabled it.

        Not once the webhook is deleted, or was switched off by the API.
        """
        if self.active or self.disabled_at is None:
            return self.active and not self.deleted
        return not self.deleted and now - self.disabled_at <= RETRIED_WHILE_DISABLED_SECONDS

    def note_success(self) -> None:
        """Reset the count of failures, and switch the webhook on again if failures had switched it off."""
        self.failures_in_a_row = 0
        self.active = self.active or self.disabled_at is not None
        self.disabled_at = None

    def note_failure(self, now: float, disable_after: int) -> None:
        """Count a failure, and switch the webhook off after `disable_after` of them in a row."""
        self.failures_in_a_row += 1
        if self.active and self.failures_in_a_row >= disable_after:
            self.active, self.disabled_at = False, now

    def switch(self, *, active: bool) -> None:
        """Switch the webhook on or off as the API asks, and reset the count of failures."""
        self.active, self.disabled_at, self.failures_in_a_row = active, None, 0

    def view(self, base_url: str) -> dict[str, Any]:
        """Return the webhook as Aircall's API shows it."""
        created_at = datetime.fromtimestamp(self.created_at, UTC).isoformat(timespec="milliseconds")
        return {
            "webhook_id": self.webhook_id,
            "direct_link": f"{base_url}/v1/webhooks/{self.number}",
            "created_at": created_at.replace("+00:00", "Z"),
            "custom_name": self.custom_name,
            "url": self.url,
            "active": self.active,
            "events": self.events,
            "token": self.token,
        }


class Webhooks:
    """Every webhook of every company."""

    def __init__(self) -> None:
        self.all: list[Webhook] = []

    def of(self, company_id: int) -> list[Webhook]:
        """Return the webhooks of a company, oldest first."""
        return [webhook for webhook in self.all if webhook.company_id == company_id]

    def create(self, company_id: int, request: Mapping[str, Any], now: float) -> Webhook:
        """Register a webhook; raises `RefusedError`. A second one with the same URL is allowed: events come twice."""
        url, events = _url(request), _events(request) or list(EVENT_NAMES)
        if len(self.of(company_id)) >= LIMIT_PER_COMPANY:
            raise refusals.bad_request("Webhook limit reached")
        number = max((webhook.number for webhook in self.all), default=26315) + 1
        webhook = Webhook(str(uuid.uuid4()), number, company_id, now, url, events, _new_token())
        webhook.custom_name = _text(request, "custom_name", webhook.custom_name)
        self.all.append(webhook)
        return webhook

    def get(self, company_id: int, wanted: str) -> Webhook:
        """Return a company's webhook by its id or its older, numeric id; raises `RefusedError`."""
        for webhook in self.of(company_id):
            if wanted in (webhook.webhook_id, str(webhook.number)):
                return webhook
        raise refusals.no_such_thing("Webhook")

    def update(self, company_id: int, wanted: str, request: Mapping[str, Any], action: str | None) -> Webhook:
        """Change a webhook; raises `RefusedError`. `action` is the request's `events_action`.

        A request without `events` and without an action subscribes the webhook to all events again.
        """
        webhook = self.get(company_id, wanted)
        events = _changed_events(webhook.events, _events(request), action)
        active = request.get("active", webhook.active)
        if not isinstance(active, bool):
            raise refusals.bad_request("active must be a boolean")
        webhook.url = _url(request) if "url" in request else webhook.url
        webhook.custom_name = _text(request, "custom_name", webhook.custom_name)
        webhook.events = events
        if "active" in request:
            webhook.switch(active=active)
        return webhook

    def delete(self, company_id: int, wanted: str) -> None:
        webhook = self.get(company_id, wanted)
        webhook.deleted = True
        self.all.remove(webhook)

    def delete_company(self, company_id: int) -> None:
        for webhook in self.of(company_id):
            self.delete(company_id, webhook.webhook_id)


def _changed_events(current: list[str], given: list[str], action: str | None) -> list[str]:
    """Return a webhook's new events: all of them if neither events nor an action are given."""
    match action:
        case None:
            return given or list(EVENT_NAMES)
        case "add":
            return list(dict.fromkeys(current + given))
        case "remove":
            return [name for name in current if name not in given]
        case _:
            raise refusals.bad_request("events_action must be add or remove")


def _events(request: Mapping[str, Any]) -> list[str]:
    events = request.get("events") or []
    if not isinstance(events, list):
        raise refusals.bad_request("events must be an array")
    for name in events:
        if name not in EVENT_NAMES:
            raise refusals.bad_request("events contains an unknown event")
    return list(dict.fromkeys(events))


def _url(request: Mapping[str, Any]) -> str:
    url = _text(request, "url", "")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    local = parts.scheme == "http" and parts.hostname in LOCALHOSTS
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise refusals.bad_request("url must be a valid https URL")
    return url


def _text(request: Mapping[str, Any], name: str, default: str) -> str:
    value = request.get(name)
    if not isinstance(value, str | None):
        raise refusals.bad_request(f"{name} must be a string")
    return default if value is None else value


def _new_token() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(20))
