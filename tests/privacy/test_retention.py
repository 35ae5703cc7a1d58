"""Events are kept for as long as their type says; what is past it leaves a stub, or goes with its whole day."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.events import retention
from aircall_oauth.privacy import expiring
from aircall_oauth.storage import partitions
from tests.deliveries.test_replays import replay
from tests.support.receivers import answer_with, receiver, subscribe
from tests.support.service import Service, run_service, settings_for, until

LOOPBACK = {"ALLOWED_PRIVATE_RANGES": "127.0.0.0/8"}
SHORT = {"EVENT_TYPE_RETENTION": "transcription.*=7d, call.*=20d,call.ended=25d", **LOOPBACK}
DAY = timedelta(days=1)
OLD = """
    INSERT INTO event (received_at, id, installation_id, company_id, owner, type, resource, subject, source, data)
    SELECT $1::date + interval '12 hours', $2, 'ins_1', 1, $3, $4, 'call', 'call:1', 'aircall',
           json_build_object('n', $5::int, 'raw_digits', '+44')::text
    RETURNING position
"""


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    async with run_service(settings_for(database_url, **SHORT)) as it:
        yield it


async def of_a_day(service: Service, days_ago: int, *types: str, owner: str | None = None) -> list[int]:
    """Events that came in so many days ago; their positions. Days are to be made oldest first."""
    day = datetime.now(UTC).date() - days_ago * DAY
    bounds = f"FROM ('{day} 00:00+00') TO ('{day + DAY} 00:00+00')"
    await service.sql(f"CREATE TABLE IF NOT EXISTS event_{day:%Y%m%d} PARTITION OF event FOR VALUES {bounds}")
    named = [(f"evt_{days_ago}_{owner}_{type_}", owner, type_, n) for n, type_ in enumerate(types)]
    return [(await service.sql(OLD, day, *each))[0]["position"] for each in named]


async def is_now(service: Service) -> None:
    """What came last is of today: the log's age is counted from it."""
    await service.install()


async def days(service: Service) -> list[int]:
    """How many days ago those that are left were, but for those to come."""
    names = [row["relname"] for row in await service.sql(partitions.PRESENT)]
    ago = [(datetime.now(UTC).date() - datetime.strptime(name, "event_%Y%m%d").date()).days for name in names]  # noqa: DTZ007
    return [each for each in ago if each > 0]


async def kept(service: Service) -> list[tuple[str, bool]]:
    """Each old event's id, and whether its data are left."""
    rows = await service.sql("SELECT id, data, erased_at FROM event WHERE source = 'aircall' ORDER BY position")
    assert all((row["data"] == "null") == (row["erased_at"] is not None) for row in rows)
    return [(row["id"].removeprefix("evt_"), row["erased_at"] is None) for row in rows]


async def test_each_type_is_kept_for_its_own_time(service: Service) -> None:
    every = ("transcription.created", "call.created", "call.ended", "user.created")
    for days_ago in (27, 22, 9, 6):
        await of_a_day(service, days_ago, *every)
    await is_now(service)

    await expiring.expire(service.resources)

    assert await kept(service) == [
        *((f"27_None_{type_}", type_ == "user.created") for type_ in every),
        *((f"22_None_{type_}", type_ in {"call.ended", "user.created"}) for type_ in every),
        *((f"9_None_{type_}", type_ != "transcription.created") for type_ in every),
        *((f"6_None_{type_}", True) for type_ in every),
    ]
    assert await days(service) == [27, 22, 9, 6]


async def test_a_day_counts_from_its_end(service: Service) -> None:
    for days_ago in (8, 7):
        await of_a_day(service, days_ago, "transcription.created", "user.created")
    await is_now(service)

    await expiring.expire(service.resources)

    assert [left for _, left in await kept(service)] == [False, True, True, True]


async def test_days_in_which_nothing_is_kept_go_in_one_stroke_and_in_order(service: Service) -> None:
    for days_ago, *types in (
        (29, "call.created"),
        (28, "call.created", "transcription.created"),
        (26, "user.created", "call.created"),
        (25, "call.created"),
    ):
        await of_a_day(service, days_ago, *types)
    await is_now(service)

    await expiring.expire(service.resources)
    untouched = await kept(service)
    for _ in range(4):
        await retention.drop_days(service.resources)

    # The first two are left to be dropped; the last may not go before the one that is kept.
    assert untouched == [
        ("29_None_call.created", True),
        ("28_None_call.created", True),
        ("28_None_transcription.created", True),
        ("26_None_user.created", True),
        ("26_None_call.created", False),
        ("25_None_call.created", False),
    ]
    assert await days(service) == [26, 25]


async def test_without_a_rule_nothing_goes_before_its_day(database_url: str) -> None:
    async with run_service(settings_for(database_url)) as service:
        await of_a_day(service, 29, "transcription.created")
        await is_now(service)

        await expiring.expire(service.resources)
        await retention.drop_days(service.resources)

        assert await kept(service) == [("29_None_transcription.created", True)]


async def test_a_day_written_under_a_wrong_clock_is_left_alone(service: Service) -> None:
    await is_now(service)
    await of_a_day(service, 9, "transcription.created", "user.created")

    await expiring.expire(service.resources)
    await retention.drop_days(service.resources)

    assert [left for _, left in await kept(service)] == [True, True]


async def test_more_than_a_batch_and_the_rest_after_a_worker_was_killed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "BATCH", 7)
    await of_a_day(service, 9, "user.created", *(f"transcription.n{n}" for n in range(40)))
    await is_now(service)
    monkeypatch.setattr(expiring, "RUN_SECONDS", 0.0)
    await expiring.expire(service.resources)
    assert all(left for _, left in await kept(service))
    monkeypatch.setattr(expiring, "RUN_SECONDS", 20.0)

    await expiring.expire(service.resources)
    await expiring.expire(service.resources)

    assert [left for _, left in await kept(service)] == [True, *[False] * 40]


async def test_readers_go_on_over_what_has_expired(service: Service) -> None:
    transcribed, called = await of_a_day(service, 9, "transcription.created", "call.created")
    await is_now(service)
    partner = await service.partner()
    before = (await partner.get("/v1/events")).json()

    await expiring.expire(service.resources)

    after = (await partner.get("/v1/events")).json()
    assert [e["position"] for e in after["events"]] == [e["position"] for e in before["events"]]
    assert (after["next"], after["epoch"]) == (before["next"], before["epoch"])
    stub = after["events"][0]
    assert (stub["position"], stub["data"], stub["subject"], stub["erased"]) == (transcribed, None, None, True)
    page = await partner.get("/v1/events", params={"after": transcribed, "limit": 1})
    assert [e["position"] for e in page.json()["events"]] == [called]
    back = (await partner.get("/v1/events", params={"order": "desc"})).json()["events"]
    assert [e["position"] for e in back] == [e["position"] for e in reversed(after["events"])]
    by_subject = (await partner.get("/v1/events", params={"subject": "call:1"})).json()["events"]
    assert [e["position"] for e in by_subject] == [called]


async def test_a_reader_before_a_dropped_day_is_told_so_as_ever(service: Service) -> None:
    (first, last) = await of_a_day(service, 29, "call.created", "call.answered")
    (kept_one,) = await of_a_day(service, 5, "call.created")
    await is_now(service)
    partner = await service.partner()

    await retention.drop_days(service.resources)

    refused = await partner.get("/v1/events", params={"after": first})
    assert (refused.status_code, refused.json()["detail"].rpartition(" ")[2]) == (410, f"{last}.")
    assert (await partner.get("/v1/events", params={"after": last})).json()["events"][0]["position"] == kept_one


async def test_subscriptions_and_replays_leave_out_what_has_expired(service: Service) -> None:
    *_, last = await of_a_day(service, 9, "transcription.created", "call.created", "transcription.updated")
    await is_now(service)
    await expiring.expire(service.resources)

    async with receiver() as to, reading(service.resources):
        partner = await subscribe(service, to.url, types=["call.*", "transcription.*"], **{"from": "beginning"})
        await until(lambda: to.numbers == [1])
        await partner.stands(parked=0, lag=0)
        counted = await replay(partner, **{"from": 1, "to": last, "dry_run": True, "everything": True})

    assert counted.json()["events"] == 1


async def test_what_is_parked_goes_too_and_what_waited_behind_it_is_delivered(service: Service) -> None:
    await of_a_day(service, 9, "transcription.created", "call.created")
    await is_now(service)

    async with receiver() as to, reading(service.resources):
        to.answers[0] = answer_with(500)
        partner = await subscribe(service, to.url, types=["call.*", "transcription.*"], **{"from": "beginning"})
        await partner.stands(parked=2)
        assert to.numbers == []

        await expiring.expire(service.resources)

        await until(lambda: to.numbers == [1])
        await partner.stands(parked=0, lag=0)


async def test_a_repeat_of_what_has_expired_or_gone_with_its_day_is_recognised(service: Service) -> None:
    await of_a_day(service, 10)
    await service.install()
    bodies = [
        json.dumps(
            {
                "resource": "x",
                "event": type_,
                "token": service.webhook_token(),
                "timestamp": 1767261600,
                "data": {"id": n},
            }
        ).encode()
        for n, type_ in enumerate(("transcription.created", "user.created"))
    ]
    for body in bodies:
        assert (await service.post_event(body)).status_code == 200
    nine = datetime.now(UTC).date() - 9 * DAY
    await of_a_day(service, 9)
    await service.sql("UPDATE event SET received_at = $1::date + interval '12 hours' WHERE source = 'aircall'", nine)
    await service.sql("UPDATE event SET position = nextval('event_position') WHERE source = 'service'")
    await expiring.expire(service.resources)
    assert [left for _, left in await kept(service)] == [False, True]

    for body in bodies:
        assert (await service.post_event(body)).status_code == 200

    assert len(await kept(service)) == 2


async def test_of_an_encrypted_event_that_expires_nothing_stays_but_the_stub(database_url: str) -> None:
    async with run_service(settings_for(database_url, ENCRYPT_EVENTS="true", **SHORT)) as service:
        await of_a_day(service, 9, "user.created")
        await service.install()
        told = {"event": "transcription.created", "token": service.webhook_token(), "data": {"id": 1, "text": "Hello"}}
        assert (await service.post_event(json.dumps(told).encode())).status_code == 200
        assert await service.sql("SELECT 1 FROM event WHERE sealed IS NOT NULL") != []
        nine = datetime.now(UTC).date() - 9 * DAY
        await service.sql(
            "UPDATE event SET received_at = $1::date + interval '13 hours' WHERE sealed IS NOT NULL", nine
        )
        await service.sql("UPDATE event SET position = nextval('event_position') WHERE source = 'service'")

        await expiring.expire(service.resources)

        (stub,) = await service.sql("SELECT data, sealed, data_key FROM event WHERE type = 'transcription.created'")
        assert tuple(stub) == ("null", None, None)
        page = (await (await service.partner()).get("/v1/events", params={"type": "transcription.*"})).json()
        assert [(event["erased"], event["data"]) for event in page["events"]] == [(True, None)]


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ("transcription.*", "entry 1 must look like transcription"),
        ("call.*=30d,=7d", "entry 2 must look like transcription"),
        ("call.*=7", "entry 1 must look like 30d"),
        ("call.*=0d", "entry 1 must look like 30d"),
        ("call.**=7d", "entry 1 must look like transcription"),
        ("call.ended=7d,call.ended=7d", "entry 2 names a type that another"),
        ("call.*=31d", "entry 1 is longer than AIRCALL_OAUTH_EVENT_RETENTION"),
    ],
)
def test_wrong_rules_are_refused_at_start(rules: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings_for("postgresql://db/x", EVENT_TYPE_RETENTION=rules)
