"""Aircall's door: whatever is posted is kept once and unchanged, or refused for a reason; it never breaks."""

import asyncio
import base64
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import msgspec
import pytest
from dirty_equals import IsStr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aircall_oauth.access.scopes import Scope
from aircall_oauth.errors import InboxFull
from aircall_oauth.events.receiver import body as bodies
from aircall_oauth.events.receiver import inbox
from aircall_oauth.events.receiver.statement import Arrival, TakenIn
from aircall_oauth.events.receiver.writers import open_inbox
from aircall_oauth.sandbox.postgres import Postgres
from aircall_oauth.storage import locks, migrations
from aircall_oauth.storage.sealed import WEBHOOK_TOKEN_PURPOSE
from aircall_oauth.telemetry.metrics import Metrics
from tests.support.fixtures import lasting_service
from tests.support.processes import eventually
from tests.support.service import Service, run_service, settings_for, until
from tests.support.serving import over_http

SAMPLES = sorted((Path(__file__).parents[2] / "src/aircall_oauth/sandbox/samples").glob("event.*.json"))
SAMPLE_TOKEN = re.compile(rb'(?<="token": ")[^"]*')
MAX_BODY_BYTES = 1024 * 1024
FULL_DISK = (
    """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'could not extend file: no space left on device' USING ERRCODE = 'disk_full';
    END $$
    """,
    "CREATE TRIGGER full_disk BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION full_disk()",
)
T = TypeVar("T")
WAYS = ["asgi", "direct"]
NO_EVENTS = "WITH all_known AS (DELETE FROM event_fingerprint) DELETE FROM event"
# Aircall waits five seconds; an answer has to be on its way before.
ANSWER_SECONDS = 4.8

MALFORMED = {
    "nothing": b"",
    "blank": b" \r\n",
    "not JSON": b"event=call.created&token=TOKEN",
    "not UTF-8": b'{"event":"call.created","token":"TOKEN","data":"\xff"}',
    "a surrogate in UTF-8": b'{"event":"call.created","token":"TOKEN","data":"\xed\xa0\x80"}',
    "an overlong UTF-8 sequence": b'{"event":"call.created","token":"TOKEN","data":"\xc0\xaf"}',
    "UTF-16": '{"event":"call.created","token":"TOKEN","data":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"event":"call.created","token":"TOKEN","data":1}'.encode("utf-16-le"),
    "a byte order mark": b'\xef\xbb\xbf{"event":"call.created","token":"TOKEN","data":1}',
    "null": b"null",
    "a number": b"1",
    "an array": b'[{"event":"call.created","token":"TOKEN","data":1}]',
    "no token": b'{"event":"call.created","data":1}',
    "a token that is a number": b'{"event":"call.created","token":1,"data":1}',
    "a token that is null": b'{"event":"call.created","token":null,"data":1}',
    "a token that is an object": b'{"event":"call.created","token":{"a":"TOKEN"},"data":1}',
    "an empty token": b'{"event":"call.created","token":"","data":1}',
    "a token that is too long": b'{"event":"call.created","token":"%s","data":1}' % (b"t" * 1025),
    "no event": b'{"token":"TOKEN","data":1}',
    "an event that is null": b'{"event":null,"token":"TOKEN","data":1}',
    "an empty event": b'{"event":"","token":"TOKEN","data":1}',
    "an event that is too long": b'{"event":"%s","token":"TOKEN","data":1}' % (b"e" * 256),
    "an event with a NUL": b'{"event":"call\\u0000created","token":"TOKEN","data":1}',
    "an event with half a surrogate pair": b'{"event":"call\\udc00","token":"TOKEN","data":1}',
    "an event with a line break": b'{"event":"call.created\\n","token":"TOKEN","data":1}',
    "no data": b'{"event":"call.created","token":"TOKEN"}',
    "data with a raw NUL": b'{"event":"call.created","token":"TOKEN","data":"\0"}',
    "data with a raw line break": b'{"event":"call.created","token":"TOKEN","data":"\n"}',
    "data with an unknown escape": b'{"event":"call.created","token":"TOKEN","data":"\\x00"}',
    "NaN": b'{"event":"call.created","token":"TOKEN","data":NaN}',
    "Infinity": b'{"event":"call.created","token":"TOKEN","data":Infinity}',
    "-Infinity": b'{"event":"call.created","token":"TOKEN","data":[-Infinity]}',
    "a leading zero": b'{"event":"call.created","token":"TOKEN","data":01}',
    "a number without digits": b'{"event":"call.created","token":"TOKEN","data":-}',
    "a trailing comma": b'{"event":"call.created","token":"TOKEN","data":[1,]}',
    "a comment": b'{"event":"call.created","token":"TOKEN","data":1 /* one */}',
    "something after the end": b'{"event":"call.created","token":"TOKEN","data":1}x',
    "two events": b'{"event":"call.created","token":"TOKEN","data":1}' * 2,
    "a NUL after the end": b'{"event":"call.created","token":"TOKEN","data":1}\0',
    "an end that is missing": b'{"event":"call.created","token":"TOKEN","data":{"id":1}',
    "3,000 arrays deep": b'{"event":"call.created","token":"TOKEN","data":%s}' % (b"[" * 3000 + b"]" * 3000),
    "3,000 objects deep": b'{"event":"call.created","token":"TOKEN","data":%s1%s}' % (b'{"a":' * 3000, b"}" * 3000),
    "101 levels deep": b'{"event":"call.created","token":"TOKEN","data":%s}' % (b"[" * 100 + b"]" * 100),
    "deep in an extra field": b'{"a":%s,"event":"a","token":"TOKEN","data":1}' % (b"[" * 3000 + b"]" * 3000),
}

SLOW = {
    "a megabyte of [": b"[" * MAX_BODY_BYTES,
    "a megabyte of [ in data": b'{"event":"a","token":"TOKEN","data":' + b"[" * 1_000_000,
    "a megabyte of {": b'{"a":' * 200_000,
    "a string of escaped quotes that does not end": b'{"data":[' + b"[]," * 101 + b'"' + b'\\"' * 500_000,
    "a string of backslashes that does not end": b'{"data":[' + b"[]," * 101 + b'"' + b"\\" * 1_000_000,
    "quotes only": b'"' * MAX_BODY_BYTES,
    "a number of a million digits, cut off": b'{"event":"a","token":"TOKEN","data":' + b"1" * 1_000_000,
    "a field twice": b'{"event":"call.created","token":"other","token":"TOKEN","data":1}',
    "a field twice, once escaped": b'{"event":"call.created","token":"other","\\u0074oken":"TOKEN","data":1}',
    "data twice": b'{"event":"call.created","token":"TOKEN","data":1,"data":2}',
    "data twice, the second in another spelling": b'{"event":"a","token":"TOKEN","data":1,"\\u0064ata":3e999}',
    "a hundred thousand keys, cut off": (
        b'{"event":"a","token":"TOKEN","data":{' + b"".join(b'"%x":0,' % n for n in range(100_000)) + b'"0":0'
    ),
}

# Text for `data` that a reader and writer of JSON would change.
AS_IT_CAME = {
    "null": b"null",
    "false": b"false",
    "an empty string": b'""',
    "nothing in it": b"{ }",
    "odd whitespace": b'{ "a" :\t1 ,\r\n\n"b":[ ] }',
    "key order": b'{"z":1,"a":2,"M":3}',
    "escaped unicode": b'"\\u00e9 \\ud83d\\ude00 \\/ \\u0041"',
    "plain unicode": '"é 😀 \u2028 \ufeff \x7f"'.encode(),
    "an escaped NUL": b'"a\\u0000b"',
    "numbers": b"[1.0, 1e5, 1E+5, -0, -0.0, 1.10, 0.1e-7]",
    "a number beyond a double": b"[1e999, -1e999, 1e-999]",
    "an id of 64 bits": b'{"id":9223372036854775807}',
    "an id beyond 64 bits": b'{"id":340282366920938463463374607431768211457}',
    "a number of 5,000 digits": b"1" * 5000,
    "100 levels deep": b"[" * 99 + b"]" * 99,
    "brackets in a string": b'"' + b'[{\\"' * 500 + b'"',
    "a key twice": b'{"id":1,"a":{},"id":2}',
    "a token of its own": b'{"token":"something else","event":"x","data":{"data":1}}',
}


class _Read(msgspec.Struct):
    type: str
    resource: str | None
    occurred_at: str | None
    data: msgspec.Raw


class _Log(msgspec.Struct):
    events: list[_Read]


@pytest.fixture(scope="module")
async def shared_service(postgres: Postgres) -> AsyncIterator[Service]:
    """A service with one installation: for tests that leave nothing but events behind."""
    async with lasting_service(postgres) as running:
        await running.install()
        yield running


@pytest.fixture(params=WAYS)
async def connected(shared_service: Service, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """The service with one installation and no event yet, met by each of its two ways for events.

    `service.webhook_token()` is the token of its webhook.
    """
    await shared_service.sql(NO_EVENTS)
    async with met_by(request.param, shared_service) as met:
        yield met


@pytest.fixture(params=WAYS)
async def alone(service: Service, request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """The same for one test only, which may break it."""
    await service.install()
    async with met_by(request.param, service) as met:
        yield met


@asynccontextmanager
async def met_by(way: str, service: Service) -> AsyncIterator[Service]:
    if way == "asgi":
        yield service
    else:
        async with over_http(service) as served:
            yield served


async def test_a_body_that_is_no_event_is_refused(connected: Service) -> None:
    answers = {name: await _post_with_token(connected, body) for name, body in MALFORMED.items()}

    assert dict.fromkeys(MALFORMED, 400) == {name: answer.status_code for name, answer in answers.items()}
    for answer in answers.values():
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "type": "urn:aircall-oauth:problem:event_malformed",
            "title": "The body is not an Aircall event.",
            "status": 400,
            "detail": "The body is not an Aircall event.",
            "code": "event_malformed",
            "request_id": answer.headers["x-request-id"],
        }
    assert await _stored(connected) == 0


@pytest.mark.timeout(20)
async def test_a_body_made_to_be_slow_is_refused_all_the_same(connected: Service) -> None:
    answers = {name: await _post_with_token(connected, body) for name, body in SLOW.items()}

    assert dict.fromkeys(SLOW, 400) == {name: answer.status_code for name, answer in answers.items()}
    assert await _stored(connected) == 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_over_a_mebibyte_is_refused(connected: Service, declared: bool) -> None:
    body = _of_size(connected, MAX_BODY_BYTES + 1)

    answer = await _post(connected, body if declared else _chunks(body))

    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "body_too_large"
    assert await _stored(connected) == 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_of_a_mebibyte_is_kept(connected: Service, declared: bool) -> None:
    body = _of_size(connected, MAX_BODY_BYTES)

    answer = await _post(connected, body if declared else _chunks(body))

    assert answer.status_code == 200
    assert await _stored(connected) == 1


async def test_a_body_over_a_mebibyte_is_not_read_to_its_end(service: Service) -> None:
    chunks_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks_read
        while True:
            chunks_read += 1
            yield b" " * 65536

    answer = await _post(service, endless())

    assert answer.status_code == 413
    assert chunks_read == 17


async def test_a_body_that_does_not_arrive_is_not_waited_for(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)

    async def stuck() -> AsyncIterator[bytes]:
        yield b'{"event":'
        await asyncio.Event().wait()

    answer = await _answered_in_time(_post(service, stuck()))

    assert answer.status_code == 408
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "body_too_slow"


async def test_a_content_encoding_is_refused(connected: Service) -> None:
    for encoding in ("gzip", "deflate", "br", "GZIP", "identity, gzip", "nonsense"):
        answer = await connected.post_event(_event(connected), {"content-encoding": encoding})

        assert answer.status_code == 415, encoding
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "encoding_refused"
    assert await _stored(connected) == 0


async def test_no_content_encoding_may_be_said_aloud(connected: Service) -> None:
    answer = await connected.post_event(_event(connected), {"content-encoding": "Identity"})

    assert answer.status_code == 200


async def test_another_method_is_refused(connected: Service) -> None:
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"):
        answer = await connected.browser.request(method, "/aircall/webhook", content=_event(connected))

        assert answer.status_code == 405, method
        assert answer.headers["allow"] == "POST"
        assert answer.headers["content-type"] == "application/problem+json"
    assert await _stored(connected) == 0


async def test_the_content_type_is_not_looked_at(connected: Service) -> None:
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        answer = await connected.post_event(_event(connected), {"content-type": content_type})

        assert answer.status_code == 200, content_type


async def test_an_unknown_token_is_refused_and_nothing_kept(connected: Service) -> None:
    for token in ("unknown", "0" * 1024, "\\u0000", "\\ud800", "\\u00e9", "%s", "' OR 1=1 --"):
        answer = await connected.post_event(_envelope(token, b"{}"))

        assert answer.status_code == 401, token
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "webhook_token_unknown"
    assert await _stored(connected) == 0
    assert await connected.sql("SELECT * FROM event_fingerprint") == []


@pytest.mark.slow
async def test_an_event_that_was_refused_for_its_token_is_kept_once_the_token_is_known(alone: Service) -> None:
    (before,) = await alone.sql("SELECT token_fingerprint FROM webhook")
    await alone.sql("UPDATE webhook SET token_fingerprint = NULL")
    early = await alone.post_event(_event(alone))

    await alone.sql("UPDATE webhook SET token_fingerprint = $1", before["token_fingerprint"])
    again = await alone.post_event(_event(alone))

    assert [early.status_code, again.status_code] == [401, 200]
    assert await _stored(alone) == 1


@pytest.mark.parametrize("status", ["removed", "unclaimed"])
async def test_an_event_of_an_installation_that_is_not_in_use_is_refused(alone: Service, status: str) -> None:
    if status == "removed":
        await alone.sql("UPDATE installation SET status = 'removed', token_sealed = NULL, token_fingerprint = NULL")
    else:
        await alone.sql("UPDATE installation SET status = $1", status)

    answer = await alone.post_event(_event(alone))

    assert answer.status_code == 401
    assert await _stored(alone) == 0


async def test_an_event_of_an_installation_whose_token_no_longer_works_is_kept(alone: Service) -> None:
    await alone.sql("UPDATE installation SET status = 'unauthorized'")

    answer = await alone.post_event(_event(alone))

    assert answer.status_code == 200
    assert await _stored(alone) == 1


async def test_an_event_is_of_the_installation_whose_webhook_it_came_through(service: Service) -> None:
    ids = [await service.install(company) for company in service.aircall.companies[:2]]
    tokens = [service.aircall.webhooks.of(company.id)[0].token for company in service.aircall.companies[:2]]

    for token in tokens:
        assert (await service.post_event(_envelope(token, b'{"id":1}'))).status_code == 200

    rows = await service.sql("SELECT installation_id, company_id FROM event WHERE source = 'aircall' ORDER BY position")
    assert [row["installation_id"] for row in rows] == ids
    assert [row["company_id"] for row in rows] == [company.id for company in service.aircall.companies[:2]]


async def test_data_is_kept_byte_for_byte(connected: Service) -> None:
    token = connected.webhook_token()

    answers = [await connected.post_event(_envelope(token, data)) for data in AS_IT_CAME.values()]

    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"ok": True}
    assert list(AS_IT_CAME.values()) == [bytes(event.data) for event in await _read_back(connected)]


async def test_every_event_that_aircall_documents_is_kept_byte_for_byte(connected: Service) -> None:
    token = connected.webhook_token().encode()
    bodies = [SAMPLE_TOKEN.sub(token, path.read_bytes()) for path in SAMPLES]

    answers = [await connected.post_event(body) for body in bodies]

    assert {200} == {answer.status_code for answer in answers}
    sent = [json.loads(body) for body in bodies]
    kept = await _read_back(connected)
    assert [event["event"] for event in sent] == [event.type for event in kept]
    assert [event["resource"] for event in sent] == [event.resource for event in kept]
    assert [_data_of(body) for body in bodies] == [bytes(event.data) for event in kept]


async def test_an_event_that_nobody_knows_yet_is_kept(connected: Service) -> None:
    names = ["call.invented_tomorrow", "x", "e" * 255, "<script>", "call.created'--", '"', "~"]

    for name in names:
        body = _envelope(connected.webhook_token(), b"{}", event=json.dumps(name))
        assert (await connected.post_event(body)).status_code == 200, name

    assert names == [event.type for event in await _read_back(connected)]


async def test_when_an_event_occurred_is_told_where_it_is_plausible(connected: Service) -> None:
    occurred_at = {
        "1767261600": "2026-01-01T10:00:00Z",
        "1767261600456": "2026-01-01T10:00:00.456000Z",
        "1767261600.5": "2026-01-01T10:00:00.500000Z",
        "1.7672616e9": "2026-01-01T10:00:00Z",
        **dict.fromkeys(("0", "-1", "null", "true", '"2026-01-01"', "[1767261600]", "{}")),
        **dict.fromkeys(("1e308", "1e999", "-1e999", "1" + "0" * 400, "9" * 5000)),
    }

    for timestamp in occurred_at:
        body = _envelope(connected.webhook_token(), b"{}", timestamp=timestamp)
        assert (await connected.post_event(body)).status_code == 200, timestamp

    assert list(occurred_at.values()) == [event.occurred_at for event in await _read_back(connected)]


async def test_a_resource_that_is_no_plain_word_is_not_told(connected: Service) -> None:
    resources = ["null", "1", "{}", '"a\\u0000b"', '"\\u00e9"', '""', "1e999", "9" * 5000]

    for number, resource in enumerate(resources):
        body = _envelope(connected.webhook_token(), b"%d" % number, resource=resource)
        assert (await connected.post_event(body)).status_code == 200, resource

    assert [None] * len(resources) == [event.resource for event in await _read_back(connected)]


async def test_three_fields_are_enough_and_more_are_no_harm(connected: Service) -> None:
    few = b'{"data":{},"token":"%s","event":"a"}' % connected.webhook_token().encode()
    many = b'{"data":{},"token":"%s","event":"b","signature":[1],"":{}}' % connected.webhook_token().encode()

    answers = [await connected.post_event(body) for body in (few, many)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [event.type for event in await _read_back(connected)] == ["a", "b"]


async def test_half_an_emoji_as_javascript_writes_it_is_kept_as_it_came(connected: Service) -> None:
    cut = b'{"body":"See you \\ud83d","id":1}'

    answer = await connected.post_event(_envelope(connected.webhook_token(), cut, event='"message.received"'))

    assert answer.status_code == 200
    page = await (await connected.partner()).get("/v1/events")
    assert cut in page.content


async def test_an_event_posted_fifty_times_at_once_is_kept_once(connected: Service) -> None:
    answers = await asyncio.gather(*(connected.post_event(_event(connected)) for _ in range(50)))

    assert [answer.status_code for answer in answers] == [200] * 50
    assert await _stored(connected) == 1


async def test_what_differs_in_anything_is_another_event(connected: Service) -> None:
    token = connected.webhook_token()
    bodies = [
        _envelope(token, b'{"id":1}', event='"user.connected"', timestamp="1767261600"),
        _envelope(token, b'{"id":1}', event='"user.connected"', timestamp="1767348000"),
        _envelope(token, b'{"id":1}', event='"user.opened"', timestamp="1767261600"),
        _envelope(token, b'{"id":2}', event='"user.connected"', timestamp="1767261600"),
    ]

    for body in bodies * 2:
        assert (await connected.post_event(body)).status_code == 200

    assert await _stored(connected) == len(bodies)


async def test_the_same_event_of_two_installations_is_two_events(service: Service) -> None:
    for company in service.aircall.companies[:2]:
        await service.install(company)
        (webhook,) = service.aircall.webhooks.of(company.id)
        assert (await service.post_event(_envelope(webhook.token, b"{}"))).status_code == 200

    assert await _stored(service) == 2


async def test_the_token_is_nowhere_in_the_database(alone: Service) -> None:
    token = alone.webhook_token()
    for path in SAMPLES[:5]:
        await alone.post_event(SAMPLE_TOKEN.sub(token.encode(), path.read_bytes()))
    await alone.post_event(b"{" + _event(alone))

    rows = await _everything(alone)

    assert any('"call_uuid"' in row for row in rows)
    forms = [token, token.encode().hex(), base64.b64encode(token.encode()).decode().rstrip("=")]
    assert [row for row in rows for form in forms if form in row] == []


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_with_the_database_away_aircall_is_told_to_repeat_and_nothing_is_lost(own_postgres: Postgres) -> None:
    async with _running_on(own_postgres) as service:
        own_postgres.kill()

        answer = await _answered_in_time(service.post_event(_event(service)))
        ready, live = await _answered_in_time(service.browser.get("/readyz")), await service.browser.get("/livez")
        own_postgres.restart()
        again = await service.post_event(_event(service))
        ready_again = await service.browser.get("/readyz")

        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "database_away"
        assert [ready.status_code, live.status_code] == [503, 200]
        assert ready.headers["content-type"] == "application/problem+json"
        assert [again.status_code, ready_again.status_code] == [200, 200]
        assert await _stored(service) == 1


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_with_a_database_that_stands_still_aircall_is_told_to_repeat(own_postgres: Postgres) -> None:
    async with _running_on(own_postgres) as service:
        with await _standing_still(own_postgres):
            answers = await _answered_in_time(asyncio.gather(*(service.post_event(_event(service)) for _ in range(20))))
            ready = await _answered_in_time(service.browser.get("/readyz"))
        again = await service.post_event(_event(service))

        assert {503} == {answer.status_code for answer in answers}
        assert {"retry-after"} <= answers[0].headers.keys()
        assert ready.status_code == 503
        assert again.status_code == 200
        assert await _stored(service) == 1


async def test_with_the_log_locked_for_long_aircall_is_told_to_repeat(alone: Service) -> None:
    async with _log_locked(alone):
        answer = await _answered_in_time(alone.post_event(_event(alone)))
    again = await alone.post_event(_event(alone))

    assert answer.status_code == 503
    assert again.status_code == 200
    assert await _stored(alone) == 1


async def test_a_full_inbox_says_so_at_once_and_loses_nothing(
    connected: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_WAITING", 10)
    async with _log_locked(connected):
        posts = [asyncio.create_task(connected.post_event(body)) for body in _events(connected, 40)]
        await until(lambda: sum(post.done() for post in posts) >= 20)
    answers = await asyncio.gather(*posts)

    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(503, "inbox_full", "2")} == {(a.status_code, a.json()["code"], a.headers["retry-after"]) for a in refused}
    assert len(answers) - len(refused) == await _stored(connected) >= 10


async def test_an_event_that_the_database_refuses_fails_no_other(
    alone: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_GROUP", 8)
    await alone.sql("ALTER TABLE event ADD CHECK (data NOT IN ('7', '8', '19'))")
    async with _log_locked(alone):
        posts = [asyncio.create_task(alone.post_event(body)) for body in _events(alone, 40)]
        await until(lambda: alone.app.state.inbox.depth == 24)
    answers = await asyncio.gather(*posts)

    assert [400 if number in {7, 8, 19} else 200 for number in range(40)] == [a.status_code for a in answers]
    assert await _stored(alone) == 37


async def test_a_database_that_can_not_right_now_refuses_no_event(alone: Service) -> None:
    for statement in FULL_DISK:
        await alone.sql(statement)
    answers = await _answered_in_time(asyncio.gather(*map(alone.post_event, _events(alone, 10))))
    await alone.let_pass("full_disk")
    again = await asyncio.gather(*map(alone.post_event, _events(alone, 10)))

    assert [503] * 10 == [answer.status_code for answer in answers]
    assert [200] * 10 == [answer.status_code for answer in again]
    assert await _stored(alone) == 10


async def test_who_hangs_up_stops_no_commit(connected: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MAX_GROUP", 8)
    async with _log_locked(connected):
        posts = [asyncio.create_task(connected.post_event(body)) for body in _events(connected, 40)]
        await until(lambda: connected.app.state.inbox.depth == 24)
        for post in posts[::2]:
            post.cancel()
    await asyncio.gather(*posts, return_exceptions=True)

    assert [200] * 20 == [post.result().status_code for post in posts[1::2]]
    await eventually(lambda: _stored_at_least(connected, 40))


async def test_an_inbox_that_closes_keeps_what_it_has_taken(connected: Service) -> None:
    token = connected.resources.vault.fingerprint(connected.webhook_token(), WEBHOOK_TOKEN_PURPOSE)
    arrivals = [Arrival(token, "call.created", None, None, b"%d" % number, "{}") for number in range(1000)]

    async with open_inbox(connected.resources.database, Metrics()) as own:
        waiting = [asyncio.create_task(own.take_in(arrival)) for arrival in arrivals]
        await until(lambda: own.depth > 0)
    outcomes = [outcome.result() for outcome in waiting]
    with pytest.raises(InboxFull):
        await own.take_in(arrivals[0])

    assert [TakenIn.STORED] * 1000 == outcomes
    assert await _stored(connected) == 1000


# One database for all examples: each one says what it added.
GENERATED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["event", "token", "data", "timestamp", "resource"]) | st.text(max_size=3)


@st.composite
def _like_an_event(draw: st.DrawFn) -> bytes:
    """JSON with an event's fields, some of them right."""
    fields = draw(st.dictionaries(NAMES, JSON, max_size=6))
    for name, good in (("event", "call.created"), ("token", "TOKEN"), ("data", {"id": 1})):
        if draw(st.booleans()):
            fields[name] = draw(JSON) if name == "data" else good
    return json.dumps(fields, ensure_ascii=draw(st.booleans())).encode()


@st.composite
def _damaged_event(draw: st.DrawFn) -> bytes:
    """A good event with some bytes cut out, put in or changed."""
    body = bytearray(
        b'{"resource":"call","event":"call.created","timestamp":1767261600,"token":"TOKEN","data":{"id":1}}'
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from([b"", b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\0", b"\xff", b"\xc3\xa9", b"1e5", b" "])
            | st.binary(max_size=4)
        )
    return bytes(body)


@pytest.mark.slow
@GENERATED
@given(body=st.binary(max_size=200) | _like_an_event() | _damaged_event())
@example(body=b'{"event":"a","token":"TOKEN","data":1,"timestamp":1%s}' % (b"0" * 400))
async def test_no_body_breaks_the_door_and_none_is_accepted_without_being_kept(connected: Service, body: bytes) -> None:
    await connected.sql(NO_EVENTS)

    answer = await _post_with_token(connected, body)

    assert answer.status_code in {200, 400, 401}
    assert (1 if answer.status_code == 200 else 0) == await _stored(connected)
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == IsStr(regex="req_[0-9a-f]{32}")


@pytest.mark.slow
@GENERATED
@given(data=JSON)
async def test_any_data_is_kept_byte_for_byte(connected: Service, data: Any) -> None:
    text = json.dumps(data, ensure_ascii=False)
    await connected.sql(NO_EVENTS)

    answer = await connected.post_event(_envelope(connected.webhook_token(), text.encode()))

    assert answer.status_code == 200
    assert [text] == [row["data"] for row in await connected.sql("SELECT data FROM event")]


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A server that the test may ill-treat."""
    with Postgres.start(tmp_path / "postgres", durable=True) as server:
        yield server


@asynccontextmanager
async def _running_on(server: Postgres) -> AsyncIterator[Service]:
    await migrations.migrate(server.dsn())
    async with run_service(settings_for(server.dsn())) as service:
        await service.install()
        yield service


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def _standing_still(server: Postgres) -> AbstractContextManager[None]:
    """PostgreSQL keeps its connections and takes new ones, and does nothing with them."""
    connection = await asyncpg.connect(server.dsn())
    rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
    pids = [row["pid"] for row in rows if row["pid"] != connection.get_server_pid()]
    await connection.close()
    return _stopped([server.pid, *pids])


@asynccontextmanager
async def _log_locked(service: Service) -> AsyncIterator[None]:
    """By a session that is at work: one that waits for its client would be ended."""
    holder = await asyncpg.connect(service.settings.database_url.get_secret_value())
    try:
        await holder.execute(f"BEGIN; SELECT pg_advisory_xact_lock({locks.LOG})")
        working = asyncio.create_task(holder.execute("SELECT pg_sleep(60)"))
        yield
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    finally:
        await holder.close()


async def _answered_in_time(answer: Awaitable[T]) -> T:
    async with asyncio.timeout(ANSWER_SECONDS):
        return await answer


def _envelope(
    token: str,
    data: bytes,
    *,
    event: str = '"call.created"',
    timestamp: str = "1767261600",
    resource: str = '"call"',
) -> bytes:
    """An event as Aircall writes it, every field as JSON text."""
    head = f'{{"resource":{resource},"event":{event},"timestamp":{timestamp},"token":"{token}","data":'
    return head.encode() + data + b"}"


def _event(service: Service) -> bytes:
    return _envelope(service.webhook_token(), b'{"id":2481173905}')


def _events(service: Service, count: int) -> list[bytes]:
    return [_envelope(service.webhook_token(), b"%d" % number) for number in range(count)]


def _of_size(service: Service, size: int) -> bytes:
    empty = len(_envelope(service.webhook_token(), b'""'))
    return _envelope(service.webhook_token(), b'"%s"' % (b"x" * (size - empty)))


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


async def _post_with_token(service: Service, body: bytes) -> httpx.Response:
    return await service.post_event(body.replace(b"TOKEN", service.webhook_token().encode()))


async def _post(service: Service, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    return await service.browser.post("/aircall/webhook", content=content)


async def _stored(service: Service) -> int:
    (row,) = await service.sql("SELECT count(*) FROM event WHERE source = 'aircall'")
    count: int = row["count"]
    return count


async def _stored_at_least(service: Service, count: int) -> bool:
    return await _stored(service) >= count


async def _read_back(service: Service) -> list[_Read]:
    """What Aircall sent, as the partner's systems get it."""
    async with await service.partner(Scope.EVENTS_READ) as partner:
        answer = await partner.get("/v1/events", params={"limit": 1000})
    assert answer.status_code == 200
    events = msgspec.json.decode(answer.content, type=_Log).events
    return [event for event in events if not event.type.startswith("installation.")]


def _data_of(body: bytes) -> bytes:
    """`data` of a sample, where it is the last field, as it is written."""
    return body[body.index(b'"data":') + len(b'"data":') : body.rindex(b"}")].strip()


async def _everything(service: Service) -> list[str]:
    """Every row of every table, as text."""
    tables = await service.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return [
        row["row"]
        for table in tables
        for row in await service.sql(f'SELECT whole::text AS row FROM "{table["tablename"]}" whole')
    ]


async def test_a_repeat_is_recognised_whatever_the_clock_says_meanwhile(service: Service) -> None:
    """To a clock that goes on by a second, or comes back from afar, a time ahead is a time past."""
    await service.install()
    (row,) = await service.sql("SELECT extract(epoch FROM now())::bigint + 86401 AS timestamp")
    event = {"event": "call.ended", "token": service.webhook_token(), "timestamp": row["timestamp"], "data": {"id": 1}}

    answers = [await service.post_event(json.dumps(event).encode())]

    async def it_is_no_day_ahead() -> bool:
        passed = "SELECT now() + interval '1 day' > to_timestamp($1::float8) AS passed"
        return bool((await service.sql(passed, float(row["timestamp"])))[0]["passed"])

    await eventually(it_is_no_day_ahead)
    answers.append(await service.post_event(json.dumps(event).encode()))

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(await service.sql("SELECT id FROM event WHERE type = 'call.ended'")) == 1
