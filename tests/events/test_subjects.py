"""What an event is about: found by the id of a call, a user, a contact, whatever Aircall writes around it."""

from typing import Any

import pytest

from aircall_oauth.aircall.payloads import BIGINT
from tests.support.service import Service


async def tell(service: Service, *events: tuple[str, str, str]) -> None:
    """Send events: type, resource and data as they stand in the body."""
    for number, (type_, resource, data) in enumerate(events):
        body = (
            f'{{"resource": {resource}, "event": "{type_}", "timestamp": {1767261600 + number}, '
            f'"token": "{service.webhook_token()}", "data": {data}}}'
        )
        assert (await service.post_event(body.encode())).status_code == 200


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_events_are_found_by_what_they_are_about(service: Service, order: str) -> None:
    installation_id = await service.installed()
    await tell(
        service,
        ("call.created", '"call"', '{"id": 123, "user": {"id": 7}}'),
        ("user.opened", '"user"', '{"id": 123}'),
        ("call.ended", '"call"', '{"note": "half an emoji: \\ud83d", "id": 123}'),
        ("call.created", '"call"', f'{{"id": {BIGINT}}}'),
        ("call.created", '"call"', f'{{"id": {BIGINT - 1}}}'),
        ("message.sent", '"message"', '{"id": "0199aaf0-8f7e"}'),
    )
    partner = await service.partner()

    async def found(**params: Any) -> list[int]:
        answer = await partner.get("/v1/events", params={"order": order, **params})
        assert answer.status_code == 200, answer.text
        return sorted(event["position"] for event in answer.json()["events"])

    assert await found(call_id=123) == await found(subject="call:123") == [2, 4]
    assert await found(call_id=123, type="call.ended") == [4]
    assert await found(subject="user:123") == [3]
    assert await found(call_id=BIGINT) == [5]
    assert await found(subject="message:0199aaf0-8f7e") == [7]
    assert await found(subject=f"installation:{installation_id}") == [1]
    assert await found(call_id=7) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resource", "data"),
    [
        ("null", '{"id": 1}'),
        ('"call"', '{"id": null}'),
        ('"call"', '{"id": 1.5}'),
        ('"call"', '{"id": true}'),
        ('"call"', '{"id": -1}'),
        ('"call"', f'{{"id": {BIGINT + 1}}}'),
        ('"call"', f'{{"id": {"9" * 5000}}}'),
        ('"call"', '{"id": "a b"}'),
        ('"call"', f'{{"id": "{"x" * 65}"}}'),
        ('"call"', '{"id": {"id": 1}}'),
        ('"call"', '["id", 1]'),
        ('"call"', '"id"'),
    ],
)
async def test_an_event_without_a_plain_id_is_kept_and_about_nothing(
    shared_service: Service, resource: str, data: str
) -> None:
    await shared_service.install()
    (before,) = await shared_service.sql("SELECT max(position) AS position FROM event")

    await tell(shared_service, ("call.ended", resource, data))

    found = "SELECT subject FROM event WHERE type = 'call.ended' AND position > $1"
    (event,) = await shared_service.sql(found, before["position"])
    assert event["subject"] is None


@pytest.mark.parametrize("params", [{"subject": "call"}, {"subject": "call:1", "call_id": 1}, {"call_id": -1}])
async def test_a_subject_is_a_kind_and_an_id_and_given_once(shared_service: Service, params: dict[str, Any]) -> None:
    refused = await (await shared_service.partner()).get("/v1/events", params=params)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
