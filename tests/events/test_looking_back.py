"""Looking into the log: newest first, by time, and by what goes together."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aircall_oauth.events import newest
from tests.events.test_feed import NAMES, tell, types
from tests.support.service import Service


async def pages(partner: httpx.AsyncClient, **params: Any) -> list[Any]:
    """Every page, newest first."""
    found, before = list[Any](), dict[str, int]()
    while not found or found[-1]["more"]:
        answer = await partner.get("/v1/events", params={"order": "desc", **params, **before})
        assert answer.status_code == 200, answer.text
        found.append(answer.json())
        before = {"before": found[-1]["next"]}
    return found


def positions(found: list[Any]) -> list[list[int]]:
    return [[event["position"] for event in page["events"]] for page in found]


async def move(service: Service, position: int, days: int) -> None:
    """Let an event have been received some days ago, in the day's own part of the log."""
    day = (datetime.now(UTC) - timedelta(days=days)).date()
    await service.sql(
        f"CREATE TABLE IF NOT EXISTS event_{day:%Y%m%d} PARTITION OF event "
        f"FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
    )
    await service.sql(
        "UPDATE event SET received_at = received_at - $2::interval WHERE position = $1", position, timedelta(days=days)
    )


async def test_the_newest_events_come_first_page_after_page(service: Service) -> None:
    await service.installed()
    await tell(service, *NAMES)
    partner = await service.partner()

    found = await pages(partner, limit=2)
    beside = (await partner.get("/v1/events")).json()

    assert positions(found) == [[6, 5], [4, 3], [2, 1]]
    assert [event for page in found for event in page["events"]] == beside["events"][::-1]
    assert found[-1]["more"] is False
    assert positions(await pages(partner, before=3)) == [[2, 1]]
    assert positions(await pages(partner, before=1)) == [[]]


async def test_what_is_rare_is_found_far_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "WINDOW", 1)
    monkeypatch.setattr(newest, "LOOK_SECONDS", 0)
    await service.installed()
    await tell(service, "user.created", *(["call.created"] * 5))
    partner = await service.partner()

    found = await pages(partner, type="user.*")

    assert len(found) > 3
    assert [number for page in positions(found) for number in page] == [2]


async def test_a_page_of_large_events_newest_first_is_shorter(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest, "MOST_BYTES", 300_000)
    await service.installed()
    for timestamp, size in enumerate([400_000, 10, 200_000, 200_000, 10], start=1767261600):
        event = {"event": "user.x", "token": service.webhook_token(), "timestamp": timestamp, "data": "x" * size}
        assert (await service.post_event(json.dumps(event).encode())).status_code == 200

    found = await pages(await service.partner())

    assert positions(found) == [[6, 5, 4], [3, 2], [1]]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_events_are_found_by_when_they_were_received_and_when_they_happened(service: Service, order: str) -> None:
    await service.installed()
    await tell(service, *NAMES)
    for position, days in ((1, 4), (2, 3), (3, 2)):
        await move(service, position, days)
    partner = await service.partner()

    async def found(**params: Any) -> list[int]:
        answer = await partner.get("/v1/events", params={"order": order, **params})
        assert answer.status_code == 200, answer.text
        return sorted(event["position"] for event in answer.json()["events"])

    def ago(days: float) -> str:
        return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"

    assert await found(since=ago(2.5)) == [3, 4, 5, 6]
    assert await found(until=ago(2.5)) == [1, 2]
    assert await found(since=ago(3.5), until=ago(1.5)) == [2, 3]
    assert await found(since=ago(3.5), until=ago(1.5), type="call.ended") == [3]
    assert await found(since=ago(-1)) == []
    assert await found(until=ago(9)) == []
    assert await found(occurred_since="2026-01-01T10:00:01Z", occurred_until="2026-01-01T10:00:03Z") == [3, 4]


async def test_a_page_in_order_ends_where_its_span_ends(service: Service) -> None:
    await service.installed()
    await tell(service, *NAMES)
    for position in (1, 2, 3):
        await move(service, position, 2)
    partner = await service.partner()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()

    first = (await partner.get("/v1/events", params={"until": yesterday, "limit": 2})).json()
    rest = (await partner.get("/v1/events", params={"until": yesterday, "after": first["next"]})).json()
    behind = (await partner.get("/v1/events", params={"until": yesterday, "after": 5})).json()

    assert (first["next"], first["more"]) == (2, True)
    assert ([event["position"] for event in rest["events"]], rest["next"], rest["more"]) == ([3], 3, False)
    assert (behind["events"], behind["next"], behind["more"]) == ([], 5, False)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"order": "desc", "wait": 5}, "never waits"),
        ({"order": "desc", "after": 5}, "`before`"),
        ({"order": "desc", "epoch": "log_1"}, "`after`"),
        ({"before": 5}, "`order=desc`"),
        ({"wait": 1, "until": "2026-01-01T00:00:00Z"}, "nothing to wait for"),
        ({"order": "newest"}, "query.order"),
        ({"since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "before `until`"),
        ({"occurred_since": "2026-01-02T00:00:00Z", "occurred_until": "2026-01-01T00:00:00Z"}, "`occurred_until`"),
        ({"since": "1767261600"}, "written out"),
        ({"since": "0001-01-01T00:00:00+05:00"}, "years 1 to 9999"),
        ({"installation": "ins_" + "0" * 32, "installation_id": "ins_" + "0" * 32}, "old name"),
    ],
)
async def test_what_does_not_go_together_is_refused(shared_service: Service, params: dict[str, Any], said: str) -> None:
    partner = await shared_service.partner()

    refused = await partner.get("/v1/events", params=params)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert said in refused.json()["detail"]


async def test_a_filter_is_called_as_its_field_and_the_old_name_is_deprecated(service: Service) -> None:
    await service.installed()
    other = await service.install(service.aircall.companies[1])
    partner = await service.partner()
    document = (await partner.get("/openapi.json")).json()

    for name in ("installation_id", "installation"):
        page = await partner.get("/v1/events", params={name: other})
        assert [event["installation_id"] for event in page.json()["events"]] == [other]
    for door in ("/v1/events", "/v1/events/stream"):
        parameters = document["paths"][door]["get"]["parameters"]
        assert {"installation"} == {each["name"] for each in parameters if each.get("deprecated")}
    assert types(page) == ["installation.connected"]
