"""Fields that the operator has named are dropped or hashed before the commit; all else stays byte for byte."""

import hashlib
import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest

from aircall_oauth.installations.outages import backfill, gaps
from aircall_oauth.resources import open_resources
from aircall_oauth.storage.redaction import Redaction, parse
from aircall_oauth.storage.statuses import GapReason
from tests.support.service import Service, run_service, settings_for

EVENTS = "SELECT type, data, subject FROM event WHERE source <> 'service' ORDER BY position"
MARK = "redacted:"
DEEP = 49  # lists around a value, and as many objects: as deep as is taken in


def body(service: Service, data: str, type_: str = "call.created", timestamp: int = 1767261600) -> bytes:
    """An event whose `data` is exactly this text."""
    head = {"resource": type_.partition(".")[0], "event": type_, "token": service.webhook_token()}
    return json.dumps(head | {"timestamp": timestamp}).encode()[:-1] + b', "data": ' + data.encode() + b"}"


async def kept(service: Service, *bodies: bytes) -> list[str]:
    """What the log keeps of `data`."""
    for each in bodies:
        assert (await service.post_event(each)).status_code == 200
    return [row["data"] for row in await service.sql(EVENTS)]


@pytest.mark.parametrize(
    ("redact", "sent", "left"),
    [
        ("raw_digits=drop", '{"id": 1, "raw_digits": "+44 20"}', '{"id": 1}'),
        ("raw_digits=drop", '{"raw_digits": "+44 20" , "id": 1}', '{"id": 1}'),
        ("raw_digits=drop", '{\t"raw_digits":[{"x":1}]\n}', "{\t\n}"),
        ("raw_digits=drop", '{"raw_digits": 1, "id": 1, "raw_digits": 2}', '{"id": 1}'),
        ("raw_digits=drop", r'{"raw\u005fdigits": "+44", "id": 1}', '{"id": 1}'),
        ("raw_digits=drop", '{"id": 1, "raw_digits_": "+44"}', '{"id": 1, "raw_digits_": "+44"}'),
        ("user=drop,raw_digits=drop", '{"user": {}, "raw_digits": 1, "id": 1}', '{"id": 1}'),
        ("user=drop,raw_digits=drop", '{"a": 1, "user": {"name": "I"}, "raw_digits": 1}', '{"a": 1}'),
        ("user.name=drop", '{"user": null}', '{"user": null}'),
        ("user.name=drop", '{"user": "name"}', '{"user": "name"}'),
        ("user.name=drop", '{"user": {"n": {"name": "I"}}}', '{"user": {"n": {"name": "I"}}}'),
        ("emails.value=drop", '{"emails": [{"value": 1, "n": 2}, {"value": 3}]}', '{"emails": [{"n": 2}, {}]}'),
        ("emails[].value=drop", '{"emails": [[{"value": 1}], 5, "value"]}', '{"emails": [[{}], 5, "value"]}'),
        ("*.name=drop", '{"user": {"name": "I"}, "name": "N"}', '{"user": {}, "name": "N"}'),
        ("*=drop", '{"id": 1, "call_id": 2, "user": {"id": 3}}', '{"id": 1, "call_id": 2}'),
        ("call.*:name=drop", '{"name": "I"}', "{}"),
        ("call.ended:name=drop", '{"name": "I"}', '{"name": "I"}'),
        ("user.*:name=drop", '{"name": "I"}', '{"name": "I"}'),
        ("name=drop", '"name"', '"name"'),
        ("name=drop", '[{"name": 1}, {"id": 2}]', '[{}, {"id": 2}]'),
        ("user.name=hash,user=drop", '{"id": 1, "user": {"name": "I"}}', '{"id": 1}'),
    ],
)
def test_named_fields_are_dropped(redact: str, sent: str, left: str) -> None:
    assert Redaction(parse(redact), hashed=str).of("call.created", sent) == left


async def test_all_that_is_not_named_stays_byte_for_byte(database_url: str) -> None:
    odd = r'{ "id":9223372036854775807 ,"big": 123456789012345678901234567890, "e": 1.10E+2, "u":"\u00e9\/\ud83d", "é": "😀"'  # noqa: E501
    sent = odd + ' ,\n"raw_digits" : "+44 20 7946 0123", "raw_digits": "", "open": true, "none": null}'
    async with run_service(settings_for(database_url, REDACT="raw_digits=hash,open=hash,none=hash")) as service:
        await service.installed()

        (left,) = await kept(service, body(service, sent))

        (subject,) = [row["subject"] for row in await service.sql(EVENTS)]
        hashed = json.loads(left[len(odd) + 18 : left.index(', "raw_digits": ""')])
        assert hashed.startswith(MARK)
        assert left == sent.replace('"+44 20 7946 0123"', json.dumps(hashed))
        assert subject == "call:9223372036854775807"


async def test_equal_values_have_equal_hashes_wherever_they_are_and_however_spelled(database_url: str) -> None:
    redact = "raw_digits=hash,contact=hash,participants.*=hash,message.*:external_number=hash"
    async with run_service(settings_for(database_url, REDACT=redact)) as service:
        await service.installed()
        call = {"id": 1, "raw_digits": 447946, "contact": {"id": 704410, "name": "Mara", "emails": ["447946", None]}}
        escaped = r'{"id": 2, "participants": [{"phone_number": "44\u0037946", "user_id": 90211}], "contact": "Mara"}'
        message = {"id": 3, "external_number": "447946", "raw_digits": "other"}

        some = await kept(
            service,
            body(service, json.dumps(call)),
            body(service, escaped),
            body(service, json.dumps(message), "message.received"),
        )

        first, second, third = map(json.loads, some)
        number, name = first["raw_digits"], first["contact"]["name"]
        assert first["contact"] == {"id": 704410, "name": name, "emails": [number, None]}
        assert second == {"id": 2, "participants": [{"phone_number": number, "user_id": 90211}], "contact": name}
        assert third["external_number"] == number
        assert len({number, name, third["raw_digits"]}) == 3
        assert all(text.startswith(MARK) and len(text) == len(MARK) + 22 for text in (number, name))


async def test_a_hash_is_the_same_after_a_start_and_another_one_under_another_key(database_url: str) -> None:
    hashes = []
    for key in (b"f", b"f", b"g"):
        settings = settings_for(database_url, REDACT="raw_digits=hash", FINGERPRINT_KEY=b64encode(key * 32).decode())
        async with open_resources(settings) as resources:
            assert resources.redaction is not None
            hashes.append(resources.redaction.of("call.created", '{"raw_digits": "+44"}'))

    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("before", ["", "raw_digits=drop"])
async def test_a_repeat_stays_a_repeat_also_of_what_came_before_the_field_was_named(
    database_url: str, before: str
) -> None:
    async with run_service(settings_for(database_url, REDACT=before)) as service:
        await service.installed()
        sent = body(service, '{"id": 1, "raw_digits": "+44 20 7946 0123", "user": {"name": "Ines"}}')
        assert len(await kept(service, sent, sent)) == 1
        token = service.webhook_token()

    async with run_service(settings_for(database_url, REDACT="raw_digits=drop,user=hash")) as service:
        another = sent.replace(b"0123", b"0124")
        assert token.encode() in sent

        assert len(await kept(service, sent, sent)) == 1
        # Two events that differ in nothing but what is left out are two.
        assert len(await kept(service, another, another)) == 2


async def test_a_back_filled_call_is_redacted_too_and_its_own_event_recognised(database_url: str) -> None:
    async with run_service(settings_for(database_url, REDACT="raw_digits=drop,user.name=hash")) as service:
        installation_id = await service.installed()
        now = datetime.now(UTC)
        since, until = now - timedelta(hours=6), now - timedelta(hours=1)
        service.aircall.record_calls(3, since=since.timestamp(), until=until.timestamp())
        async with service.resources.database.session() as session:
            await gaps.begin(session, installation_id, since=since, reason=GapReason.WEBHOOK_DISABLED)
            await gaps.end(session, installation_id)
        await service.sql("UPDATE gap SET due_at = now() WHERE due_at IS NOT NULL")

        await backfill.fill_gaps(service.resources)
        calls = [json.loads(row["data"]) for row in await service.sql(EVENTS)]
        for call in calls:
            service.aircall.tell_end(call["id"])
        await service.aircall.settle()

        assert len(calls) == 3 == len(await service.sql(EVENTS))
        assert not any("raw_digits" in call for call in calls)
        assert all(call["user"]["name"].startswith(MARK) for call in calls if call.get("user"))


@pytest.mark.parametrize("path", [".".join(["a"] * 10), "*.*.*.*.*.*.*.*.*.*"])
async def test_deep_and_wide_bodies_are_taken_in(database_url: str, path: str) -> None:
    deep = '{"a":[' * DEEP + "1" + "]}" * DEEP
    wide = json.dumps({"id": 1, "a": [{"a": n, "b": [n] * 10} for n in range(5000)]})
    async with run_service(settings_for(database_url, REDACT=f"{path}=hash,a.a=drop")) as service:
        await service.installed()

        some = await kept(service, body(service, deep), body(service, wide))

        assert len(some) == 2
        assert json.loads(some[1])["a"] == [{"b": [n] * 10} for n in range(5000)]


async def test_the_hash_that_recognises_a_repeat_gives_away_nothing_of_what_was_dropped(database_url: str) -> None:
    """Without a key, all else of an event would tell which of all numbers has that hash."""
    data = '{"id": 1, "raw_digits": "+44 20 7946 0123"}'
    found: list[bool] = []
    for timestamp, redact in ((1, ""), (2, "raw_digits=drop")):
        async with run_service(settings_for(database_url, REDACT=redact)) as service:
            if not redact:
                await service.installed()
                sent = body(service, data, timestamp=1)
            (row,) = await service.sql("SELECT id FROM installation")

            await kept(service, sent.replace(b": 1,", b": %d," % timestamp, 1))

            guess = hashlib.sha256(f"call.created\0{timestamp}\0{data}".encode()).digest()
            unkeyed = hashlib.sha256(row["id"].encode() + guess).digest()
            kept_ones = await service.sql("SELECT right(encode(fingerprint, 'hex'), 64) AS f FROM event_fingerprint")
            found.append(unkeyed.hex() in {one["f"] for one in kept_ones})
    assert found == [True, False]


@pytest.mark.parametrize(
    ("redact", "problem"),
    [
        ("raw_digits", "must look like"),
        ("raw_digits=mask", "must look like"),
        ("=drop", "must look like"),
        ("call.**:x=drop", "must look like"),
        ("a..b=drop", "must have a path"),
        (".".join("abcdefghijk") + "=drop", "must have a path"),
        ("na me=drop", "must look like"),
        ("id=drop", "names an id"),
        ("*:contact.id=hash", "names an id"),
        ("call_uuid=hash", "names an id"),
        ("transcription.*:call_id=drop", "names an id"),
        ("user.id.x=drop", "names an id"),
        ("call=drop", "drops `call`"),
        ("token=drop", "must name a field inside data"),
        ("timestamp=hash", "must name a field inside data"),
        ("data.raw_digits=hash", "must name a field inside data"),
        ("raw_digits=drop,raw_digits=hash", "says of a field"),
        (",".join(f"f{n}=drop" for n in range(201)), "has more than 200 entries"),
    ],
)
def test_a_field_that_cannot_be_named_is_refused_at_start(redact: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as refused:
        settings_for("postgresql://db/x", REDACT=f"fine=drop,{redact}")
    assert "entry 1 " not in str(refused.value)


@pytest.mark.parametrize(
    ("before", "after"), [({}, {"REDACT": "raw_digits=drop"}), ({"REDACT": "raw_digits=drop"}, {})]
)
async def test_an_encrypted_event_is_redacted_first_and_its_repeat_recognised_before_and_after(
    database_url: str, before: dict[str, str], after: dict[str, str]
) -> None:
    async with run_service(settings_for(database_url, ENCRYPT_EVENTS="true", **before)) as service:
        await service.installed()
        sent = body(service, '{"id": 1, "raw_digits": "+44 20 7946 0123"}')
        assert await kept(service, sent, sent) == ["null"]
        events = (await (await service.partner()).get("/v1/events", params={"type": "call.created"})).json()["events"]
        assert [event["data"] for event in events] == [
            {"id": 1} if before else {"id": 1, "raw_digits": "+44 20 7946 0123"}
        ]

    async with run_service(settings_for(database_url, ENCRYPT_EVENTS="true", **after)) as service:
        assert len(await kept(service, sent, sent)) == 1
