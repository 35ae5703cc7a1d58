"""What is counted: once, where it happens, and under words of ours only."""

import asyncio
import base64
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aircall_oauth.cli import reference
from aircall_oauth.deliveries.reader.supervisor import reading
from aircall_oauth.errors import BudgetSpent, SealBroken
from aircall_oauth.installations import tokens
from aircall_oauth.operations import measure
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server import worker
from aircall_oauth.server.metrics_port import CHORES_HANG_SECONDS, MetricsApp
from aircall_oauth.storage.vault import SealedAt
from aircall_oauth.telemetry.metrics import MEASURED_KEPT_SECONDS, MOST_SUBSCRIPTIONS, Durations, Measurement, Metrics
from tests.support.processes import World, eventually, world
from tests.support.receivers import LOOPBACK, answer_with, fill, receiver, subscribe, tell
from tests.support.service import (
    Service,
    command_environment,
    run_command,
    run_service,
    settings_for,
    start_command,
    until,
)

DEFAULT_PORT = 9090
RECEIVER = "http://127.0.0.1:9/hook"


def value(service: Service, name: str, **labels: str) -> float:
    """A sample of the process's metrics; what was never counted is zero."""
    return service.resources.metrics.registry.get_sample_value(f"aircall_oauth_{name}", labels) or 0.0


def label_values(service: Service, label: str) -> set[str]:
    families = service.resources.metrics.registry.collect()
    return {sample.labels[label] for family in families for sample in family.samples if label in sample.labels}


def an_event(token: str, number: int = 1) -> bytes:
    return json.dumps({"event": "call.ended", "token": token, "data": {"id": number}}).encode()


@asynccontextmanager
async def working(service: Service) -> AsyncIterator[None]:
    async with worker.working(service.resources):
        yield


@asynccontextmanager
async def delivering(database_url: str) -> AsyncIterator[Service]:
    """A service that may deliver to this machine."""
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES=LOOPBACK)) as running:
        yield running


def told_of(service: Service, subscription_id: str) -> dict[str, float | None]:
    sample = service.resources.metrics.registry.get_sample_value
    names = ("lag", "up", "parked", "dead")
    return {name: sample(f"aircall_oauth_subscription_{name}", {"subscription": subscription_id}) for name in names}


async def test_every_answer_to_an_event_is_counted_by_what_became_of_it(service: Service) -> None:
    await service.install()
    token = service.webhook_token()

    for body in (an_event(token), an_event(token), an_event(token, 2), an_event("nobody's"), b"{"):
        await service.post_event(body)

    counted = {
        (status, answer): value(service, "acks_total", status=status, answer=answer)
        for status, answer in [
            ("200", "stored"),
            ("200", "repeated"),
            ("401", "webhook_token_unknown"),
            ("400", "event_malformed"),
        ]
    }
    assert list(counted.values()) == [2, 1, 1, 1]
    assert value(service, "ack_seconds_count") == 5


async def test_what_is_committed_together_is_one_flush(service: Service) -> None:
    await service.install()
    token = service.webhook_token()

    await asyncio.gather(*(service.post_event(an_event(token, number)) for number in range(50)))

    assert value(service, "flush_events_sum") == 50
    assert 1 <= value(service, "flush_events_count") == value(service, "commit_seconds_count") < 50
    assert value(service, "inbox_depth") == 0


async def test_a_request_is_counted_under_its_template_and_never_under_what_was_asked(service: Service) -> None:
    secret = "ins_" + "5ec2e7" * 5 + "00"

    await service.browser.get(f"/v1/installations/{secret}?token={secret}")
    await service.browser.request(secret.upper(), "/livez")
    for number in range(20):
        await service.browser.get(f"/{secret}/{number}")

    asked = {"path": "/v1/installations/{installation_id}", "method": "GET"}
    assert value(service, "http_requests_total", status="401", **asked) == 1
    assert value(service, "http_request_seconds_count", **asked) == 1
    assert value(service, "http_requests_total", path="(no door)", method="GET", status="404") == 20
    assert value(service, "http_requests_total", path="/livez", method="other", status="405") == 1
    assert not [v for label in ("path", "method", "status") for v in label_values(service, label) if secret in v]


async def test_an_install_is_seen_step_by_step(service: Service) -> None:
    steps = ("started", "consented", "exchanged", "webhook_live")
    assert {*steps, "claimed"} == label_values(service, "step"), "each is there before anybody takes it"

    await service.install()
    state = await service.begin()
    await service.return_with(state=state, error="access_denied")
    await service.return_with(state=await service.begin(), code="no-code-of-aircall")

    assert [value(service, "install_steps_total", step=step) for step in steps] == [3, 2, 1, 1]
    endings = {
        ending: value(service, "install_endings_total", ending=ending) for ending in ("declined", "code_refused")
    }
    assert endings == {"declined": 1, "code_refused": 1}


async def test_a_claim_is_the_last_step_and_counted_once(database_url: str) -> None:
    async with run_service(settings_for(database_url, RETURN_URLS="https://app.example.com/connected")) as service:
        claim = await service.install_by_link("acme")
        before = value(service, "install_steps_total", step="claimed")

        answers = [await service.claim(claim, owner) for owner in ("other", "acme", "acme")]

        assert [answer.is_success for answer in answers] == [False, True, True]
        assert (before, value(service, "install_steps_total", step="claimed")) == (0, 1)


async def test_a_chore_is_counted_by_how_its_run_ended(service: Service) -> None:
    await service.sql("ALTER TABLE flow RENAME TO gone")

    async with working(service):

        async def each_ran() -> bool:
            runs = {"forget flows": "failed", "make days": "done", "measure": "done"}
            return all(value(service, "chore_runs_total", chore=c, outcome=o) for c, o in runs.items())

        await eventually(each_ran)

    assert value(service, "chore_seconds_count", chore="forget flows") == 1
    assert value(service, "chore_done_timestamp_seconds", chore="make days") == pytest.approx(time.time(), abs=60)
    assert value(service, "chore_done_timestamp_seconds", chore="forget flows") == 0
    assert label_values(service, "chore") == {chore.name for chore in worker.CHORES}


async def test_what_the_database_knows_is_measured(service: Service) -> None:
    await service.install()
    await service.post_event(an_event(service.webhook_token()))
    third_day = datetime.now(UTC).date() + timedelta(days=3)
    await service.sql(f"DROP TABLE event_{third_day:%Y%m%d}")
    onlooker = await asyncpg.connect(service.settings.database_url.get_secret_value())
    try:
        async with onlooker.transaction():
            await onlooker.execute("SELECT 1")
            await measure.measure(service.resources)
    finally:
        await onlooker.close()

    (log,) = await service.sql("SELECT max(position) AS newest FROM event")
    assert value(service, "log_position") == log["newest"]
    assert [value(service, "installations", status=s) for s in ("active", "removed")] == [1, 0]
    assert [value(service, "webhooks", status=s) for s in ("active", "missing")] == [1, 0]
    # A night may pass between making the days and counting them.
    assert value(service, "partition_horizon_days") in {2, 3}
    assert value(service, "oldest_transaction_seconds") > 0


async def test_a_delivery_is_counted_by_its_outcome(database_url: str) -> None:
    async with delivering(database_url) as service, receiver() as to, reading(service.resources):
        await service.install()
        to.answers[1] = answer_with(500)
        partner = await subscribe(service, to.url)
        await tell(service, 4)
        await partner.stands(parked=1, lag=0)

        counted = {o: value(service, "attempts_total", outcome=o) for o in ("delivered", "http_500")}
        kept = Counter(attempt["outcome"] for attempt in await partner.attempts())

    assert counted == kept
    assert counted["delivered"] == 3


async def test_each_subscription_is_measured(database_url: str) -> None:
    async with delivering(database_url) as service:
        behind, down, disabled, paused = [await subscribe(service, f"{RECEIVER}/{n}") for n in range(4)]
        await fill(service, 5)
        for status, health, partner in (
            ("active", "down", down),
            ("disabled", "up", disabled),
            ("paused", "up", paused),
        ):
            await service.sql(
                "UPDATE subscription SET status = $1, health = $2 WHERE id = $3", status, health, partner.id
            )
        await service.sql("UPDATE subscription SET position = 5 WHERE id = $1", down.id)
        await service.sql(
            """
            INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason,
                                due_at, dead_at)
            SELECT $1, position, received_at, id, installation_id, 1, 'http_500',
                   CASE WHEN position <= 3 THEN now() END, CASE WHEN position > 3 THEN now() END
            FROM event
            """,
            behind.id,
        )
        await measure.measure(service.resources)

        seconds = [
            service.resources.metrics.registry.get_sample_value(
                "aircall_oauth_subscription_lag_seconds", {"subscription": partner.id}
            )
            for partner in (behind, down)
        ]
        assert seconds == [pytest.approx(30, abs=30), 0]
        assert seconds[0] != 0
        assert told_of(service, behind.id) == {"lag": 5, "up": 1, "parked": 3, "dead": 2}
        assert told_of(service, down.id) == {"lag": 0, "up": 0, "parked": 0, "dead": 0}
        assert told_of(service, disabled.id) == {"lag": 5, "up": 0, "parked": 0, "dead": 0}
        assert paused.id not in label_values(service, "subscription")


async def test_no_more_subscriptions_are_told_than_a_hundred(database_url: str) -> None:
    async with delivering(database_url) as service:
        first = await subscribe(service, RECEIVER)
        columns = "name, kind, url, secret_sealed, types, owners, installations, ordering, status, position, created_at"
        await service.sql(
            f"INSERT INTO subscription (id, {columns}) SELECT id || n, {columns}"
            f" FROM subscription, generate_series(1, {MOST_SUBSCRIPTIONS}) AS n"
        )
        await measure.measure(service.resources)

        told = label_values(service, "subscription")
    assert (len(told), first.id in told) == (MOST_SUBSCRIPTIONS, True)


async def test_the_worst_of_many_subscriptions_are_measured(database_url: str) -> None:
    async with delivering(database_url) as service:
        await fill(service, 5)
        well = await subscribe(service, RECEIVER)
        columns = "name, kind, url, secret_sealed, types, owners, installations, ordering, status, created_at"
        made = "INSERT INTO subscription (id, position, {0}) SELECT id || n, 5, {0} FROM subscription, generate_series"
        await service.sql(made.format(columns) + f"(1, {MOST_SUBSCRIPTIONS}) AS n")
        behind, down, with_dead = [(await subscribe(service, f"{RECEIVER}/{n}")).id for n in range(3)]
        await service.sql("UPDATE subscription SET position = CASE id WHEN $1 THEN 0 ELSE 5 END", behind)
        await service.sql("UPDATE subscription SET health = 'down' WHERE id = $1", down)
        parked = "subscription_id, position, received_at, event_id, installation_id, attempts, reason, dead_at"
        await service.sql(
            f"INSERT INTO parked ({parked})"
            " SELECT $1, position, received_at, id, installation_id, 12, 'http_500', now() FROM event LIMIT 1",
            with_dead,
        )

        await measure.measure(service.resources)

        told = label_values(service, "subscription")
    assert well.id < min(behind, down, with_dead)
    assert (len(told), {behind, down, with_dead} - told) == (MOST_SUBSCRIPTIONS, set())


async def test_who_is_silent_and_who_cannot_receive_is_measured(service: Service) -> None:
    connected = await service.install()
    left = await service.install(service.aircall.companies[1])
    await service.sql("UPDATE installation SET status = 'unauthorized' WHERE id = $1", left)
    for installation_id in (connected, left):
        silent = "INSERT INTO rhythm (installation_id, hour, spoke, silent_at) VALUES ($1, 490000, 0::bit(672), now())"
        await service.sql(silent, installation_id)
        gaps = """
            INSERT INTO gap (id, installation_id, reason, since, until, due_at, done_at) VALUES
            ('gap_1' || $1, $1, 'webhook_missing', now(), NULL, NULL, NULL),
            ('gap_2' || $1, $1, 'webhook_missing', now(), now(), now(), NULL),
            ('gap_3' || $1, $1, 'service_away', now(), now(), now(), NULL),
            ('gap_4' || $1, $1, 'service_away', now(), now(), NULL, now())
        """
        await service.sql(gaps, installation_id)

    await measure.measure(service.resources)

    assert [value(service, name) for name in ("silent_installations", "gaps_open", "gaps_to_fill")] == [1, 1, 2]


async def test_what_no_budget_is_left_for_is_counted_by_who_asked(service: Service) -> None:
    installation = await service.install()
    await service.sql("UPDATE budget SET closed_until = now() + interval '1 minute'")
    partner = await service.partner()
    before = {by: value(service, "budget_refusals_total", by=by) for by in ("caller", "chore")}

    asked = await partner.get(f"/v1/installations/{installation}/aircall/calls")
    looked = await partner.post(f"/v1/installations/{installation}/check")
    with pytest.raises(BudgetSpent):
        async with tokens.within_budget(service.resources, service.aircall.companies[0].id):
            pass

    assert (asked.status_code, looked.status_code) == (429, 429)
    after = {by: value(service, "budget_refusals_total", by=by) - before[by] for by in before}
    assert after == {"caller": 2, "chore": 1}


async def test_a_sealed_value_that_does_not_open_is_counted(service: Service) -> None:
    installation = await service.install()
    (row,) = await service.sql("SELECT token_sealed FROM installation")
    opens = value(service, "seal_refusals_total")

    with pytest.raises(SealBroken):
        service.resources.vault.open(row["token_sealed"], SealedAt("installation.other_column", installation))

    assert (opens, value(service, "seal_refusals_total")) == (0, 1)


def test_a_measurement_that_is_old_is_not_said() -> None:
    metrics = Metrics()
    fresh = Measurement({"active": 1}, {}, 0, 0, 0, {}, 0.0, 0.0, 8, 100)

    said = []
    for measurement in (fresh, replace(fresh, measured_at=time.monotonic() - MEASURED_KEPT_SECONDS - 1)):
        metrics.measured(measurement)
        said.append(metrics.registry.get_sample_value("aircall_oauth_log_position"))

    assert said == [100, None]


async def test_two_services_in_one_process_count_apart(service: Service, database_url: str) -> None:
    async with run_service(settings_for(database_url)) as other:
        await service.browser.get("/livez")

        counted = [
            value(each, "http_requests_total", path="/livez", method="GET", status="200") for each in (service, other)
        ]
        assert counted == [1, 0]


async def scraped(it: World, port: int) -> dict[str, float]:
    """Every sample without labels that a process tells on its metrics port."""
    answer = await it.browser.get(f"http://127.0.0.1:{port}/metrics")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    families = text_string_to_metric_families(answer.text)
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


@pytest.mark.slow
async def test_each_process_serves_its_own_metrics(tmp_path: Path, database_url: str) -> None:
    web, work = free_port(), free_port()
    async with world(tmp_path, database_url, METRICS_PORT=str(web)) as it:
        await it.start_service()
        it.environment["AIRCALL_OAUTH_METRICS_PORT"] = str(work)
        worker_process = await it.run("work")

        async def measured() -> dict[str, float] | None:
            told = await scraped(it, work)
            return told if "aircall_oauth_log_position" in told else None

        from_worker = await eventually(measured)
        from_web = await scraped(it, web)

        assert from_worker["aircall_oauth_partition_horizon_days"] >= 7
        assert "aircall_oauth_partition_horizon_days" not in from_web, "a process that does not measure says nothing"
        assert from_web["process_resident_memory_bytes"] > 0
        assert (await it.browser.get("/metrics")).status_code == 404, "not on the service's port"
        for process in (worker_process, it.processes[1]):
            await process.close()
        assert not {process.running for process in (worker_process, it.processes[1])} - {False}
        with pytest.raises(httpx.ConnectError):
            await it.browser.get(f"http://127.0.0.1:{work}/metrics")


@pytest.mark.slow
async def test_a_worker_has_probes_which_a_frozen_one_fails(tmp_path: Path, database_url: str) -> None:
    port = free_port()
    async with world(tmp_path, database_url, METRICS_PORT=str(port)) as it:
        worker_process = await it.run("work")

        async def ready() -> bool:
            return (await it.browser.get(f"http://127.0.0.1:{port}/readyz")).is_success

        await eventually(ready)
        alive = await it.browser.get(f"http://127.0.0.1:{port}/livez")
        worker_process.tell(signal.SIGSTOP)
        with pytest.raises(httpx.TimeoutException):
            await it.browser.get(f"http://127.0.0.1:{port}/livez", timeout=2)
        worker_process.tell(signal.SIGCONT)

        assert (alive.status_code, alive.text) == (200, "ok")
        await eventually(ready)


async def test_a_worker_that_the_keys_do_not_fit_is_never_ready(service: Service, database_url: str) -> None:
    await service.install()
    port, other_key = free_port(), "other:" + base64.b64encode(bytes(32)).decode()
    wrong = await start_command(
        "work", environment=command_environment(database_url, METRICS_PORT=str(port), SECRET_KEYS=other_key)
    )

    answers = []
    async with httpx.AsyncClient() as probes:
        while wrong.returncode is None:
            with suppress(httpx.TransportError):
                answers.append((await probes.get(f"http://127.0.0.1:{port}/readyz")).status_code)
            await asyncio.sleep(0.05)
    await wrong.communicate()

    assert (wrong.returncode, 200 in answers) == (1, False)


async def test_a_worker_in_which_no_chore_ends_is_not_alive(service: Service) -> None:
    probes = httpx.AsyncClient(transport=httpx.ASGITransport(MetricsApp(service.resources)), base_url="http://probes")
    long_ago = time.monotonic() - CHORES_HANG_SECONDS - 1

    async with probes:
        without_a_worker = await probes.get("/livez")
        service.resources.chore_ended_at = long_ago
        hanging = await probes.get("/livez")
        async with working(service):
            await until(lambda: service.resources.chore_ended_at != long_ago)
            at_work = await probes.get("/livez")

    assert [answer.status_code for answer in (without_a_worker, hanging, at_work)] == [200, 503, 200]


async def test_a_metrics_port_in_use_is_one_line_and_no_start(database_url: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        environment = command_environment(database_url, METRICS_PORT=str(port))
        commands = [("serve", "--port", str(free_port())), ("work",)]
        all_ended = await asyncio.gather(*(run_command(*command, environment=environment) for command in commands))

    for ended in all_ended:
        assert (ended.exit_code, len(ended.stderr.splitlines())) == (1, 1), ended.stderr
        assert ended.stderr.startswith("aircall-oauth: AIRCALL_OAUTH_METRICS_PORT: Cannot listen on ")
        assert f"port {port}: Address already in use." in ended.stderr


async def test_the_default_metrics_port_in_use_keeps_nobody_from_starting(tmp_path: Path, database_url: str) -> None:
    async with world(tmp_path, database_url) as it:
        del it.environment["AIRCALL_OAUTH_METRICS_PORT"]
        with ExitStack() as stack:
            with suppress(OSError):  # a socket of another program will do as well
                stack.enter_context(socket.create_server(("", DEFAULT_PORT)))
            service = await it.start_service()

        assert '"event": "no metrics"' in service.said()


def test_the_table_of_metrics_is_current() -> None:
    page = reference.OPERATIONS.read_text()

    assert reference.metrics_table() in page, "run: python -m aircall_oauth.cli.reference --write"


def test_durations_that_are_counted_together_are_counted_as_one_by_one() -> None:
    amounts = [0.0, 0.1, 0.1, 0.1000001, 0.5, 7.0, 0.02]
    one_by_one, together = (Durations("d", "d", buckets=(0.1, 0.5), registry=None) for _ in range(2))
    for amount in amounts:
        one_by_one.observe(amount)
    together.observe_all(amounts[:3])
    together.observe_all(amounts[3:])

    wanted, got = (
        {(sample.name, sample.labels.get("le")): sample.value for sample in next(iter(each.collect())).samples[:-1]}
        for each in (one_by_one, together)
    )
    assert got == pytest.approx(wanted)
    assert got["d_count", None] == len(amounts)
