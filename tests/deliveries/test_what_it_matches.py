"""A subscription says what it matched, got and failed in a day, and warns of types that no event has."""

from collections.abc import AsyncIterator

import pytest

from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.operations import doctor
from aircall_oauth.operations.figures import Keeper
from tests.support.receivers import LOOPBACK, answer_with, fill, receiver, subscribe, subscription_body, tell
from tests.support.service import Service, command_environment, run_command, run_service, settings_for

URL = "https://example.com/hook"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine, with an installation."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        await running.installed()
        yield running


async def a_minute_passes(service: Service) -> None:
    keeper = Keeper(service.resources)
    keeper.take()
    await keeper.write()


async def warned(service: Service, *types: str, owner: str | None = None) -> list[tuple[str, str | None]]:
    """What is warned of where a subscription with these types is made, and where one is changed to them."""
    partner = await service.partner(owner=owner)
    made = await partner.post("/v1/subscriptions", json=subscription_body(URL, types=list(types)))
    assert made.status_code == 201, made.text
    other = await partner.post("/v1/subscriptions", json=subscription_body(URL))
    changed = await partner.patch(f"/v1/subscriptions/{other.json()['id']}", json={"types": list(types)})
    assert changed.status_code == 200, changed.text
    assert changed.json()["types"] == list(types), "it is no refusal"
    assert made.json()["warnings"] == changed.json()["warnings"]
    return [(one["type"], one["nearest"]) for one in made.json()["warnings"]]


async def test_it_shows_what_a_day_came_to(service: Service) -> None:
    async with receiver() as to, reading(service.resources):
        to.answers[1] = answer_with(500)
        partner = await subscribe(service, to.url, types=["call.created"])
        idle = await subscribe(service, to.url, types=["contact.*"])
        await tell(service, 4)
        await tell(service, 2, first=10, type_="call.ended")
        await partner.stands(parked=1, lag=0)
        await a_minute_passes(service)
        shown, nothing = await partner.shown(), await idle.shown()
        listed = (await partner.client.get("/v1/subscriptions")).json()["items"]

    names = ("matched_24h", "delivered_24h", "failed_24h")
    assert [shown[name] for name in names] == [4, 3, 1]
    assert [nothing[name] for name in (*names, "oldest_undelivered_seconds")] == [0, 0, 0, None]
    assert shown["oldest_undelivered_seconds"] in range(60), "the one that is parked"
    assert [[one[name] for name in names] for one in listed] == [[4, 3, 1], [0, 0, 0]]


async def test_the_oldest_undelivered_event_is_one_that_it_wants(service: Service) -> None:
    wanting = await subscribe(service, URL, types=["call.created"])
    other = await subscribe(service, URL, types=["contact.*"])
    await fill(service, 3)
    await service.sql("UPDATE event SET received_at = received_at - interval '100 seconds' WHERE type = 'call.created'")

    assert (await wanting.shown())["oldest_undelivered_seconds"] in range(100, 130)
    assert (await other.shown())["oldest_undelivered_seconds"] is None
    await service.sql("UPDATE subscription SET position = (SELECT max(position) FROM event)")
    assert (await wanting.shown())["oldest_undelivered_seconds"] is None


@pytest.mark.slow
async def test_the_command_line_shows_it_too(service: Service) -> None:
    environment = command_environment(service.settings.database_url.get_secret_value())
    partner = await subscribe(service, URL, types=["call.*", "user.*"])
    service.resources.metrics.figures.matched(partner.id)
    service.resources.metrics.figures.delivered(partner.id, 0.1)
    await a_minute_passes(service)

    listed = await run_command("subscriptions", "list", environment=environment)
    shown = await run_command("subscriptions", "show", partner.id, environment=environment)
    unknown = await run_command("subscriptions", "show", "sub_" + "0" * 32, environment=environment)

    heads, (row,) = listed.stdout.splitlines()[0], listed.stdout.splitlines()[1:]
    assert "matched 24 h  delivered 24 h  failed 24 h" in heads
    assert row[heads.index("matched 24 h") :].split()[:3] == ["1", "1", "0"]
    assert "delivered_24h  1\n" in shown.stdout
    assert "types          call.*, user.*\n" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert (unknown.exit_code, unknown.stderr) == (1, "aircall-oauth: There is no such subscription.\n")


async def test_a_type_that_no_event_has_is_warned_of_with_the_nearest(service: Service) -> None:
    found = await warned(service, "call.endet", "callz.*", "Call.Ended", "xyzzy", "call.*ended")

    assert found == [
        ("call.endet", "call.ended"),
        ("callz.*", "call.*"),
        ("Call.Ended", "call.ended"),
        ("xyzzy", None),
        ("call.*ended", "call.ended"),
    ]


async def test_types_that_are_known_or_seen_are_not_warned_of(service: Service) -> None:
    assert (
        await warned(service, "call.ended", "call.*", "*", "installation.*", "webhook.disabled", "user.opened.v2") == []
    )
    assert await warned(service) == []
    assert await warned(service, "brand.new") == [("brand.new", None)]
    await tell(service, 1, type_="brand.new")
    assert await warned(service, "brand.new", "brand.*") == []


async def test_an_owner_learns_of_its_own_events_types_only(service: Service) -> None:
    await tell(service, 1, type_="secret.thing")

    assert await warned(service, "secret.thing") == []
    assert await warned(service, "secret.thing", owner="acme") == [("secret.thing", None)]
    assert await warned(service, "secret.thinx", owner="acme") == [("secret.thinx", None)]
    await service.sql("UPDATE event SET owner = 'acme' WHERE type = 'secret.thing'")
    assert await warned(service, "secret.thing", owner="acme") == []


async def test_doctor_tells_of_subscriptions_that_fail(service: Service) -> None:
    failing, giving_up, well = [await subscribe(service, URL) for _ in range(3)]
    figures = service.resources.metrics.figures
    for _ in range(6):
        figures.failed(failing.id)
    for _ in range(9):
        figures.delivered(well.id, 0.1)
        figures.delivered(giving_up.id, 0.1)
    for _ in range(3):
        figures.failed(well.id)
    dead = """
        INSERT INTO parked
            (subscription_id, position, received_at, event_id, installation_id, attempts, reason, dead_at)
        SELECT id, n, now(), 'evt_' || n, 'ins_1', 12, 'http_500', now() - days * interval '1 day'
        FROM (VALUES ($1, 1, 0), ($1, 2, 0), ($2, 3, 3)) AS of (id, n, days)
    """
    await service.sql(dead, giving_up.id, well.id)
    await a_minute_passes(service)

    found = [one.seen for one in [one async for one in doctor.subscription_findings(service.resources)]]

    assert found == [
        f"{failing.id} fails: in 24 hours 6 tries failed, 0 events were delivered, 0 given up",
        f"{giving_up.id} fails: in 24 hours 0 tries failed, 9 events were delivered, 2 given up",
    ]


async def test_doctor_tells_of_a_destination_that_refuses_each_event_since_lately(service: Service) -> None:
    refusing = await subscribe(service, URL)
    for _ in range(900):
        service.resources.metrics.figures.delivered(refusing.id, 0.1)
    await a_minute_passes(service)
    await service.sql(
        """
        INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
        SELECT $1, 'evt_' || n, n, '2026-01-02 03:04Z', CASE n WHEN 1 THEN 'delivered' ELSE 'http_501' END, 9
        FROM generate_series(1, 5) AS n
        """,
        refusing.id,
    )
    await service.sql(
        "INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason) "
        "VALUES ($1, 2, now(), 'evt_2', 'ins_1', 1, 'http_501')",
        refusing.id,
    )

    found = [one.seen for one in [one async for one in doctor.subscription_findings(service.resources)]]

    assert found == [f"{refusing.id} took none of its newest tries (http_501), since 2026-01-02 03:04Z"]
