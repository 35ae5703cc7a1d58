"""Events delivered to NATS JetStream, RabbitMQ and Kafka: confirmed ones are kept, whatever happens to the broker."""

import asyncio
import json
import logging
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from aircall_oauth.deliveries.destinations import brokers
from aircall_oauth.deliveries.destinations.brokers import network, to_kafka, to_nats, to_rabbitmq
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Destination, Message, TryAgain
from aircall_oauth.errors import DestinationRefused, ExtraMissing
from aircall_oauth.http_client import CERTIFICATE_WORDS
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.server.worker import working
from tests.support.brokers import (
    IN_URL,
    LIMITED_USER,
    PARTITIONS,
    PASSWORD,
    USER,
    Arrived,
    Certificate,
    Ground,
    Kafka,
    Nats,
    RabbitMq,
    SaslDoor,
)
from tests.support.processes import eventually
from tests.support.service import run_service, settings_for, until

pytestmark = pytest.mark.broker

DOCUMENT = Path(__file__).parents[2] / "docs/brokers.md"
AT_ONCE = 64
AWAY_SECONDS = 60.0
LOOK_AGAIN_SECONDS = 0.02
# Kafka's error codes and request keys (kafka.apache.org/protocol).
MESSAGE_TOO_LARGE, UNKNOWN_TOPIC, NOT_ENOUGH_REPLICAS, TOPIC_DENIED = 10, 3, 19, 29
PRODUCE = 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
async def nats(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nats]:
    async with Nats.running(tmp_path_factory.mktemp("nats")) as it:
        await it.make_stream()
        yield it


@pytest.fixture(scope="module")
async def rabbitmq(certificate: Certificate) -> AsyncIterator[RabbitMq]:
    async with RabbitMq.running(certificate) as it:
        yield it


@pytest.fixture(scope="module")
async def kafka() -> AsyncIterator[Kafka]:
    async with Kafka.running() as it:
        yield it


@pytest.fixture(params=["nats", "rabbitmq", "kafka"])
def broker(request: pytest.FixtureRequest) -> Ground:
    """Each of the three."""
    ground: Ground = request.getfixturevalue(request.param)
    return ground


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[Destination], Destination]]:
    """Closes what a test made."""
    made: list[Destination] = []

    def remember(destination: Destination) -> Destination:
        made.append(destination)
        return destination

    yield remember
    for destination in made:
        await destination.close()


def an_event(installation_id: str = "ins_1", body: bytes = b'{"type": "call.ended"}') -> Message:
    return Message(f"evt_{uuid.uuid4().hex}", installation_id, "call.ended", body)


async def arrived(broker: Ground, *expected: Message) -> list[Arrived]:
    """Return the expected events that the broker has, each as often as it has it."""
    ids = {message.event_id for message in expected}
    return [one for one in await broker.arrived() if one.message_id in ids]


async def delivered_at_last(destination: Destination, message: Message, failures: list[TryAgain] | None = None) -> None:
    """Deliver a message again and again until it is confirmed, as a reader does."""
    async with asyncio.timeout(AWAY_SECONDS):
        while (outcome := await destination.deliver(message)) != Delivered():
            assert isinstance(outcome, TryAgain)
            if failures is not None:
                failures.append(outcome)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def connections_to(port: int) -> int:
    """Count this machine's established connections to a port, as the kernel lists them."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


# What goes out


@pytest.mark.slow
async def test_a_delivered_event_is_there_as_it_was_given(broker: Ground, opened: Any) -> None:
    destination = opened(broker.destination())
    message = an_event(body='{"data": {"name": "Zoë"},  "n": 1.0}'.encode())

    assert await destination.deliver(message) == Delivered()

    (found,) = await arrived(broker, message)
    assert message.body == found.body
    assert {"event_id": message.event_id, "installation_id": "ins_1", "type": "call.ended"} == found.headers


async def test_an_event_that_is_repeated_to_a_stream_is_stored_once(nats: Nats, opened: Any) -> None:
    destination, message = opened(nats.destination()), an_event()

    assert [Delivered()] * 3 == [await destination.deliver(message) for _ in range(3)]

    assert len(await arrived(nats, message)) == 1


async def test_an_installations_events_keep_their_partition_and_their_order(kafka: Kafka, opened: Any) -> None:
    destination = opened(kafka.destination())
    messages = [an_event(f"ins_{number % 10}") for number in range(100)]

    for message in messages:
        assert await destination.deliver(message) == Delivered()

    found = await arrived(kafka, *messages)
    for number in range(10):
        mine = [one for one in found if one.key == f"ins_{number}"]
        assert [m.event_id for m in messages if m.installation_id == f"ins_{number}"] == [
            one.message_id for one in mine
        ]
        assert len({one.partition for one in mine}) == 1
    assert 1 < len({one.partition for one in found}) <= PARTITIONS


async def test_64_at_once_share_one_connection(broker: Ground, opened: Any) -> None:
    destination = opened(broker.destination())
    messages = [an_event(f"ins_{number}") for number in range(10 * AT_ONCE)]
    await until(lambda: connections_to(broker.port) == 0)

    for start in range(0, len(messages), AT_ONCE):
        outcomes = await asyncio.gather(*map(destination.deliver, messages[start : start + AT_ONCE]))
        assert [Delivered()] * AT_ONCE == outcomes

    assert 1 == connections_to(broker.port)
    assert {m.event_id for m in messages} == {one.message_id for one in await arrived(broker, *messages)}


# A broker that goes away


@pytest.mark.slow
async def test_nothing_is_lost_when_the_broker_dies_under_load(
    broker: Ground, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    destination = opened(broker.destination(deadline_seconds=2.0))
    delivered: dict[str, Message] = {}
    failures: list[TryAgain] = []
    enough = asyncio.Event()

    async def keep_delivering(number: int) -> None:
        while not enough.is_set():
            message = an_event(f"ins_{number}")
            await delivered_at_last(destination, message, failures)
            delivered[message.event_id] = message

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(keep_delivering(number))
        await until(lambda: len(delivered) > 200, AWAY_SECONDS)
        await broker.go_away()
        await until(lambda: len(failures) > AT_ONCE, AWAY_SECONDS)
        await broker.come_back()
        count = len(delivered)
        await until(lambda: len(delivered) > count + 200, AWAY_SECONDS)
        enough.set()

    found = {one.message_id for one in await arrived(broker, *delivered.values())}
    assert delivered.keys() == found
    assert {failure.reason for failure in failures} <= {"reset", "refused", "timeout"}
    assert TryAgain("refused") in failures
    assert_tells_nothing(caplog)


@pytest.mark.parametrize("broker", ["nats", "kafka"], indirect=True)
async def test_a_broker_that_is_not_there_yet_is_found_when_it_is(broker: Ground, opened: Any) -> None:
    destination, message = opened(broker.destination()), an_event()
    await broker.go_away()

    assert [TryAgain("refused")] * AT_ONCE == await asyncio.gather(
        *(destination.deliver(message) for _ in range(AT_ONCE))
    )

    await broker.come_back()
    await delivered_at_last(destination, message)
    assert await arrived(broker, message)


@pytest.mark.slow
async def test_a_broker_that_hangs_is_a_timeout_and_works_again_when_it_does(broker: Ground, opened: Any) -> None:
    destination = opened(broker.destination(deadline_seconds=1.0))
    messages = [an_event() for _ in range(AT_ONCE)]
    await delivered_at_last(destination, an_event())

    broker.tell(signal.SIGSTOP)
    try:
        outcomes = await asyncio.wait_for(asyncio.gather(*map(destination.deliver, messages)), 20.0)
        assert [TryAgain("timeout")] * AT_ONCE == outcomes
        assert TryAgain("timeout") == await asyncio.wait_for(destination.deliver(messages[0]), 20.0)
    finally:
        broker.tell(signal.SIGCONT)

    await asyncio.gather(*(delivered_at_last(destination, message) for message in messages))
    assert {m.event_id for m in messages} == {one.message_id for one in await arrived(broker, *messages)}


async def test_what_was_not_confirmed_in_time_is_not_sent_later(kafka: Kafka, opened: Any) -> None:
    destination = opened(kafka.destination(deadline_seconds=1.0))
    late, messages = an_event(), [an_event() for _ in range(50)]
    await delivered_at_last(destination, an_event())

    await kafka.go_away()
    assert TryAgain("timeout") == await destination.deliver(late)
    assert TryAgain("refused") == await destination.deliver(late)
    await kafka.come_back()
    for message in messages:
        await delivered_at_last(destination, message)
    await destination.close()  # whatever would still be sent is sent now

    assert {m.event_id for m in messages} == {one.message_id for one in await arrived(kafka, late, *messages)}


async def test_closing_is_bounded_while_the_broker_hangs_and_final(broker: Ground) -> None:
    destination = broker.destination(deadline_seconds=60.0)
    await delivered_at_last(destination, an_event())
    broker.tell(signal.SIGSTOP)
    try:
        out = asyncio.create_task(destination.deliver(an_event()))
        await asyncio.sleep(0)

        started = time.monotonic()
        await destination.close()

        assert time.monotonic() - started < 15.0
        assert TryAgain("closed") == await asyncio.wait_for(out, 5.0)
        assert TryAgain("closed") == await destination.deliver(an_event())
        await destination.close()
    finally:
        broker.tell(signal.SIGCONT)


async def test_closing_before_anything_was_opened_or_while_it_is(broker: Ground) -> None:
    idle, busy = broker.destination(), broker.destination()
    out = asyncio.create_task(busy.deliver(an_event()))
    await asyncio.sleep(0)

    await idle.close()
    await busy.close()

    assert isinstance(await asyncio.wait_for(out, 5.0), TryAgain)


async def test_a_delivery_that_is_given_up_takes_no_other_along(broker: Ground, opened: Any) -> None:
    destination = opened(broker.destination())
    given_up, kept = an_event(), an_event()

    first = asyncio.create_task(destination.deliver(given_up))
    second = asyncio.create_task(destination.deliver(kept))
    await asyncio.sleep(0)
    first.cancel()

    assert Delivered() == await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert Delivered() == await destination.deliver(given_up)


# What a broker refuses


async def test_no_stream_takes_the_subject(nats: Nats, opened: Any) -> None:
    destination = opened(nats.destination(subject="nobody.listens"))

    assert TryAgain("no_stream") == await destination.deliver(an_event())


async def test_a_stream_that_takes_no_more_rejects(nats: Nats, opened: Any) -> None:
    await nats.make_stream(name="full", subjects=["full"], max_msgs=1, discard="new")
    destination = opened(nats.destination(subject="full"))

    assert [Delivered(), TryAgain("rejected")] == [await destination.deliver(an_event()) for _ in range(2)]


async def test_a_message_that_reaches_no_queue_is_not_delivered(rabbitmq: RabbitMq, opened: Any) -> None:
    destination = opened(rabbitmq.destination(routing_key="nobody.is.bound"))
    messages = [an_event() for _ in range(AT_ONCE)]

    assert [TryAgain("unroutable")] * AT_ONCE == await asyncio.gather(*map(destination.deliver, messages))


async def test_one_event_twice_at_once_is_never_taken_for_delivered(rabbitmq: RabbitMq, opened: Any) -> None:
    destination, message = opened(rabbitmq.destination(routing_key="nobody.is.bound")), an_event()
    await destination.deliver(an_event())

    outcomes = await asyncio.gather(*(destination.deliver(message) for _ in range(AT_ONCE)))

    assert {TryAgain("unroutable"), TryAgain("busy")} == set(outcomes)


@pytest.mark.slow
async def test_the_default_exchange_leads_to_the_queue_of_that_name(rabbitmq: RabbitMq, opened: Any) -> None:
    destination, message = opened(rabbitmq.destination(exchange="", routing_key=rabbitmq.queue)), an_event()

    assert Delivered() == await destination.deliver(message)

    assert len(await arrived(rabbitmq, message)) == 1


async def test_a_queue_that_takes_no_more_rejects(rabbitmq: RabbitMq, opened: Any) -> None:
    destination = opened(rabbitmq.destination(exchange="", routing_key="full"))

    assert [Delivered(), TryAgain("rejected")] == [await destination.deliver(an_event()) for _ in range(2)]


async def test_an_exchange_that_is_not_there_is_found_once_it_is(rabbitmq: RabbitMq, opened: Any) -> None:
    destination = opened(rabbitmq.destination(exchange="later", routing_key="events"))

    outcomes = await asyncio.gather(*(destination.deliver(an_event()) for _ in range(AT_ONCE)))
    assert TryAgain("no_exchange") in outcomes
    assert set(outcomes) <= {TryAgain("no_exchange"), TryAgain("reset")}

    async with rabbitmq.channel() as channel:
        exchange = await channel.declare_exchange("later", durable=True)
        await (await channel.get_queue(rabbitmq.queue)).bind(exchange, "events")
    await delivered_at_last(destination, an_event())


async def test_a_topic_that_is_not_there_or_not_ours(kafka: Kafka, opened: Any) -> None:
    await kafka.order("topic-error", "missing", UNKNOWN_TOPIC)
    await kafka.order("topic-error", "secret", TOPIC_DENIED)

    assert TryAgain("no_topic") == await opened(kafka.destination(topic="missing")).deliver(an_event())
    assert TryAgain("denied") == await opened(kafka.destination(topic="secret")).deliver(an_event())


async def test_replicas_that_are_late_are_waited_for(kafka: Kafka, opened: Any) -> None:
    destination, message = opened(kafka.destination()), an_event()
    await kafka.order("request-error", PRODUCE, NOT_ENOUGH_REPLICAS, 3)

    assert Delivered() == await destination.deliver(message)

    assert len(await arrived(kafka, message)) == 1


async def test_what_the_broker_finds_too_large_is_no_trouble_for_the_next(kafka: Kafka, opened: Any) -> None:
    destination = opened(kafka.destination())
    await delivered_at_last(destination, an_event())
    await kafka.order("request-error", PRODUCE, MESSAGE_TOO_LARGE, 1)

    assert TryAgain("too_large") == await destination.deliver(an_event())
    assert Delivered() == await destination.deliver(an_event())


async def test_what_is_too_large_is_no_trouble_for_the_next(broker: Ground, opened: Any) -> None:
    destination = opened(broker.destination())

    assert TryAgain("too_large") == await destination.deliver(an_event(body=b"x" * 2_200_000))

    await delivered_at_last(destination, an_event())


@pytest.mark.parametrize("broker", ["nats", "rabbitmq"], indirect=True)
async def test_a_user_who_may_not_write_there_is_denied(broker: Any, opened: Any) -> None:
    destination = opened(broker.destination(user=LIMITED_USER))

    assert [TryAgain("denied")] * 8 == await asyncio.gather(*(destination.deliver(an_event()) for _ in range(8)))


# As a subscription


def asked_for(broker: Ground) -> dict[str, Any]:
    """Return the body of a subscription that has events delivered to this broker."""
    match broker:
        case Nats():
            url = f"nats://{USER}:{IN_URL}@127.0.0.1:{broker.port}"
            return {"kind": "nats", "url": url, "subject": broker.subject}
        case RabbitMq():
            url = f"amqp://{USER}:{IN_URL}@127.0.0.1:{broker.port}/aircall%2Ftest"
            words = {"exchange": broker.exchange, "routing_key": broker.routing_key}
            return {"kind": "rabbitmq", "url": url, **words}
        case _:
            assert isinstance(broker, Kafka)
            return {"kind": "kafka", "url": broker.address, "topic": broker.topic}


@pytest.mark.slow
async def test_a_subscription_hands_its_events_to_the_broker(broker: Ground, database_url: str) -> None:
    async with run_service(settings_for(database_url, ALLOWED_PRIVATE_RANGES="127.0.0.0/8")) as service:
        partner = await service.partner()
        wanted = {"name": "bus", "from": "beginning", **asked_for(broker)}
        made = await partner.post("/v1/subscriptions", json=wanted)
        assert made.status_code == 201, made.text
        await service.installed()
        (event,) = (await partner.get("/v1/events")).json()["events"]

        async with working(service.resources):
            await eventually(lambda: _caught_up(partner, made.json()["id"], event["position"]), AWAY_SECONDS)

        (there,) = [one for one in await broker.arrived() if one.message_id == event["id"]]
    assert json.loads(there.body) == event
    assert PASSWORD not in made.text


async def _caught_up(partner: httpx.AsyncClient, subscription_id: str, position: int) -> bool:
    shown = (await partner.get(f"/v1/subscriptions/{subscription_id}")).json()
    return bool(shown["position"] == position and shown["lag"] == 0)


# Credentials and certificates


@pytest.mark.parametrize("broker", ["nats", "rabbitmq"], indirect=True)
async def test_a_wrong_password_is_denied(broker: Any, opened: Any) -> None:
    destination = opened(broker.destination(password="wrong"))

    assert TryAgain("denied") == await destination.deliver(an_event())


async def test_kafka_is_shown_user_and_password(kafka: Kafka, opened: Any) -> None:
    async with SaslDoor.before(kafka) as door:
        right = opened(brokers.KAFKA.open(door.url(IN_URL), kafka.topic))
        wrong = opened(brokers.KAFKA.open(door.url("wrong"), kafka.topic))
        message = an_event()

        assert Delivered() == await right.deliver(message)
        assert TryAgain("denied") == await wrong.deliver(an_event())
    assert len(await arrived(kafka, message)) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, certificate: Certificate, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch, opened: Any
) -> None:
    async with Nats.running(tmp_path, tls=certificate) as nats:
        for destination in (nats.destination(), rabbitmq.destination(encrypted=True)):
            assert TryAgain("tls_untrusted") == await opened(destination).deliver(an_event())

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
        # There is no stream: that is said by a server we came to talk with.
        assert TryAgain("no_stream") == await opened(nats.destination()).deliver(an_event())
        assert Delivered() == await opened(rabbitmq.destination(encrypted=True)).deliver(an_event())


@pytest.mark.parametrize("kind", ["nats", "rabbitmq", "kafka"])
async def test_no_password_is_told_to_a_server_without_tls(kind: str, opened: Any) -> None:
    heard = bytearray()

    async def in_clear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "nats":
            writer.write(b'INFO {"server_id": "x", "version": "2.9.10", "headers": true, "auth_required": true}\r\n')
        while data := await reader.read(1000):
            heard.extend(data)
            if kind != "nats":
                writer.write(b"this is no TLS at all\r\n")
        writer.close()

    async with await asyncio.start_server(in_clear, "127.0.0.1") as server:
        address = f"user:{IN_URL}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        destination = opened(
            brokers.NATS.open(f"tls://{address}", "events")
            if kind == "nats"
            else brokers.RABBITMQ.open(f"amqps://{address}", "", "events")
            if kind == "rabbitmq"
            else brokers.KAFKA.open(f"sasl_ssl://{address}", "events")
        )
        assert TryAgain("tls") == await destination.deliver(an_event())

    assert kind == "nats" or heard
    assert PASSWORD.encode() not in heard
    assert b"user" not in heard


@pytest.mark.parametrize("kind", ["nats", "rabbitmq", "kafka"])
async def test_a_name_that_does_not_resolve(kind: str, opened: Any) -> None:
    destination = opened(a_destination(kind, "nowhere.invalid"))

    assert TryAgain("dns") == await destination.deliver(an_event())


async def test_neither_credentials_nor_events_are_logged(
    broker: Ground, caplog: pytest.LogCaptureFixture, opened: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    kind = type(broker).__name__.lower()
    await delivered_at_last(opened(broker.destination()), an_event())
    for host in (f"127.0.0.1:{broker.port}", f"127.0.0.1:{free_port()}", "nowhere.invalid"):
        outcome = await opened(a_destination(kind, host)).deliver(an_event())
        assert isinstance(outcome, TryAgain)
        assert outcome.reason.isidentifier()

    assert_tells_nothing(caplog)


def assert_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for secret in (PASSWORD, IN_URL, "hunter2", "call.ended"):
        assert secret not in caplog.text
    chatty = {"aio_pika", "aiokafka", "aiormq", "nats"}
    assert not chatty & {record.name.partition(".")[0] for record in caplog.records}


def a_destination(kind: str, host: str) -> Destination:
    """Make a destination with a wrong password."""
    match kind:
        case "nats":
            return brokers.NATS.open(f"nats://user:hunter2@{host}", "events")
        case "rabbitmq":
            return brokers.RABBITMQ.open(f"amqp://user:hunter2@{host}", "", "events")
    return brokers.KAFKA.open(f"sasl_plaintext://user:hunter2@{host}", "events")


# Addresses that may be reached


async def test_the_judge_is_asked_before_each_connection(broker: Ground, opened: Any) -> None:
    asked: list[tuple[str, int]] = []
    verdict: str | None = "blocked_address"

    async def judge(host: str, port: int) -> str | None:
        asked.append((host, port))
        return verdict

    destination = opened(broker.destination(judge=judge))
    await until(lambda: connections_to(broker.port) == 0)

    assert [TryAgain("blocked_address")] * 2 == [await destination.deliver(an_event()) for _ in range(2)]
    assert 0 == connections_to(broker.port)

    verdict = None
    assert [Delivered()] * 2 == [await destination.deliver(an_event()) for _ in range(2)]
    assert [("127.0.0.1", broker.port)] * 3 == asked


async def test_the_next_server_is_taken_where_the_first_is_away(nats: Nats, kafka: Kafka, opened: Any) -> None:
    nobody = f"127.0.0.1:{free_port()}"

    several = opened(brokers.NATS.open(f"nats://partner:{IN_URL}@{nobody},127.0.0.1:{nats.port}", nats.subject))
    assert Delivered() == await several.deliver(an_event())
    several = opened(brokers.KAFKA.open(f"{nobody},{kafka.address}", kafka.topic))
    assert Delivered() == await several.deliver(an_event())


# How a destination is described


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [
        ("nats", "nats", lambda: brokers.NATS.open("nats://host", "events")),
        ("aio_pika", "rabbitmq", lambda: brokers.RABBITMQ.open("amqp://host", "", "events")),
        ("aiokafka", "kafka", lambda: brokers.KAFKA.open("host", "events")),
    ],
)
def test_a_missing_extra_is_named(
    package: str, extra: str, make: Callable[[], Destination], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ExtraMissing, match=rf"aircall-oauth\[{extra}\]"):
        make()


@pytest.mark.parametrize(
    ("kind", "url", "servers", "shown"),
    [
        ("nats", "nats://a", (("a", 4222),), "nats://a"),
        ("nats", "tls://token@a:1,b:2", (("a", 1), ("b", 2)), "tls://a:1,b:2"),
        ("nats", "tls://user:pass@a,tls://b", (("a", 4222), ("b", 4222)), "tls://a,tls://b"),
        ("rabbitmq", "amqp://a", (("a", 5672),), "amqp://a"),
        ("rabbitmq", "amqps://user:p%40ss@[::1]/v%2Fhost", (("::1", 5671),), "amqps://[::1]/v%2Fhost"),
        ("kafka", "a,b:9093", (("a", 9092), ("b", 9093)), "a,b:9093"),
        ("kafka", "ssl://a:1", (("a", 1),), "ssl://a:1"),
        (
            "kafka",
            "sasl_ssl://user:pass@a:1?mechanism=SCRAM-SHA-512",
            (("a", 1),),
            "sasl_ssl://a:1?mechanism=SCRAM-SHA-512",
        ),
    ],
)
def test_a_url_is_read_and_shown_without_credentials(
    kind: Any, url: str, servers: tuple[tuple[str, int], ...], shown: str
) -> None:
    address = brokers.KINDS[kind].read(url)

    assert servers == address.servers
    assert shown == address.shown


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("nats", ""),
        ("nats", "hunter2"),
        ("nats", "http://user:hunter2@a"),
        ("nats", "nats://user:hunter2@a:70000"),
        ("nats", "nats://user:hunter2@a:0"),
        ("nats", "nats://user:hunter2@@a"),
        ("nats", "nats://user:hun ter2@a"),
        ("nats", "nats://user:hunter2@a/path"),
        ("nats", "nats://user:hunter2@a?tls=false"),
        ("nats", "nats://user:hunter2@" + ",".join(["a"] * 21)),
        ("nats", "nats://user:hunter2@" + "a" * 3000),
        ("rabbitmq", "amqp://user:hunter2@a,b"),
        ("rabbitmq", "amqp://hunter2@a"),
        ("rabbitmq", "amqps://user:hunter2@a/?no_verify_ssl=1"),
        ("kafka", "user:hunter2@a:9092"),
        ("kafka", "ssl://user:hunter2@a:9092"),
        ("kafka", "sasl_ssl://a:9092"),
        ("kafka", "sasl_ssl://user:hunter2@a?mechanism=GSSAPI"),
        ("kafka", "plaintext://a?mechanism=PLAIN"),
        ("kafka", "a:9092,,b:9092"),
        ("nats", "nats://a,tls://user:hunter2@b"),
        ("nats", "nats://user:hunter2@a,nats://user:hunter2@b"),
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(kind: Any, url: str) -> None:
    with pytest.raises(DestinationRefused) as refused:
        brokers.KINDS[kind].read(url)

    assert "hunter2" not in f"{refused.value!r} {refused.value.detail}"
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: brokers.NATS.open("nats://a", ""),
        lambda: brokers.NATS.open("nats://a", "calls.*"),
        lambda: brokers.NATS.open("nats://a", "calls.>"),
        lambda: brokers.NATS.open("nats://a", "two words"),
        lambda: brokers.NATS.open("nats://a", "a\r\nPUB b 0"),
        lambda: brokers.NATS.open("nats://a", "a..b"),
        lambda: brokers.RABBITMQ.open("amqp://a", "x", "é" * 128),
        lambda: brokers.RABBITMQ.open("amqp://a", "x" * 256, "y"),
        lambda: brokers.KAFKA.open("a", ""),
        lambda: brokers.KAFKA.open("a", "two words"),
        lambda: brokers.KAFKA.open("a", "x" * 250),
    ],
)
def test_a_place_that_can_not_be_one_is_refused(make: Callable[[], Destination]) -> None:
    with pytest.raises(DestinationRefused):
        make()


def test_an_address_does_not_show_its_password() -> None:
    address = brokers.NATS.read("nats://user:hunter2@a")

    assert address.password == "hunter2"
    assert "hunter2" not in repr(address)


# What the documents say


async def test_the_example_in_the_documents_works(tmp_path: Path) -> None:
    example = re.search(r"<<'PY'\n(.*?)\nPY\n", DOCUMENT.read_text(), re.DOTALL)
    assert example
    async with Nats.running(tmp_path, open_to_all=True) as nats:
        code = example[1].replace("localhost:4222", f"127.0.0.1:{nats.port}")
        running = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        said, _ = await asyncio.wait_for(running.communicate(), AWAY_SECONDS)

    assert 0 == running.returncode
    assert said.decode().startswith("Delivered()\n")
    assert "'Nats-Msg-Id': 'evt_1'" in said.decode()


def test_every_reason_is_explained_in_the_documents() -> None:
    table = DOCUMENT.read_text().partition("| word | means |")[2].partition("\n\n")[0]
    explained = {word for row in table.splitlines() if row for word in re.findall(r"`(\w+)`", row.split("|")[1])}
    by_client = (to_kafka.WORDS, to_nats.WORDS, to_rabbitmq.WORDS, network.WORDS)

    told = {word for words in by_client for word in words.values()}
    assert (
        told
        | {"blocked_address", "closed", "dns", "failed", "flood", "timeout", "tls"}
        | {
            "tls_certificate",
            *CERTIFICATE_WORDS.values(),
        }
        == explained
    )
