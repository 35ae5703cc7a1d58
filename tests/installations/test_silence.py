"""Silence: an installation that used to send events is flagged, but not at night and not for an outage of ours."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aircall_oauth.installations.outages import heartbeat, silence
from aircall_oauth.operations import measure
from tests.support.service import Service

HOUR = timedelta(hours=1)
WEEK = timedelta(weeks=1)
REMEMBER = """
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, source, data)
    SELECT nextval('event_position'), at, 'evt_' || at, $1, 70077, 'call.created', $3, '{}'
    FROM unnest($2::timestamptz[]) AS at ORDER BY at
"""
# The log of a month: one table for all of it, where there are days otherwise.
PAST = "CREATE TABLE event_past PARTITION OF event FOR VALUES FROM ('2000-01-01') TO ('{today} 00:00+00')"


def this_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def every_hour_before(last: datetime, weeks: int = 4) -> list[datetime]:
    return [last - number * HOUR for number in range(weeks * 7 * 24)]


async def spoke(service: Service, installation_id: str, at: list[datetime], source: str = "aircall") -> None:
    """The log says so, and it is learnt."""
    if not await service.sql("SELECT 1 FROM pg_class WHERE relname = 'event_past'"):
        await service.sql(PAST.format(today=datetime.now(UTC).date()))
    await service.sql(REMEMBER, installation_id, at, source)
    await silence.learn_rhythms(service.resources)


async def shown(service: Service, installation_id: str) -> dict[str, Any]:
    async with await service.partner() as partner:
        answer = await partner.get(f"/v1/installations/{installation_id}")
    installation: dict[str, Any] = answer.json()
    return installation


async def counted(service: Service) -> int:
    """Return how many installations are silent, as the metrics say."""
    await measure.measure(service.resources)
    value = service.resources.metrics.registry.get_sample_value("aircall_oauth_silent_installations")
    assert value is not None
    return int(value)


async def is_silent(service: Service, installation_id: str) -> bool:
    flagged = "silent_since" in await shown(service, installation_id)
    assert await counted(service) == int(flagged)
    return flagged


async def test_who_spoke_every_hour_and_stopped_four_hours_ago_is_silent(service: Service) -> None:
    installation_id = await service.installed()
    last = this_hour() - 4 * HOUR
    await spoke(service, installation_id, every_hour_before(last))

    installation = await shown(service, installation_id)

    assert datetime.fromisoformat(installation["silent_since"]) == last + HOUR
    assert await counted(service) == 1


async def test_three_usual_hours_must_be_over(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 3 * HOUR))

    assert not await is_silent(service, installation_id)


async def test_silence_ends_with_the_next_event(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 10 * HOUR))
    was_silent = await is_silent(service, installation_id)

    await service.aircall.send_event("call.created")
    await service.aircall.settle()
    await silence.learn_rhythms(service.resources)

    assert was_silent
    assert not await is_silent(service, installation_id)


@pytest.mark.parametrize("quiet", [timedelta(hours=14), timedelta(days=2, hours=14)], ids=["night", "weekend"])
async def test_a_usual_pause_is_nobodys_silence(service: Service, quiet: timedelta) -> None:
    """There were no calls at these hours in each of the weeks before, either."""
    installation_id = await service.installed()
    last = this_hour() - quiet
    usual = [hour for hour in every_hour_before(last) if not any(_in_pause(hour, last, quiet, n) for n in (1, 2, 3, 4))]
    await spoke(service, installation_id, usual)

    assert not await is_silent(service, installation_id)


def _in_pause(hour: datetime, last: datetime, quiet: timedelta, weeks: int) -> bool:
    return last - weeks * WEEK < hour <= last - weeks * WEEK + quiet


async def test_who_was_never_heard_for_three_weeks_has_no_rhythm_yet(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 48 * HOUR, weeks=2))

    assert not await is_silent(service, installation_id)


async def test_what_was_back_filled_was_not_spoken(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 5 * HOUR))
    await spoke(service, installation_id, [this_hour() - 2 * HOUR], source="backfill")

    assert await is_silent(service, installation_id)


async def test_who_is_silent_for_weeks_stays_flagged(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 3 * WEEK))

    assert await is_silent(service, installation_id)


async def test_the_rhythm_is_learnt_in_parts_as_well_as_at_once(service: Service) -> None:
    installation_id = await service.installed()
    hours = sorted(every_hour_before(this_hour() - 5 * HOUR, weeks=5))
    for part in (hours[:100], hours[100:101], hours[101:700], hours[700:]):
        await spoke(service, installation_id, part)
    in_parts = await service.sql("SELECT hour, spoke, silent_at FROM rhythm")

    await service.sql("DELETE FROM rhythm")
    await service.sql("DELETE FROM log_reader")
    await silence.learn_rhythms(service.resources)

    assert in_parts == await service.sql("SELECT hour, spoke, silent_at FROM rhythm")
    assert set(in_parts[0]["spoke"].as_string().replace(" ", "")) == {"1"}


async def test_our_own_outage_is_nobodys_silence(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 12 * HOUR))
    await service.sql("UPDATE rhythm SET silent_at = now() + interval '1 minute'")
    await service.sql("UPDATE pulse SET at = now() - interval '11 hours'")

    await heartbeat.beat(service.resources)

    assert not await is_silent(service, installation_id)
    # What the log told before the outage may be learnt only after it.
    await service.sql("DELETE FROM rhythm")
    await service.sql("DELETE FROM log_reader")
    await silence.learn_rhythms(service.resources)
    assert not await is_silent(service, installation_id)


async def test_only_active_installations_are_flagged(service: Service) -> None:
    installation_id = await service.installed()
    await spoke(service, installation_id, every_hour_before(this_hour() - 9 * HOUR))

    await service.sql("UPDATE installation SET status = 'unauthorized'")

    assert not await is_silent(service, installation_id)
