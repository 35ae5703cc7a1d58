"""Real work for every chore of the worker: made through the front doors, and by making rows due."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aircall_oauth.installations.outages import gaps
from aircall_oauth.sandbox.aircall import Webhook
from aircall_oauth.storage.statuses import GapReason
from tests.support.receivers import subscription_body
from tests.support.service import Service

COMPANY, OTHER_COMPANY, THIRD_COMPANY = 70077, 70078, 70079
HOME = "https://app.example.com/aircall"
DAY = timedelta(days=1)
A_MONTH_AHEAD = "SELECT EXISTS (SELECT FROM webhook WHERE due_at > now() + interval '1 day')"
IN_CLEAR = "SELECT EXISTS (SELECT FROM subscription WHERE url_sealed IS NULL)"
# Leases are over, what was put off is due again, and so is each webhook's next look.
A_WHILE_LATER = """
    UPDATE webhook SET due_at = now(), leased_until = NULL WHERE due_at IS NOT NULL;
    UPDATE retired_webhook SET due_at = now();
    UPDATE farewell SET due_at = now();
    UPDATE installation SET switch_on_at = now() WHERE switch_on_at IS NOT NULL;
    UPDATE uninstall SET due_at = now();
    UPDATE gap SET due_at = now() WHERE due_at IS NOT NULL;
    UPDATE erasure SET due_at = now() WHERE due_at IS NOT NULL;
    DELETE FROM budget;
"""


@dataclass(frozen=True)
class Scene:
    """Real work for a chore."""

    chore: str
    what: str
    arrange: Callable[[Service], Awaitable[None]]
    left: str = "SELECT false"  # a question: is something left to do for it?
    tells: tuple[str, ...] = ()  # the events that the log has more in the end
    shows: str = "SELECT NULL"  # a question: what a picture, which leaves out times, should show of them
    once_open: str = ""  # what happens to the database once the worker has started
    later: str = A_WHILE_LATER  # what time does to it
    only_reads: bool = False  # then a read is a step, too
    changes: bool = True  # whether a picture is another one in the end
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.chore}: {self.what}"


def ours(service: Service, company: int = COMPANY) -> Webhook:
    (hook,) = [one for one in service.aircall.webhooks.of(company) if one.url == service.settings.webhook_url]
    return hook


def another(service: Service, **changes: Any) -> Webhook:
    """A webhook of the first company that we do not go by."""
    request = {"url": service.settings.webhook_url, "custom_name": service.settings.webhook_name, **changes}
    return service.aircall.webhooks.create(COMPANY, request, service.aircall.clock())


async def a_thorough_look_is_due(service: Service) -> None:
    await service.sql("UPDATE webhook SET due_at = now(), thorough_at = now() - interval '2 hours'")


async def a_webhook_that_is_off(service: Service) -> None:
    """… and doubled, beside strangers', at a company that has linked another number."""
    await service.installed()
    ours(service).switch(active=False)
    another(service)
    another(service, custom_name="theirs")
    another(service, url="https://other.example.com/hook")
    service.aircall.companies[0].integration.number_ids = [55010, 55011]
    await a_thorough_look_is_due(service)


async def a_webhook_that_is_gone(service: Service) -> None:
    await service.installed()
    service.aircall.webhooks.delete_company(COMPANY)
    another(service, url="https://other.example.com/hook")
    await a_thorough_look_is_due(service)


async def a_webhook_that_was_never_made(service: Service) -> None:
    service.aircall.break_next("webhooks", "error_500", times=3)
    await service.install()
    service.aircall.heal()
    await service.sql("UPDATE webhook SET due_at = now()")


async def a_webhook_to_be_rotated(service: Service) -> None:
    await service.installed()
    await service.sql("UPDATE webhook SET rotation_wanted = true, due_at = now(), thorough_at = now()")


async def a_token_refused_before(service: Service) -> None:
    await service.installed()
    service.aircall.grants.revoke_company(COMPANY)
    await service.sql("UPDATE webhook SET due_at = now(), attempts = 1, refused_at = now() - interval '3 minutes'")


async def a_token_gone_foreign(service: Service) -> None:
    await service.installed()
    service.aircall.companies[0].integration.id = 400999
    await a_thorough_look_is_due(service)


async def a_token_taken_again(service: Service) -> None:
    await service.installed()
    await service.sql("UPDATE installation SET status = 'unauthorized'")
    await service.sql("UPDATE webhook SET due_at = now()")


async def a_burst_of_errors(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    await service.sql("INSERT INTO trouble (id, began_at, ended_at, failures) VALUES ('trb_1', now(), now(), 5)")


async def webhooks_without_a_next_look(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    await service.sql("UPDATE webhook SET due_at = NULL")


async def two_retired_webhooks(service: Service) -> None:
    await service.installed()
    (row,) = await service.sql("SELECT installation_id FROM webhook")
    for hook in (another(service), another(service)):
        retire = "INSERT INTO retired_webhook (webhook_id, installation_id, due_at) VALUES ($1, $2, now())"
        await service.sql(retire, hook.webhook_id, row["installation_id"])
    another(service, custom_name="theirs")


async def an_old_flow(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    await service.sql("UPDATE flow SET used_at = now() - interval '2 days' WHERE id = (SELECT min(id) FROM flow)")


async def an_old_attempt(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    await service.sql(
        "UPDATE install_attempt SET created_at = now() - interval '91 days' WHERE company_id = $1", COMPANY
    )
    await service.sql(
        "INSERT INTO install_tally VALUES (now(), 'opened', 1), (now() - interval '91 days', 'opened', 1)"
    )


async def what_nobody_claimed(service: Service) -> None:
    """Two installations that wait in vain, and a claim on one that is in use."""
    await service.claim(await service.install_by_link("acme", THIRD_COMPANY), "acme")
    await service.install_by_link("globex", THIRD_COMPANY)
    for company in (COMPANY, OTHER_COMPANY):
        await service.install_by_link("acme", company)
    await service.sql("UPDATE claim SET expires_at = now()")


async def an_uninstall_in_the_log(service: Service) -> None:
    await service.installed()
    await service.aircall.send_event("call.created")
    await service.aircall.uninstall()
    await service.aircall.settle()


async def a_real_uninstall_and_a_false_one(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    service.aircall.grants.revoke_company(COMPANY)
    service.aircall.webhooks.delete_company(COMPANY)
    # It was looked at as often as it is, but for once.
    await service.sql("INSERT INTO uninstall (installation_id, due_at, looks) SELECT id, now(), 3 FROM installation")


async def a_farewell(service: Service) -> None:
    """… put off once, with a webhook whose creation answer was lost, and a stranger's."""
    installation_id = await service.installed()
    another(service)
    another(service, url="https://other.example.com/hook")
    service.aircall.break_next("all", "error_500", times=3)
    partner = await service.partner()
    assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
    await service.sql("UPDATE farewell SET due_at = now()")


async def two_that_came_back(service: Service) -> None:
    """… one of which is off at Aircall."""
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
    service.aircall.companies[0].integration.active = False
    await service.sql("UPDATE installation SET switch_on_at = now()")


async def a_gap_of_three_pages(service: Service) -> None:
    """… some of its calls were told meanwhile."""
    installation_id = await service.installed()
    since = datetime.now(UTC) - timedelta(hours=12)
    first, last = since + timedelta(minutes=10), since + timedelta(hours=10)
    missed = service.aircall.record_calls(120, since=first.timestamp(), until=last.timestamp())
    for call_id in missed[40:60]:
        service.aircall.tell_end(call_id)
    await service.aircall.settle()
    async with service.resources.database.session() as session:
        await gaps.begin(session, installation_id, since=since, reason=GapReason.WEBHOOK_DISABLED)
        await gaps.end(session, installation_id)
    await service.sql("UPDATE gap SET due_at = now()")


async def gaps_filled_long_ago(service: Service) -> None:
    installation_id = await service.installed()
    for days in (89, 91, 100):
        filled = """
            INSERT INTO gap (id, installation_id, reason, since, until, done_at)
            SELECT 'gap_' || $1::int, $2, 'by_hand', at, at, at FROM (SELECT now() - make_interval(days => $1) AS at) t
        """
        await service.sql(filled, days, installation_id)


async def two_who_spoke(service: Service) -> None:
    for company in (COMPANY, OTHER_COMPANY):
        await service.install(company)
        await service.aircall.place_call(company)
    await service.aircall.settle()


async def an_installation(service: Service) -> None:
    await service.installed()


async def days_past_the_retention(service: Service) -> None:
    installation_id = await service.installed()
    for days in (40, 39, 5):
        day = datetime.now(UTC).date() - days * DAY
        bounds = f"FROM ('{day} 00:00+00') TO ('{day + DAY} 00:00+00')"
        await service.sql(f"CREATE TABLE event_{day:%Y%m%d} PARTITION OF event FOR VALUES {bounds}")
        kept = """
            INSERT INTO event (received_at, id, installation_id, company_id, type, source, data)
            VALUES ($1::date + interval '12 hours', $2, $3, 70077, 'call.created', 'aircall', '{}')
        """
        await service.sql(kept, day, f"evt_{days}", installation_id)
    # What came last is what was written today.
    await service.sql("UPDATE event SET position = nextval('event_position') WHERE source = 'service'")


async def events_past_their_types_retention(service: Service) -> None:
    """… beside one that is kept; one of them is parked."""
    await days_past_the_retention(service)
    await service.sql("UPDATE event SET type = 'user.created' WHERE id = 'evt_40'")
    await service.sql("""
        INSERT INTO event (received_at, id, installation_id, company_id, type, source, data)
        SELECT received_at, id || n, installation_id, 70077, type, 'aircall', data
        FROM event, generate_series(1, 3) AS n WHERE type = 'call.created'
    """)
    # Positions in the order of time, as they are drawn.
    await service.sql("""
        UPDATE event SET position = 1000 + place FROM (
            SELECT id AS named, row_number() OVER (ORDER BY received_at, id) AS place FROM event
        ) AS ordered WHERE id = named
    """)
    await service.sql("SELECT setval('event_position', 2000)")
    partner = await service.partner()
    await partner.post("/v1/subscriptions", json=subscription_body("https://203.0.114.1/hook"))
    await service.sql("""
        INSERT INTO parked
            (subscription_id, position, received_at, event_id, installation_id, attempts, reason, dead_at)
        SELECT subscription.id, event.position, received_at, event.id, installation_id, 1, 'http_500', now()
        FROM event, subscription WHERE type = 'call.created' LIMIT 1
    """)


async def fingerprints_past_their_time(service: Service) -> None:
    """More than are forgotten at once, and some that are not to be."""
    await service.installed()
    await service.aircall.place_call()
    await service.aircall.settle()
    await service.sql("""
        INSERT INTO event_fingerprint (fingerprint, received_at)
        SELECT int8send(extract(epoch FROM at)::bigint) || int8send(n), at
        FROM generate_series(1, 5001) AS n, LATERAL (SELECT now() - interval '8 days' - n * interval '1 s' AS at) AS t
    """)
    await service.sql("""
        INSERT INTO told_call (fingerprint, received_at, back_filled)
        SELECT int8send(n), now() - interval '33 days', false FROM generate_series(1, 5001) AS n
    """)


async def lines_past_the_retention(service: Service) -> None:
    await service.installed()
    await service.sql("""
        INSERT INTO audit (id, at, actor, action)
        SELECT 'aud_' || n, now() - interval '3 years', 'operator', 'token.read' FROM generate_series(1, 5001) AS n
    """)
    await service.sql("INSERT INTO audit (id, actor, action) VALUES ('aud_fresh', 'operator', 'token.read')")


async def figures_past_their_time(service: Service) -> None:
    """More minutes than are forgotten at once, an hour, what a wrong clock has put ahead, and some that stay."""
    await service.sql("""
        INSERT INTO figure (name, label, step, at, highest, amounts)
        SELECT 'acks', 'stored', 'minute', now() - interval '49 hours' - n * interval '1 minute', false, '{1}'::bigint[]
        FROM generate_series(1, 5001) AS n
        UNION ALL SELECT 'acks', 'stored', 'hour', now() - interval '401 days', false, '{1}'::bigint[]
        UNION ALL SELECT 'acks', 'stored', 'hour', now() + interval '30 days', false, '{1}'::bigint[]
        UNION ALL SELECT 'acks', 'stored', step, now() - interval '47 hours', false, '{1}'::bigint[]
        FROM unnest('{minute,hour}'::text[]) AS step
    """)


async def destinations_that_changed(service: Service) -> None:
    """One that went down, one that came back, and one that does as it was told."""
    partner = await service.partner()
    for number, (health, told) in enumerate((("down", "up"), ("up", "down"), ("down", "down"))):
        made = await partner.post("/v1/subscriptions", json=subscription_body(f"https://203.0.114.{number}/hook"))
        change = "UPDATE subscription SET health = $2, told_health = $3 WHERE id = $1"
        await service.sql(change, made.json()["id"], health, told)


async def urls_in_clear(service: Service) -> None:
    """As the version before this one left them."""
    partner = await service.partner()
    for number in range(2):
        url = f"https://203.0.114.7/hook?token={number}"
        made = await partner.post("/v1/subscriptions", json=subscription_body(url))
        await service.sql("UPDATE subscription SET url = $1, url_sealed = NULL WHERE id = $2", url, made.json()["id"])


async def attempts_past_the_retention(service: Service) -> None:
    await service.sql("""
        INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
        SELECT 'sub_1', 'evt_' || n, n, now() - interval '31 days', '200', 5 FROM generate_series(1, 5001) AS n
        UNION ALL SELECT 'sub_1', 'evt_fresh', 6000, now(), '200', 5
    """)


async def parked_events_that_the_log_has_dropped(service: Service) -> None:
    partner = await service.partner()
    made = await partner.post("/v1/subscriptions", json=subscription_body("https://203.0.114.7/hook"))
    await service.sql("INSERT INTO log_start (dropped_to) VALUES (5001)")
    beside = """
        INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, due_at)
        SELECT $1, n, now(), 'evt_' || n, 'ins_1', 3, 'status 500', now() FROM generate_series(1, 5003) AS n
    """
    await service.sql(beside, made.json()["id"])


OLD_FIGURES = "SELECT EXISTS (SELECT FROM figure WHERE at < now() - interval '48 hours' OR at > now())"


async def keys_of_yesterday(service: Service) -> None:
    partner = await service.partner()
    for number in range(2):
        body = subscription_body(f"https://203.0.114.{number}/hook")
        await partner.post("/v1/subscriptions", json=body, headers={"idempotency-key": f"key-{number}"})
    await service.sql("""
        UPDATE creation_key SET created_at = now() - interval '25 hours'
        WHERE fingerprint = (SELECT min(fingerprint) FROM creation_key)
    """)


async def a_person_to_erase(service: Service) -> None:
    """… whose events are beside those of another one; one of them is parked."""
    await service.installed()
    partner = await service.partner()
    await partner.post("/v1/subscriptions", json=subscription_body("https://203.0.114.1/hook"))
    for number in range(4):
        data = {"id": number, "raw_digits": "+44 20 7946 0123" if number % 2 else "+33 1 99 00 12 34"}
        body = {"resource": "call", "event": "call.ended", "token": service.webhook_token(), "timestamp": 1767261600}
        assert (await service.post_event(json.dumps(body | {"data": data}).encode())).status_code == 200
    await service.sql("""
        INSERT INTO parked
            (subscription_id, position, received_at, event_id, installation_id, attempts, reason, dead_at)
        SELECT subscription.id, event.position, received_at, event.id, installation_id, 1, 'http_500', now()
        FROM event, subscription WHERE data LIKE '%7946%' LIMIT 1
    """)
    assert (await partner.post("/v1/erasures", json={"phone": "+44 20 7946 0123"})).status_code == 202


async def a_customer_that_left_long_ago(service: Service) -> None:
    installation_id = await service.installed()
    partner = await service.partner()
    assert (await partner.delete(f"/v1/installations/{installation_id}")).status_code == 204
    long_ago = "UPDATE event SET received_at = now() - interval '2 minutes' WHERE type = 'installation.removed'"
    await service.sql(long_ago)


async def erasures_past_the_retention(service: Service) -> None:
    await service.installed()
    await service.sql("""
        WITH old AS (
            INSERT INTO erasure (id, status, kind, position, ended_at)
            SELECT 'era_' || n, 'done', 'phone', 1, now() - interval '3 years' FROM generate_series(1, 5001) AS n
            RETURNING id
        )
        INSERT INTO erasure_part (erasure_id, first, day, positions) SELECT id, 1, 'event_20200101', '{1}' FROM old
    """)
    await service.sql("INSERT INTO erasure (id, status, kind, position) VALUES ('era_fresh', 'done', 'phone', 1)")


LOOKS_DUE = "SELECT EXISTS (SELECT FROM webhook WHERE leased_until IS NOT NULL OR attempts > 0)"
# An installation that Aircall refuses is asked about once more.
NOT_ASKED_AGAIN = """
    SELECT EXISTS (SELECT FROM installation WHERE status = 'active') OR EXISTS (SELECT FROM webhook WHERE attempts = 0)
"""
LOOKED_AT_SOON = "SELECT count(*) FROM webhook WHERE due_at < now() + interval '4 minutes'"
TWO_DAYS_GO = """
    DO $$ BEGIN
        EXECUTE (SELECT string_agg('DROP TABLE ' || day, ';') FROM (
            SELECT inhrelid::regclass AS day FROM pg_inherits
            WHERE inhparent = 'event'::regclass ORDER BY 1 DESC LIMIT 2
        ) AS last);
    END $$
"""
DAYS_LEFT = """
    SELECT EXISTS (SELECT FROM pg_class WHERE relname < 'event_' || to_char(now() - interval '32 days', 'YYYYMMDD')
                   AND relname ~ '^event_[0-9]{8}$')
"""
TOLD_TWICE = ("webhook.disabled", "webhook.restored")


async def sessions_past_their_time(service: Service) -> None:
    numbered = """
        (SELECT 'old_' || n AS id, sha256(n::text::bytea) AS print, now() - interval '1 minute' AS until
         FROM generate_series(1, 5001) AS n
         UNION ALL SELECT 'fresh', sha256('fresh'), now() + interval '1 minute') AS numbered
    """
    await service.sql(f"""
        INSERT INTO console_link (id, fingerprint, person, scopes, expires_at)
        SELECT id, print, 'anna', ARRAY['console:read'], until FROM {numbered}
    """)
    await service.sql(f"""
        INSERT INTO console_session
            (id, fingerprint, actor, person, scopes, address, created_at, last_seen_at, expires_at)
        SELECT id, print, 'person:anna', 'anna', ARRAY['console:read'], '-', now(), now(), until FROM {numbered}
    """)
    await service.sql(f"""
        INSERT INTO console_form (fingerprint, begun_at, expires_at) SELECT print, now(), until FROM {numbered}
    """)


async def moments_a_month_ahead(service: Service) -> None:
    await service.installed()
    await service.sql(
        "UPDATE webhook SET due_at = due_at + interval '32 days', leased_until = now() + interval '32 days'"
    )


SCENES = (
    Scene(
        "look after webhooks",
        "one that is off",
        a_webhook_that_is_off,
        left=LOOKS_DUE,
        tells=(*TOLD_TWICE, "installation.changed"),
    ),
    Scene("look after webhooks", "one that is gone", a_webhook_that_is_gone, left=LOOKS_DUE, tells=TOLD_TWICE),
    Scene("look after webhooks", "one never made", a_webhook_that_was_never_made, left=LOOKS_DUE),
    Scene("look after webhooks", "one to be rotated", a_webhook_to_be_rotated, left=LOOKS_DUE),
    Scene(
        "look after webhooks",
        "a token refused before",
        a_token_refused_before,
        left=NOT_ASKED_AGAIN,
        tells=("installation.unauthorized",),
    ),
    Scene(
        "look after webhooks",
        "a token gone foreign",
        a_token_gone_foreign,
        left=NOT_ASKED_AGAIN,
        tells=("installation.unauthorized",),
    ),
    Scene(
        "look after webhooks",
        "a token taken again",
        a_token_taken_again,
        left=LOOKS_DUE,
        tells=("installation.connected",),
    ),
    Scene("look after troubles", "a burst", a_burst_of_errors, shows=LOOKED_AT_SOON, later=""),
    Scene("find overlooked webhooks", "two", webhooks_without_a_next_look, shows=LOOKED_AT_SOON, later=""),
    Scene(
        "delete retired webhooks",
        "two",
        two_retired_webhooks,
        left="SELECT EXISTS (SELECT FROM retired_webhook)",
    ),
    Scene("forget flows", "an old one", an_old_flow),
    Scene("forget install attempts", "an old one and an old count", an_old_attempt),
    Scene("expire claims", "what nobody claimed", what_nobody_claimed, settings={"RETURN_URLS": HOME}),
    Scene("notice uninstalls", "one", an_uninstall_in_the_log),
    Scene(
        "look at uninstalls",
        "a real one and a false one",
        a_real_uninstall_and_a_false_one,
        left="SELECT EXISTS (SELECT FROM uninstall)",
        tells=("installation.removed",),
    ),
    Scene("say goodbyes", "one", a_farewell, left="SELECT EXISTS (SELECT FROM farewell)"),
    Scene(
        "switch on again",
        "two that came back",
        two_that_came_back,
        left="SELECT EXISTS (SELECT FROM installation WHERE switch_on_at IS NOT NULL)",
    ),
    Scene(
        "fill gaps",
        "one of three pages",
        a_gap_of_three_pages,
        left="SELECT EXISTS (SELECT FROM gap WHERE done_at IS NULL)",
        tells=("call.ended",) * 100,
    ),
    Scene("forget gaps", "two", gaps_filled_long_ago),
    Scene("learn rhythms", "two", two_who_spoke),
    # A process makes the days at its start, so they are dropped once it runs; in the end all are there again.
    Scene("make days", "two", an_installation, once_open=TWO_DAYS_GO, changes=False),
    Scene("drop days", "two", days_past_the_retention, left=DAYS_LEFT),
    Scene("forget fingerprints", "more than a batch", fingerprints_past_their_time),
    Scene(
        "bring moments back",
        "a lease and a look a month ahead",
        moments_a_month_ahead,
        left=A_MONTH_AHEAD,
        shows=A_MONTH_AHEAD,
        later="",
    ),
    Scene("end silent sessions", "none", an_installation, only_reads=True, changes=False),
    Scene("measure", "an installation", an_installation, only_reads=True, changes=False),
    Scene(
        "forget figures", "more than a batch", figures_past_their_time, left=OLD_FIGURES, shows=OLD_FIGURES, later=""
    ),
    Scene("forget the audit", "more than a batch", lines_past_the_retention),
    Scene("forget console sessions", "many, and many links", sessions_past_their_time),
    Scene("seal urls", "two in clear", urls_in_clear, left=IN_CLEAR),
    Scene(
        "tell of destinations",
        "one that went down and one that came back",
        destinations_that_changed,
        left="SELECT EXISTS (SELECT FROM subscription WHERE told_health <> health)",
        tells=("subscription.down", "subscription.up"),
    ),
    Scene("tell of idle filters", "an installation", an_installation, only_reads=True, changes=False),
    Scene("forget attempts", "more than a batch", attempts_past_the_retention),
    Scene("forget parked", "more than a batch", parked_events_that_the_log_has_dropped),
    Scene("forget creation keys", "one of yesterday", keys_of_yesterday),
    Scene(
        "expire events",
        "of one type, in two days",
        events_past_their_types_retention,
        left="SELECT EXISTS (SELECT FROM event WHERE type = 'call.created' AND erased_at IS NULL)",
        shows="SELECT array_agg(erased_at IS NOT NULL ORDER BY id) FROM event WHERE source = 'aircall'",
        settings={"EVENT_RETENTION": "60d", "EVENT_TYPE_RETENTION": "call.*=1d"},
    ),
    Scene(
        "erase",
        "a person in some events, and what is parked of them",
        a_person_to_erase,
        left="SELECT EXISTS (SELECT FROM erasure WHERE status <> 'done')",
        shows="SELECT array_agg(erased_at IS NOT NULL ORDER BY position) FROM event WHERE source = 'aircall'",
    ),
    Scene(
        "erase the departed",
        "one that left long ago",
        a_customer_that_left_long_ago,
        left="SELECT NOT EXISTS (SELECT FROM erasure)",
        settings={"ERASE_AFTER_UNINSTALL": "1s"},
    ),
    Scene("forget erasures", "more than a batch", erasures_past_the_retention),
)
