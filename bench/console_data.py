"""What a large service holds: installations, subscriptions, days of the log, tries, and numbers over time.

Written by PostgreSQL itself. A day's partition is filled before it joins the log, so its indexes are built at once.
"""

import time

import asyncpg

from aircall_oauth.resources import vault_of
from aircall_oauth.storage.sealed import SECRET_COLUMN, TOKEN_COLUMN, TOKEN_PURPOSE
from aircall_oauth.storage.vault import SealedAt
from bench import ground

CUSTOMERS = """
    INSERT INTO installation (id, status, owner, company_id, integration_id, company_name, number_ids, token_sealed,
        token_fingerprint, connected_at)
    SELECT 'ins_' || md5(n::text), 'active', 'owner-' || n, 10000 + n, 10000 + n, 'Company ' || n, ARRAY[n], 'x',
        decode(md5(n::text), 'hex'), now() - interval '40 days'
    FROM generate_series(1, {installations}) AS n;
    INSERT INTO webhook (id, installation_id, status, webhook_id, token_fingerprint, checked_at, due_at)
    SELECT 'whk_' || md5(n::text), 'ins_' || md5(n::text), CASE WHEN n % 100 = 0 THEN 'disabled' ELSE 'active' END,
        md5(n::text), decode(md5('w' || n), 'hex'), now(), now() + interval '1 day'
    FROM generate_series(1, {installations}) AS n;
    INSERT INTO rhythm (installation_id, hour, spoke, silent_at)
    SELECT 'ins_' || md5(n::text), extract(epoch FROM now())::bigint / 3600 - 1, repeat('10', 336)::bit(672),
        CASE WHEN n % 100 = 1 THEN now() - interval '1 hour' END
    FROM generate_series(1, {installations}) AS n;
    INSERT INTO gap (id, installation_id, reason, since)
    SELECT 'gap_' || md5(n::text), 'ins_' || md5(n::text), 'webhook_disabled', now() - interval '1 hour'
    FROM generate_series(100, {installations}, 100) AS n;
    INSERT INTO install_attempt (id, reference, owner, installation_id, company_name, created_at, made_at, consented_at,
        ending, ended_at)
    SELECT 'att_' || md5(n::text), upper(left(md5(n::text), 12)), 'owner-' || n % {installations},
        'ins_' || md5((n % {installations} + 1)::text), 'Company', at, at, at, CASE WHEN n % 3 = 0 THEN 'declined'
        ELSE 'connected' END, at
    FROM generate_series(1, {installations} * 3) AS n, LATERAL (SELECT now() - n * interval '3 min' AS at) AS one;
    INSERT INTO audit (id, at, actor, action, installation_id, request_id, owner)
    SELECT 'aud_' || md5(n::text), now() - n * interval '5 s', 'key_' || md5('1'), 'aircall.read',
        'ins_' || md5((n % {installations} + 1)::text), 'req_' || md5(n::text), 'owner-' || n % {installations} + 1
    FROM generate_series(1, {installations} * 100) AS n
"""
DAY = """
    CREATE TABLE event_{name} (LIKE event INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
    INSERT INTO event_{name} (position, received_at, id, installation_id, company_id, owner, type, resource, subject,
        source, data)
    SELECT {first} + n, '{begin}'::timestamptz + n * interval '{every} s', 'evt_' || md5(({first} + n)::text),
        'ins_' || md5(k::text), 10000 + k, 'owner-' || k, t.type, 'call', 'call:' || (2400000000 + ({first} + n) / 8),
        'aircall', '{{"id":' || n || ',"direction":"inbound","status":"done","note":"' || repeat('x', 200) || '"}}'
    FROM generate_series(1, {events}) AS n,
        LATERAL (SELECT 1 + (n * 7919::bigint) % {installations} AS k) AS one,
        LATERAL (SELECT (ARRAY['call.created', 'call.answered', 'call.hungup', 'call.ended'])[1 + n % 4] AS type) AS t;
    ALTER TABLE event ATTACH PARTITION event_{name} FOR VALUES FROM ('{begin}') TO ('{end}')
"""
# One destination in twenty is down, one is behind, one refuses everything, one gave up on a lot.
DESTINATIONS = """
    INSERT INTO subscription (id, name, kind, url, secret_sealed, types, owners, installations, ordering, status,
        position, health, last_error, last_error_at, created_at)
    SELECT 'sub_' || md5(n::text), 'destination ' || n, 'http', 'https://' || n || '.example.com/hook', 'x',
        CASE n % 4 WHEN 0 THEN ARRAY['call.*'] ELSE '{{}}' END, '{{}}', '{{}}', 'none', 'active',
        {newest} - CASE n % 20 WHEN 2 THEN {events} / 2 WHEN 1 THEN {events} / 4 ELSE 0 END,
        CASE n % 20 WHEN 1 THEN 'down' ELSE 'up' END, 'http_503', now(), now() - interval '40 days'
    FROM generate_series(1, {subscriptions}) AS n;
    INSERT INTO attempt (subscription_id, event_id, position, at, outcome, milliseconds)
    SELECT 'sub_' || md5(k::text), 'evt_' || md5(p::text), p, now() - (1000000 - n) * interval '10 ms',
        CASE WHEN k % 20 IN (1, 3) THEN 'http_501' ELSE 'delivered' END, 20
    FROM generate_series(1, 1000000) AS n, LATERAL (SELECT 1 + n % {subscriptions} AS k) AS one,
        LATERAL (SELECT {newest} - 1000000 / {subscriptions} + n / {subscriptions} AS p) AS two;
    INSERT INTO parked (subscription_id, position, received_at, event_id, installation_id, attempts, reason, due_at,
        dead_at)
    SELECT 'sub_' || md5(k::text), {newest} - n, now() - n * interval '1 s', 'evt_' || md5(({newest} - n)::text),
        'ins_' || md5('1'), 3, 'http_501', CASE WHEN k % 20 = 3 THEN now() END, CASE WHEN k % 20 = 4 THEN now() END
    FROM generate_series(1, {subscriptions}) AS k, generate_series(1, 20000) AS n WHERE k % 20 IN (3, 4)
"""
FIGURES = """
    INSERT INTO figure (name, label, step, at, highest, amounts)
    SELECT f.name, f.label, s.step, at, f.name = 'lag', f.amounts
    FROM (
        SELECT 'deliveries' AS name, 'sub_' || md5(n::text) AS label, CASE WHEN n % 20 IN (1, 3) THEN '{{9,0,9}}'
            ELSE '{{9,9,0}}' END::bigint[] AS amounts FROM generate_series(1, {subscriptions}) AS n
        UNION ALL SELECT 'lag', 'sub_' || md5(n::text), '{{9,9,9,9}}' FROM generate_series(1, 40) AS n
        UNION ALL SELECT name, label, amounts::bigint[] FROM (VALUES ('deliveries', '', '{{1800,1800,9}}'),
            ('lag', '', '{{9,9,9,9}}'), ('acks', 'stored', '{{694}}'), ('acks', 'repeated', '{{7}}'),
            ('acks', 'webhook_token_unknown', '{{1}}'), ('ack_seconds', '', '{{0,694,0,0,0,0,0,0,0,0,0,0}}'),
            ('alive', 'web', '{{1}}'), ('alive', 'worker', '{{1}}')) AS of_all (name, label, amounts)
    ) AS f CROSS JOIN (
        SELECT 'minute' AS step, at FROM generate_series(date_trunc('minute', now() - interval '48 hours'), now(),
            interval '1 minute') AS at
        UNION ALL SELECT 'hour', at FROM generate_series(date_trunc('hour', now() - interval '30 days'), now(),
            interval '1 hour') AS at
    ) AS s
"""
DAY_SECONDS = 86_000


async def fill(url: str, *, installations: int, subscriptions: int, days: int, events: int) -> None:
    """Fill a new database; the last of the days is today, until now."""
    await ground.prepare(url)
    connection = await asyncpg.connect(url, command_timeout=3000)
    try:
        await connection.execute("DROP TABLE IF EXISTS event_" + time.strftime("%Y%m%d", time.gmtime()))
        await connection.execute(CUSTOMERS.format(installations=installations))
        started = time.perf_counter()
        for number in range(days):
            await _day(connection, days - 1 - number, number * events, events, installations)
            ground.say(f"  day {number + 1} of {days}: {time.perf_counter() - started:.0f} s")
        newest = days * events
        await connection.fetchval("SELECT setval('event_position', $1)", newest)
        await connection.execute(DESTINATIONS.format(newest=newest, events=events, subscriptions=subscriptions))
        await _seal(connection, url)
        await connection.execute(FIGURES.format(subscriptions=subscriptions))
        await connection.execute("VACUUM ANALYZE")
        size = await connection.fetchval("SELECT pg_size_pretty(pg_database_size(current_database()))")
        ground.say(f"  {days * events:,} events, {size}, filled within {time.perf_counter() - started:.0f} s")
    finally:
        await connection.close()


async def _seal(connection: asyncpg.Connection, url: str) -> None:
    """Seal a token for each installation and a secret for each subscription, as a service must be able to open them."""
    vault = vault_of(ground.settings_for(url))
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM installation WHERE token_sealed = 'x'")]
    await connection.execute(
        """
        UPDATE installation SET token_sealed = sealed, token_fingerprint = fingerprint
        FROM unnest($1::text[], $2::text[], $3::bytea[]) AS of (one, sealed, fingerprint) WHERE id = one
        """,
        ids,
        [vault.seal(one, SealedAt(TOKEN_COLUMN, one)) for one in ids],
        [vault.fingerprint(one, TOKEN_PURPOSE) for one in ids],
    )
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM subscription")]
    await connection.execute(
        """
        UPDATE subscription SET secret_sealed = sealed
        FROM unnest($1::text[], $2::text[]) AS of (one, sealed) WHERE id = one
        """,
        ids,
        [vault.seal("bench", SealedAt(SECRET_COLUMN, one)) for one in ids],
    )


async def _day(connection: asyncpg.Connection, ago: int, first: int, events: int, installations: int) -> None:
    midnight = time.time() // 86_400 * 86_400 - ago * 86_400
    seconds = DAY_SECONDS if ago else time.time() % 86_400 - 1
    name, end = (time.strftime("%Y%m%d", time.gmtime(midnight + n * 86_400)) for n in (0, 1))
    await connection.execute(
        DAY.format(
            name=name,
            begin=f"{name}Z",
            end=f"{end}Z",
            first=first,
            events=events,
            every=seconds / (events + 1),
            installations=installations,
        )
    )
