"""Reconciling: every installation keeps exactly one live webhook with our URL, our name and the wanted events."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import stamina

from aircall_oauth.access.audit import OPERATOR
from aircall_oauth.aircall.payloads import UNINSTALLED
from aircall_oauth.events.receiver import failures
from aircall_oauth.installations.outages import heartbeat
from aircall_oauth.installations.upkeep import leases, retired, schedule
from aircall_oauth.sandbox.aircall import EVENT_NAMES, Webhook
from aircall_oauth.sandbox.aircall.companies import Integration
from tests.support.processes import eventually
from tests.support.service import Service, command_environment, run_command, run_service, settings_for, until

COMPANY = 70077
MAKE_DUE = "UPDATE webhook SET due_at = now(), leased_until = NULL"


@pytest.fixture(autouse=True)
def _repeat_at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def hooks(service: Service) -> list[Webhook]:
    return service.aircall.webhooks.of(COMPANY)


def asked(service: Service, since: int = 0) -> list[str]:
    return [f"{request.method} {request.path.split('/')[2]}" for request in service.aircall.requests[since:]]


async def look(service: Service) -> list[str]:
    """Reconcile all webhooks, made due and with a fresh budget. Returns what Aircall was asked."""
    await service.sql(MAKE_DUE)
    await service.sql("DELETE FROM budget")
    before = len(service.aircall.requests)
    await schedule.reconcile_webhooks(service.resources)
    return asked(service, before)


async def clean_up(service: Service) -> None:
    """What is retired is deleted, its time having come."""
    await service.sql("UPDATE retired_webhook SET due_at = now()")
    await retired.delete_retired(service.resources)


async def the_webhook(service: Service) -> Any:
    (row,) = await service.sql("SELECT * FROM webhook")
    return row


async def told(service: Service) -> list[tuple[str, str]]:
    """What the log tells of webhooks."""
    rows = await service.sql("SELECT type, data FROM event WHERE type LIKE 'webhook.%' ORDER BY position")
    return [(row["type"], row["data"]) for row in rows]


async def gaps(service: Service) -> list[tuple[str, bool]]:
    rows = await service.sql("SELECT reason, until IS NULL AS open FROM gap ORDER BY id")
    return [(row["reason"], row["open"]) for row in rows]


def double(service: Service, **changes: Any) -> Webhook:
    """Make a webhook as a creation does when its answer gets lost."""
    request = {"url": service.settings.webhook_url, "custom_name": service.settings.webhook_name, **changes}
    return service.aircall.webhooks.create(COMPANY, request, service.aircall.clock())


def event(token: str, number: int = 1) -> bytes:
    return (
        b'{"resource":"call","event":"call.created","timestamp":1767261600,"token":"%s","data":{"id":%d}}'
        % (token.encode(), number)
    )  # fmt: skip


@asynccontextmanager
async def with_other_settings(service: Service, **changes: str) -> AsyncIterator[Service]:
    """The same service, started anew with other settings, over the same database and the same Aircall."""
    settings = settings_for(service.settings.database_url.get_secret_value(), **changes)
    async with run_service(settings) as other:
        theirs = (other.aircall.companies, other.aircall.grants, other.aircall.webhooks)
        other.aircall.companies, other.aircall.grants, other.aircall.webhooks = (
            service.aircall.companies,
            service.aircall.grants,
            service.aircall.webhooks,
        )
        yield other
        other.aircall.companies, other.aircall.grants, other.aircall.webhooks = theirs


async def test_a_webhook_that_is_well_costs_one_call_and_is_looked_at_again_in_minutes(service: Service) -> None:
    await service.installed()

    requests = await look(service)

    row = await the_webhook(service)
    (times,) = await service.sql("SELECT due_at - checked_at AS pause, now() - checked_at AS ago FROM webhook")
    assert requests == ["GET webhooks"]
    assert leases.INTERVAL[0] <= times["pause"] <= leases.INTERVAL[1]
    assert times["ago"].total_seconds() < 30
    assert (row["status"], row["attempts"], row["leased_until"]) == ("active", 0, None)
    assert await told(service) == []


async def test_a_webhook_that_aircall_switched_off_is_switched_on_and_both_are_told_once(service: Service) -> None:
    await service.installed()
    (hook,) = hooks(service)
    hook.switch(active=False)

    await look(service)
    await look(service)

    assert (hook.active, set(hook.events)) == (True, set(EVENT_NAMES))
    assert await told(service) == [
        ("webhook.disabled", '{"reason":"disabled"}'),
        ("webhook.restored", '{"was":"disabled"}'),
    ]
    assert await gaps(service) == [("webhook_disabled", False)]
    assert len(hooks(service)) == 1


async def test_a_webhook_that_cannot_be_switched_on_stays_told_as_off_until_it_can(service: Service) -> None:
    await service.installed()
    (hook,) = hooks(service)
    hook.switch(active=False)
    service.aircall.break_next("PUT webhooks", "error_500", times=6)

    await look(service)
    await look(service)
    during = await the_webhook(service)
    told_during, gaps_during = await told(service), await gaps(service)
    await look(service)

    assert during["status"] == "disabled"
    assert told_during == [("webhook.disabled", '{"reason":"disabled"}')]
    assert gaps_during == [("webhook_disabled", True)]
    assert [type_ for type_, _ in await told(service)] == ["webhook.disabled", "webhook.restored"]
    assert (await the_webhook(service))["status"] == "active"


@pytest.mark.slow
async def test_a_webhook_switched_off_by_failures_of_ours_is_found(service: Service) -> None:
    """Aircall's own rule, played: failures in a row, and not a word about it."""
    await service.installed()
    service.aircall.habits.disable_after = 3
    async with service.database_away():
        await service.aircall.send_event("call.created")
        await until(lambda: not hooks(service)[0].active, 20.0)
    await service.aircall.settle()
    hooks(service)[0].switch(active=False)

    await look(service)

    assert hooks(service)[0].active is True
    assert [type_ for type_, _ in await told(service)] == ["webhook.disabled", "webhook.restored"]


async def test_a_webhook_deleted_behind_our_back_is_made_again(service: Service) -> None:
    await service.installed()
    (old,) = hooks(service)
    service.aircall.webhooks.delete_company(COMPANY)

    await look(service)

    (new,) = hooks(service)
    row = await the_webhook(service)
    assert (row["status"], row["webhook_id"]) == ("active", new.webhook_id)
    assert new.webhook_id != old.webhook_id
    assert (await service.post_event(event(new.token))).status_code == 200
    assert (await service.post_event(event(old.token))).status_code == 401
    assert await told(service) == [
        ("webhook.disabled", '{"reason":"missing"}'),
        ("webhook.restored", '{"was":"missing"}'),
    ]
    assert await gaps(service) == [("webhook_missing", False)]


async def test_a_lost_answer_to_making_it_again_makes_no_second_one(service: Service) -> None:
    await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)
    service.aircall.break_next("POST webhooks", "drop_reply")

    await look(service)
    meanwhile = (await the_webhook(service))["status"]
    await look(service)

    (hook,) = hooks(service)
    row = await the_webhook(service)
    assert (meanwhile, row["status"], row["webhook_id"]) == ("missing", "active", hook.webhook_id)
    assert [type_ for type_, _ in await told(service)] == ["webhook.disabled", "webhook.restored"]


@pytest.mark.slow
async def test_our_doubles_are_removed_and_nobody_elses(service: Service) -> None:
    await service.installed()
    (ours,) = hooks(service)
    doubles = [double(service) for _ in range(3)]
    others = [
        double(service, custom_name="theirs"),
        double(service, url="https://other.example.com/aircall/webhook"),
        double(service, url=f"{service.settings.webhook_url}?tenant=7"),
    ]
    await service.sql("UPDATE webhook SET thorough_at = now() - interval '2 hours'")

    await look(service)
    recognised = (await service.post_event(event(doubles[0].token))).status_code
    await clean_up(service)

    assert [hook.webhook_id for hook in hooks(service)] == [ours.webhook_id, *(other.webhook_id for other in others)]
    assert recognised == 200, "until it is gone its events count"
    assert (await the_webhook(service))["webhook_id"] == ours.webhook_id
    await clean_up(service)
    assert await service.sql("SELECT * FROM retired_webhook") == []


@pytest.mark.slow
async def test_a_webhook_that_another_installation_may_just_be_making_is_no_double(service: Service) -> None:
    first = await service.install()
    service.aircall.companies[0].integration = Integration(400999, [55011])
    service.aircall.break_next("POST webhooks", "drop_reply")
    second = await service.install()
    service.aircall.companies[0].integration = Integration(400123, [55010])
    await service.sql("UPDATE webhook SET due_at = now(), thorough_at = NULL WHERE installation_id = $1", first)
    await service.sql("UPDATE webhook SET due_at = now() + interval '1 hour' WHERE installation_id = $1", second)

    await schedule.reconcile_webhooks(service.resources)
    await clean_up(service)
    both = len(hooks(service))
    service.aircall.companies[0].integration = Integration(400999, [55011])
    await service.sql("UPDATE webhook SET due_at = now() WHERE installation_id = $1", second)
    await schedule.reconcile_webhooks(service.resources)

    rows = await service.sql("SELECT webhook_id, status FROM webhook")
    assert both == 2
    assert {row["webhook_id"] for row in rows} == {hook.webhook_id for hook in hooks(service)}
    assert [row["status"] for row in rows] == ["active", "active"]


@pytest.mark.slow
async def test_a_changed_address_name_and_list_of_events_are_followed(service: Service) -> None:
    await service.installed()
    (hook,) = hooks(service)
    changes = {
        "PUBLIC_URL": "http://localhost:8001",
        "WEBHOOK_NAME": "Acme calls",
        "WEBHOOK_EVENTS": "call.ended",
    }

    async with with_other_settings(service, **changes) as other:
        await look(other)

        assert (hook.url, hook.custom_name) == ("http://localhost:8001/aircall/webhook", "Acme calls")
        assert set(hook.events) == {"call.ended", UNINSTALLED}
    await look(service)

    assert hook.url == service.settings.webhook_url
    assert set(hook.events) == set(EVENT_NAMES), "back to all"
    assert len(hooks(service)) == 1
    assert await told(service) == []


async def test_what_somebody_changed_at_aircall_is_put_right(service: Service) -> None:
    await service.installed()
    (hook,) = hooks(service)
    hook.events, hook.custom_name = ["call.ended"], "something"

    await look(service)

    assert (set(hook.events), hook.custom_name) == (set(EVENT_NAMES), service.settings.webhook_name)


async def test_an_event_name_that_aircall_gave_up_does_not_keep_a_webhook_off(service: Service) -> None:
    await service.installed()
    (hook,) = hooks(service)
    hook.switch(active=False)
    hook.events = [name for name in hook.events if name != "user.created"]
    refusing = Refusing(service.resources.aircall.update_webhook)
    service.resources.aircall.update_webhook = refusing  # type: ignore[assignment,method-assign]

    await look(service)

    assert (hook.active, "user.created" in hook.events) == (True, False)
    assert [type_ for type_, _ in await told(service)] == ["webhook.disabled", "webhook.restored"]


class Refusing:
    """Aircall, once it knows a name no longer."""

    def __init__(self, update: Any) -> None:
        self._update = update

    async def __call__(self, token: Any, webhook_id: str, *, events: list[str], **wanted: Any) -> Any:
        known = [name if name != "user.created" else "user.created.v0" for name in events]
        return await self._update(token, webhook_id, events=known, **wanted)


async def test_a_reinstall_after_an_uninstall_that_nobody_noticed_is_whole(service: Service) -> None:
    installation_id = await service.install()
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.webhooks.delete_company(COMPANY)

    again = await service.install()

    (hook,) = hooks(service)
    row = await the_webhook(service)
    assert again == installation_id
    assert (row["status"], row["webhook_id"]) == ("active", hook.webhook_id)
    assert [type_ for type_, _ in await told(service)] == ["webhook.disabled", "webhook.restored"]


@pytest.mark.slow
async def test_many_workers_at_once_tell_each_change_once(service: Service) -> None:
    for company in service.aircall.companies:
        await service.install(company)
    for hook in service.aircall.webhooks.all:
        hook.switch(active=False)
    await service.sql(MAKE_DUE)

    await asyncio.gather(*(schedule.reconcile_webhooks(service.resources) for _ in range(6)))

    assert sorted(type_ for type_, _ in await told(service)) == ["webhook.disabled"] * 3 + ["webhook.restored"] * 3
    assert asked(service).count("PUT webhooks") == 3


@pytest.mark.slow
async def test_a_slow_company_holds_nobody_up(service: Service) -> None:
    first = await service.installed()
    await service.install(70078)
    await service.sql("UPDATE webhook SET due_at = now() - interval '1 minute' WHERE installation_id = $1", first)
    await service.sql("UPDATE webhook SET due_at = now(), checked_at = NULL WHERE installation_id <> $1", first)
    service.aircall.break_next("GET webhooks", "slow", seconds=3.0)

    looking = asyncio.create_task(schedule.reconcile_webhooks(service.resources))
    well = "SELECT 1 FROM webhook WHERE installation_id <> $1 AND checked_at IS NOT NULL"
    await eventually(lambda: service.sql(well, first))
    ended_first = looking.done()
    await looking

    assert not ended_first


async def test_a_token_refused_once_and_taken_again_is_no_reason_for_anything(service: Service) -> None:
    installation_id = await service.installed()
    tokens = service.aircall.grants.tokens
    service.aircall.grants.tokens = {}

    await look(service)
    refused = await the_webhook(service)
    service.aircall.grants.tokens = tokens
    await look(service)

    row = await the_webhook(service)
    (installation,) = await service.sql("SELECT status FROM installation WHERE id = $1", installation_id)
    assert refused["refused_at"] is not None
    assert (row["refused_at"], row["status"], installation["status"]) == (None, "active", "active")
    assert await told(service) == []


async def test_what_aircall_refused_by_mistake_comes_back_by_itself(service: Service) -> None:
    """A bad quarter of an hour at Aircall must not cost every customer a new install."""
    installation_id = await service.installed()
    tokens = service.aircall.grants.tokens
    service.aircall.grants.tokens = {}
    await look(service)
    await service.sql("UPDATE webhook SET refused_at = refused_at - interval '3 minutes'")
    await look(service)
    (dead,) = await service.sql("SELECT status FROM installation")
    asked_of_the_dead = await look(service)
    (pause,) = await service.sql("SELECT extract(epoch FROM due_at - now()) AS seconds FROM webhook")

    service.aircall.grants.tokens = tokens
    await look(service)
    await look(service)

    (installation,) = await service.sql("SELECT id, status FROM installation")
    types = await service.sql("SELECT type FROM event WHERE type LIKE 'installation.%' ORDER BY position")
    assert dead["status"] == "unauthorized"
    assert asked_of_the_dead == ["GET integrations"], "nothing is tried with its webhook"
    assert pause["seconds"] > 600
    assert tuple(installation) == (installation_id, "active")
    assert [row["type"] for row in types] == [
        "installation.connected",
        "installation.unauthorized",
        "installation.connected",
    ]


async def test_every_hour_it_is_learnt_what_else_changed_and_told_once(service: Service) -> None:
    await service.installed()
    company = service.aircall.companies[0]
    company.name, company.integration.number_ids, company.integration.active = "Northwind & Sons", [], False
    await service.sql("UPDATE webhook SET thorough_at = now() - interval '61 minutes'")

    requests = await look(service)
    await service.sql("UPDATE webhook SET thorough_at = now() - interval '61 minutes'")
    await look(service)
    quick = await look(service)

    rows = await service.sql("SELECT data FROM event WHERE type = 'installation.changed'")
    assert [row["data"] for row in rows] == [
        '{"company_name":"Northwind & Sons","number_ids":[],"integration_active":false}'
    ]
    assert sorted(requests) == ["GET company", "GET integrations", "GET webhooks"]
    assert quick == ["GET webhooks"]
    assert company.integration.active is False, "a chore does not overrule who switched it off"


async def test_an_install_finds_the_half_of_the_budget_that_chores_leave(service: Service) -> None:
    """An admin waits in the browser, so the webhook does not count as a chore."""
    await service.resources.require_ready()
    half = service.settings.aircall_rate_per_minute // 2
    await service.sql(
        "INSERT INTO budget (company_id, second, spent) VALUES "
        "($1, floor(extract(epoch FROM now())), ARRAY[$2::integer] || array_fill(0, ARRAY[63]))",
        COMPANY,
        half + 5,
    )

    await service.install()

    assert (await the_webhook(service))["status"] == "active"


async def test_a_rotation_loses_no_event_and_leaves_one_webhook_with_another_token(service: Service) -> None:
    installation_id = await service.installed()
    (old,) = hooks(service)
    await service.sql("UPDATE webhook SET rotation_wanted = true")

    await look(service)
    both = hooks(service)
    answers = [(await service.post_event(event(hook.token, number))).status_code for number, hook in enumerate(both)]
    delivered = await service.aircall.send_event("call.ended")
    await service.aircall.settle()
    early = len(hooks(service))
    await retired.delete_retired(service.resources)
    still = len(hooks(service))
    await clean_up(service)

    (new,) = hooks(service)
    row = await the_webhook(service)
    assert answers == [200, 200]
    assert ([delivery.status for delivery in delivered], early, still) == (["delivered"] * 2, 2, 2)
    assert len(await service.sql("SELECT * FROM event WHERE type = 'call.ended'")) == 1
    assert (row["webhook_id"], row["rotation_wanted"], row["installation_id"]) == (
        new.webhook_id,
        False,
        installation_id,
    )
    assert old.token != new.token
    await service.sql("UPDATE retired_webhook SET due_at = now()")
    await retired.delete_retired(service.resources)
    assert (await service.post_event(event(old.token, 9))).status_code == 401
    assert await told(service) == []


async def test_a_rotation_whose_creation_answer_got_lost_makes_no_third_webhook(service: Service) -> None:
    await service.installed()
    (old,) = hooks(service)
    await service.sql("UPDATE webhook SET rotation_wanted = true")
    service.aircall.break_next("POST webhooks", "drop_reply")

    await look(service)
    unfinished = await the_webhook(service)
    await look(service)
    await clean_up(service)

    (new,) = hooks(service)
    row = await the_webhook(service)
    assert (unfinished["webhook_id"], unfinished["rotation_wanted"]) == (old.webhook_id, True)
    assert (row["webhook_id"], row["rotation_wanted"]) == (new.webhook_id, False)
    assert new.webhook_id != old.webhook_id
    assert asked(service).count("POST webhooks") == 2


@pytest.mark.slow
async def test_an_operator_rotates_a_webhook(service: Service) -> None:
    installation_id = await service.installed()
    environment = command_environment(service.settings.database_url.get_secret_value())

    # Aircall is nowhere for this process: the rest is the worker's.
    asked_for = await run_command("installations", "rotate-webhook", installation_id, environment=environment)
    unknown = await run_command("installations", "rotate-webhook", f"ins_{'0' * 32}", environment=environment)
    await look(service)

    assert (asked_for.exit_code, asked_for.stderr.splitlines()[-1]) == (0, "The worker rotates it as soon as it can.")
    assert (unknown.exit_code, unknown.stderr) == (1, "aircall-oauth: There is no such installation.\n")
    assert len(hooks(service)) == 2
    (line,) = await service.sql("SELECT actor, action FROM audit")
    assert tuple(line) == ("operator", "webhook.rotated")


async def test_a_rotation_is_done_at_once_where_aircall_answers(service: Service) -> None:
    installation_id = await service.installed()
    (old,) = hooks(service)

    done = await retired.replace_webhook(service.resources, OPERATOR, installation_id)

    row = await the_webhook(service)
    assert done is True
    assert row["webhook_id"] == next(hook.webhook_id for hook in hooks(service) if hook is not old)


async def test_what_came_before_the_first_webhook_is_a_gap_from_the_install_on(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    during = await gaps(service)

    await look(service)

    (row,) = await service.sql("SELECT gap.since = connected_at AS same FROM gap, installation")
    assert (during, row["same"]) == ([("webhook_missing", True)], True)
    assert await gaps(service) == [("webhook_missing", False)]
    assert await told(service) == []


async def test_after_nobody_was_here_all_are_looked_at_soon(service: Service) -> None:
    await service.installed()
    await heartbeat.beat(service.resources)
    await service.sql("UPDATE pulse SET at = at - interval '5 minutes'")
    await heartbeat.beat(service.resources)

    await service.sql("UPDATE webhook SET checked_at = now() - interval '2 minutes'")
    await schedule.after_troubles(service.resources)

    (row,) = await service.sql("SELECT due_at - now() AS due_in FROM webhook")
    assert row["due_in"] <= schedule.SPREAD


@pytest.mark.slow
async def test_after_a_burst_of_our_own_failures_all_are_looked_at_soon(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for company in service.aircall.companies:
        await service.install(company)
    monkeypatch.setattr(failures, "OVER_AFTER", schedule.SPREAD * 0)
    async with service.database_away():
        answers = await asyncio.gather(*(service.post_event(event("x", number)) for number in range(failures.A_BURST)))
    await eventually(lambda: service.sql("SELECT * FROM trouble"), 20.0)

    await service.sql("UPDATE webhook SET checked_at = now() - interval '2 minutes'")
    await asyncio.gather(*(schedule.after_troubles(service.resources) for _ in range(3)))

    rows = await service.sql("SELECT due_at - now() AS due_in FROM webhook")
    assert {answer.status_code for answer in answers} == {503}
    assert all(row["due_in"] <= schedule.SPREAD for row in rows)
    assert await service.sql("SELECT * FROM trouble") == []


async def test_troubles_without_end_do_not_make_us_ask_without_end(service: Service) -> None:
    await service.installed()
    await service.sql("INSERT INTO trouble (id, began_at, ended_at, failures) VALUES ('trb_1', now(), now(), 5)")

    await schedule.after_troubles(service.resources)

    (row,) = await service.sql("SELECT due_at - checked_at AS pause FROM webhook")
    assert schedule.SHORTEST_INTERVAL <= row["pause"] <= schedule.SHORTEST_INTERVAL + schedule.SPREAD


async def test_a_few_failures_are_no_burst(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "OVER_AFTER", schedule.SPREAD * 0)
    counted = failures.Troubles()
    for status in (200, 401, 503, 500, 400):
        counted.note(status)

    await counted.leave_note(service.resources.database)

    assert await service.sql("SELECT * FROM trouble") == []
    assert counted.failures == 0


@pytest.mark.slow
async def test_a_webhook_without_a_next_look_is_given_one(service: Service) -> None:
    """An older version that still runs leaves a webhook so."""
    await service.installed()
    await service.sql("UPDATE webhook SET due_at = NULL")

    await schedule.find_overlooked(service.resources)

    (row,) = await service.sql("SELECT due_at - now() AS due_in FROM webhook")
    assert row["due_in"] <= schedule.SPREAD
