"""What happens in a pretend company, as the events that Aircall sends: one event, or a whole phone call."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aircall_oauth.sandbox.aircall import samples
from aircall_oauth.sandbox.aircall.companies import Company

CALL_STAGES = ("call.created", "call.ringing_on_agent", "call.answered", "call.hungup", "call.ended")
CALL_LASTS_SECONDS = 150  # from call.created to call.ended, in the samples

_CALL = samples.read("event.call.created")["data"]
_UNINSTALL = samples.read("event.integration.deleted")["data"]


@dataclass(frozen=True)
class Event:
    resource: str
    name: str
    timestamp: int
    data: Any

    def body(self, token: str) -> bytes:
        """Return the request body, written as `JSON.stringify` writes it."""
        envelope = {
            "resource": self.resource,
            "event": self.name,
            "timestamp": self.timestamp,
            "token": token,
            "data": self.data,
        }
        text = json.dumps(envelope, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def happening(name: str, company: Company, base_url: str, now: float) -> Event:
    """Build an event as if it happened now, with ids that no earlier one had."""
    sample = samples.event(name)
    shift = int(now) - _seconds(sample["timestamp"])
    swaps = _swaps(company, base_url, samples.fresh_id()) | _fresh_main_id(sample["data"])
    return _event(sample, swaps, shift)


def phone_call(company: Company, base_url: str, now: float, call_id: int) -> Iterator[Event]:
    """Yield the events of one call that ends now, stage by stage."""
    shift = int(now) - samples.MOMENT - CALL_LASTS_SECONDS
    for name in CALL_STAGES:
        yield _event(samples.event(name), _swaps(company, base_url, call_id), shift)


def call_in_rest(data: dict[str, Any]) -> dict[str, Any]:
    """Return an event's call as the REST API shows it: there two fields have other names."""
    call = dict(data)
    call["sid"] = call.pop("call_uuid")
    call["conference_participants"] = call.pop("participants")
    call["number"] = {key: value for key, value in call["number"].items() if key != "e164_digits"}
    return call


def past_calls(company: Company, base_url: str, starts: Iterable[float]) -> list[dict[str, Any]]:
    """Return ended calls as the REST API shows them, one for each start (UNIX seconds)."""
    *_, ended = phone_call(company, base_url, 0, samples.fresh_id())
    shown, moments = call_in_rest(ended.data), ("started_at", "answered_at", "ended_at")
    began = shown["started_at"]
    return [
        shown | {"id": samples.fresh_id()} | {name: int(start) + shown[name] - began for name in moments}
        for start in starts
    ]


def call_ended(call: dict[str, Any]) -> Event:
    """Build the `call.ended` event of a call of the REST API, timed half a minute after the call's end."""
    data = dict(call)
    data["call_uuid"] = data.pop("sid")
    data["participants"] = data.pop("conference_participants")
    return Event("call", "call.ended", call["ended_at"] + 30, data)


def is_linked(event: Event, company: Company) -> bool:
    """Whether an event is sent: events of calls only for numbers that the admin linked to the integration."""
    number = event.data.get("number") if event.resource == "call" and isinstance(event.data, dict) else None
    number_id = number.get("id") if isinstance(number, dict) else None
    return number_id not in company.numbers or number_id in company.integration.number_ids


def _event(sample: dict[str, Any], swaps: dict[str, str], shift: int) -> Event:
    fresh = samples.renewed(sample, swaps, shift)
    return Event(sample["resource"], sample["event"], fresh["timestamp"], fresh["data"])


def _swaps(company: Company, base_url: str, call_id: int) -> dict[str, str]:
    return {
        samples.VENDOR_URL: base_url,
        str(_CALL["id"]): str(call_id),
        _CALL["call_uuid"]: f"CA{call_id:032d}",
        str(_CALL["number"]["id"]): str(company.busy_number),
        str(_UNINSTALL["company_id"]): str(company.id),
        str(_UNINSTALL["integration_id"]): str(company.integration.id),
    }


def _fresh_main_id(data: dict[str, Any]) -> dict[str, str]:
    old = data.get("id") or data.get("exportID")
    return {} if old in (None, _CALL["id"]) else {str(old): samples.fresh_like(old)}


def _seconds(timestamp: int) -> int:
    return timestamp // 1000 if timestamp > 10**12 else timestamp
