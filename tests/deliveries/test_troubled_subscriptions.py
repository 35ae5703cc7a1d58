"""A destination that is down and a filter that matches nothing are reported in the log and by `doctor`."""

from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from aircall_oauth.deliveries import troubled
from aircall_oauth.deliveries.reader import breaker
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.operations import doctor
from tests.support.receivers import LOOPBACK, answer_with, fill, receiver, subscribe
from tests.support.service import Service, run_service, settings_for


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


async def told_by_doctor(service: Service) -> list[str]:
    found = [finding async for finding in doctor.subscription_findings(service.resources)]
    assert all(finding.advice for finding in found)
    return [f"{finding.check}: {finding.seen}" for finding in found]


async def test_a_destination_that_is_down_is_said_once_and_once_when_it_is_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.2)
    await service.install()
    with capture_logs() as lines:
        async with receiver() as to, reading(service.resources):
            to.answer = answer_with(503)
            partner = await subscribe(service, f"{to.url}?key=s3cret")
            await fill(service, 30)
            await partner.stands(health="down")
            down = await told_by_doctor(service)
            to.answer = answer_with(200)
            await partner.stands(health="up", lag=0)
    up = await told_by_doctor(service)

    said = [line for line in lines if line["event"].startswith("destination")]
    assert [(line["event"], line["subscription_id"], line.get("reason")) for line in said] == [
        ("destination down", partner.id, "http_503"),
        ("destination up again", partner.id, None),
    ]
    assert (down, up) == ([f"destination: {partner.id} is down (http_503)"], [])
    assert "s3cret" not in str(said)


async def test_a_destination_that_wants_no_more_is_said(service: Service) -> None:
    await service.installed()
    with capture_logs() as lines:
        async with receiver() as to, reading(service.resources):
            to.answer = answer_with(410)
            partner = await subscribe(service, to.url)
            await fill(service, 1)
            await partner.stands(status="disabled")

    (said,) = [line for line in lines if line["event"] == "destination wants no more"]
    assert (said["subscription_id"], said["reason"]) == (partner.id, "http_410")
    assert await told_by_doctor(service) == [f"destination: {partner.id} is disabled (http_410)"]


async def test_a_filter_that_matches_nothing_is_said(service: Service) -> None:
    await service.installed()
    async with receiver() as to, reading(service.resources):
        idle = await subscribe(service, to.url, types=["callz.*"])
        new = await subscribe(service, to.url, types=["callz.*"])
        everything = await subscribe(service, to.url)
        matching = await subscribe(service, to.url, types=["call.*"])
        paused = await subscribe(service, to.url, types=["callz.*"])
        await paused.post("pause")
        await fill(service, 3)
        (head,) = await service.sql("SELECT max(position) AS position FROM event")
        for partner in (idle, new, everything, matching):
            await partner.stands(position=head["position"])
        await service.sql("UPDATE event SET received_at = received_at - interval '2 minutes'")
        await service.sql(
            "UPDATE subscription SET created_at = now() - interval '2 days' WHERE id <> $1",
            new.id,
        )
        found = await told_by_doctor(service)
        with capture_logs() as lines:
            await troubled.tell_of_idle_filters(service.resources)

    assert found == [f"filter: {idle.id} matched no event for a day, and there were some"]
    assert [(line["event"], line["subscription_id"]) for line in lines] == [
        ("filter matched no event for a day", idle.id)
    ]


async def test_nothing_is_said_of_a_filter_while_the_log_had_no_events(service: Service) -> None:
    partner = await subscribe(service, "https://example.com/hook", types=["callz.*"])
    await service.sql("UPDATE subscription SET created_at = now() - interval '2 days'")

    assert await told_by_doctor(service) == []
    assert partner.id
