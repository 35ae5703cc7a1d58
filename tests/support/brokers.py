"""Real brokers for the tests, each on a loopback port of its own, and what arrived at them."""

import asyncio
import base64
import hashlib
import json
import os
import pwd
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aio_pika
import nats
from aiokafka import AIOKafkaConsumer, TopicPartition

from aircall_oauth.deliveries.destinations import brokers
from aircall_oauth.deliveries.destinations.outcomes import Destination
from aircall_oauth.sandbox.ports import free_port
from tests.support.authority import self_signed
from tests.support.tools import miss

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOK_AGAIN_SECONDS = 0.05
USER = "partner"
# With what a URL must not hold as it is.
PASSWORD = "s3cr:t/p@ss%?"
IN_URL = "s3cr%3At%2Fp%40ss%25%3F"
LIMITED_USER = "limited"
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PARTITIONS = 4
API_VERSIONS, SASL_HANDSHAKE, SASL_AUTHENTICATE = 18, 17, 36
SASL_FAILED = 58


@dataclass(frozen=True)
class Arrived:
    """One message as the broker has it; `key` is what it is ordered by, where the broker knows such a thing."""

    message_id: str
    headers: dict[str, str]
    body: bytes
    key: str | None = None
    partition: int | None = None


class Ground(Protocol):
    """A broker with a place for events, as the tests of all three see it."""

    @property
    def port(self) -> int: ...

    def destination(self, *, password: str = IN_URL, **options: Any) -> Destination: ...

    async def arrived(self) -> list[Arrived]: ...

    async def go_away(self) -> None:
        """At once, whatever it was doing."""
        ...

    async def come_back(self) -> None: ...

    def tell(self, number: signal.Signals) -> None: ...


def _tell(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Send a signal; after one that stops the process none of its threads runs any more."""
    process.send_signal(number)
    if number is signal.SIGSTOP:
        # On its way while its sender goes on.
        states = [path / "stat" for path in Path(f"/proc/{process.pid}/task").iterdir()]
        until = time.monotonic() + STOP_SECONDS
        while any(state.read_text().rpartition(") ")[2][0] != "T" for state in states):
            assert time.monotonic() < until
            time.sleep(0.001)


class Program:
    """A server as a process, all it says in a file. The kernel ends it when this process ends, however that was."""

    def __init__(self, *arguments: str, folder: Path, user: str | None = None, **environment: str) -> None:
        as_user = ["--reuid", user, "--regid", user, "--clear-groups"] if user and os.geteuid() == 0 else []
        self._arguments = ["setpriv", *as_user, "--pdeathsig", "KILL", *arguments]
        self._environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder), **environment}
        self._folder = folder
        self._log = folder / f"{Path(arguments[0]).name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, port: int, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        """Returns once something listens on its port."""
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, env=self._environment, cwd=self._folder, stdin=stdin, stdout=output, stderr=output
            )
        async with asyncio.timeout(START_SECONDS):
            while not await _listens(port):
                assert self._process.returncode is None, self.said()
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
        return self._process

    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def tell(self, number: signal.Signals) -> None:
        assert self._process
        _tell(self._process, number)

    async def end(self, number: signal.Signals) -> None:
        """End it by this signal, and by force where that is not enough."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@dataclass
class Nats:
    """A nats-server with JetStream, and a stream for one subject."""

    program: Program
    port: int
    subject: str = "aircall.events"
    scheme: str = "nats"

    @classmethod
    @asynccontextmanager
    async def running(
        cls, folder: Path, *, tls: "Certificate | None" = None, open_to_all: bool = False
    ) -> AsyncIterator[Self]:
        _need("setpriv", "nats-server")
        port = free_port()
        users = [
            {"user": USER, "password": PASSWORD},
            {
                "user": LIMITED_USER,
                "password": PASSWORD,
                "permissions": {"publish": "allowed.>", "subscribe": "_INBOX.>"},
            },
        ]
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "jetstream": {"store_dir": str(folder / "jetstream")},
            "authorization": {} if open_to_all else {"users": users},
        }
        if tls is not None:
            settings["tls"] = {"cert_file": str(tls.certificate), "key_file": str(tls.key)}
        (folder / "nats.conf").write_text(json.dumps(settings))
        program = Program("nats-server", "-c", str(folder / "nats.conf"), folder=folder)
        it = cls(program, port, scheme="nats" if tls is None else "tls")
        try:
            await it.come_back()
            yield it
        finally:
            await program.end(signal.SIGTERM)

    def destination(
        self, *, password: str = IN_URL, user: str = USER, subject: str | None = None, **options: Any
    ) -> Destination:
        url = f"{self.scheme}://{user}:{password}@127.0.0.1:{self.port}"
        return brokers.NATS.open(url, self.subject if subject is None else subject, **options)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        client = await nats.connect(f"nats://127.0.0.1:{self.port}", user=USER, password=PASSWORD)
        try:
            yield client
        finally:
            await client.close()

    async def make_stream(self, **options: Any) -> None:
        async with self.client() as client:
            await client.jetstream().add_stream(**({"name": "events", "subjects": [self.subject]} | options))

    async def arrived(self) -> list[Arrived]:
        found: list[Arrived] = []
        async with self.client() as client:
            waiting = (await client.jetstream().stream_info("events")).state.messages
            reader = await client.jetstream().subscribe(self.subject, stream="events", ordered_consumer=True)
            while len(found) < waiting:
                message = await reader.next_msg(timeout=START_SECONDS)
                headers = dict(message.headers)
                found.append(Arrived(headers.pop("Nats-Msg-Id"), headers, message.data))
        return found

    async def go_away(self) -> None:
        await self.program.end(signal.SIGKILL)

    async def come_back(self) -> None:
        await self.program.start(port=self.port)

    def tell(self, number: signal.Signals) -> None:
        self.program.tell(number)


@dataclass
class RabbitMq:
    """A rabbitmq-server run by hand as its own user, with a port mapper of its own; and one queue."""

    program: Program
    port: int
    tls_port: int
    exchange: str = "aircall"
    routing_key: str = "events"
    queue: str = "events"

    @classmethod
    @asynccontextmanager
    async def running(cls, tls: "Certificate") -> AsyncIterator[Self]:
        _need("setpriv", "epmd", str(RABBITMQ))
        # Not in the test's own folder, which its user can't enter.
        folder = Path(tempfile.mkdtemp(prefix="rabbitmq-"))
        port, tls_port, mapper_port, between_nodes = (free_port() for _ in range(4))
        _write_rabbitmq_settings(folder, port, tls_port, tls)
        user = _hand_over(folder, "rabbitmq")
        environment = {
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper_port),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(between_nodes),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_NODENAME": f"test-{port}@localhost",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            # One process instead of a shell around it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        # Ours from the start: what the server would start by itself stays behind when it ends.
        mapper = Program("epmd", "-port", str(mapper_port), folder=folder, user=user, ERL_EPMD_ADDRESS="127.0.0.1")
        program = Program(str(RABBITMQ), folder=folder, user=user, **environment)
        it = cls(program, port, tls_port)
        try:
            await mapper.start(port=mapper_port)
            await it.come_back()
            yield it
        finally:
            await program.end(signal.SIGTERM)
            await mapper.end(signal.SIGTERM)
            shutil.rmtree(folder)

    def destination(
        self,
        *,
        password: str = IN_URL,
        user: str = USER,
        encrypted: bool = False,
        exchange: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> Destination:
        scheme, port = ("amqps", self.tls_port) if encrypted else ("amqp", self.port)
        return brokers.RABBITMQ.open(
            f"{scheme}://{user}:{password}@127.0.0.1:{port}/aircall%2Ftest",
            self.exchange if exchange is None else exchange,
            self.routing_key if routing_key is None else routing_key,
            **options,
        )

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Any]:
        connection = await aio_pika.connect(
            host="127.0.0.1", port=self.port, login=USER, password=PASSWORD, virtualhost="aircall/test"
        )
        async with connection, connection.channel() as channel:
            yield channel

    async def arrived(self) -> list[Arrived]:
        found: list[Arrived] = []
        async with self.channel() as channel:
            queue = await channel.get_queue(self.queue)
            while message := await queue.get(fail=False, no_ack=False):
                assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
                assert message.headers["type"] == message.type
                found.append(Arrived(message.message_id, dict(message.headers), message.body))
        return found

    async def empty(self) -> None:
        async with self.channel() as channel:
            await (await channel.get_queue(self.queue)).purge()

    async def go_away(self) -> None:
        await self.program.end(signal.SIGKILL)

    async def come_back(self) -> None:
        await self.program.start(port=self.port)

    def tell(self, number: signal.Signals) -> None:
        self.program.tell(number)


def _write_rabbitmq_settings(folder: Path, port: int, tls_port: int, tls: "Certificate") -> None:
    for path in (tls.certificate, tls.key):
        shutil.copy(path, folder)
    lines = {
        "listeners.tcp.1": f"127.0.0.1:{port}",
        "listeners.ssl.1": f"127.0.0.1:{tls_port}",
        "ssl_options.certfile": folder / tls.certificate.name,
        "ssl_options.keyfile": folder / tls.key.name,
        "load_definitions": folder / "definitions.json",
        "log.console": "true",
        "log.console.level": "warning",
        "log.file": "false",
        "max_message_size": 1_000_000,
    }
    vhost = "aircall/test"
    allowed = {USER: ".*", LIMITED_USER: "^nothing$"}
    definitions: dict[str, Any] = {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": name,
                "password_hash": _rabbitmq_hash(PASSWORD),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
            for name in allowed
        ],
        "permissions": [
            {"user": name, "vhost": vhost, "configure": pattern, "write": pattern, "read": pattern}
            for name, pattern in allowed.items()
        ],
        "exchanges": [
            {
                "name": "aircall",
                "vhost": vhost,
                "type": "direct",
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": {},
            }
        ],
        "queues": [
            {"name": "events", "vhost": vhost, "durable": True, "auto_delete": False, "arguments": {}},
            {
                "name": "full",
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"},
            },
        ],
        "bindings": [
            {
                "source": "aircall",
                "vhost": vhost,
                "destination": "events",
                "destination_type": "queue",
                "routing_key": "events",
                "arguments": {},
            }
        ],
    }
    (folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
    (folder / "definitions.json").write_text(json.dumps(definitions))
    (folder / "plugins").write_text("[].\n")
    (folder / "none").touch()


def _rabbitmq_hash(password: str) -> str:
    """A random salt and its SHA-256 with the password, as the server's documentation of definitions has it."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _hand_over(folder: Path, user: str) -> str | None:
    """Make a folder this user's where we may; None where the server runs as we do."""
    if os.geteuid() != 0:
        return None
    known = pwd.getpwnam(user)
    for path in (folder, *folder.iterdir()):
        os.chown(path, known.pw_uid, known.pw_gid)
    return user


@dataclass
class Kafka:
    """librdkafka's mock cluster with one topic."""

    process: asyncio.subprocess.Process
    address: str
    topic: str = "aircall.events"

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        _need("setpriv")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.support.mock_kafka", stdin=pipe, stdout=pipe
        )
        assert process.stdout
        it = cls(process, (await process.stdout.readline()).decode().strip())
        try:
            await it.order("topic", it.topic, PARTITIONS)
            yield it
        finally:
            process.kill()
            await process.wait()

    def destination(
        self, *, password: str = IN_URL, topic: str | None = None, url: str | None = None, **options: Any
    ) -> Destination:
        return brokers.KAFKA.open(url or self.address, topic or self.topic, **options)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def order(self, *words: object) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        assert await self.process.stdout.readline() == b"done\n"

    async def arrived(self) -> list[Arrived]:
        found: list[Arrived] = []
        consumer = AIOKafkaConsumer(bootstrap_servers=self.address, enable_auto_commit=False)
        await consumer.start()
        try:
            places = [TopicPartition(self.topic, number) for number in range(PARTITIONS)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found += [_from_kafka(record) for record in records]
        finally:
            await consumer.stop()
        return found

    async def go_away(self) -> None:
        """Its process would take along all it holds in memory, so its port is closed and every connection cut."""
        await self.order("down")

    async def come_back(self) -> None:
        await self.order("up")

    def tell(self, number: signal.Signals) -> None:
        _tell(self.process, number)


def _from_kafka(record: Any) -> Arrived:
    headers = {name: value.decode() for name, value in record.headers}
    return Arrived(headers["event_id"], headers, record.value, record.key.decode(), record.partition)


@dataclass
class SaslDoor:
    """A door before the mock cluster, which knows no users itself: it asks for user and password, then steps aside.

    The frames are those of kafka.apache.org/protocol; the cluster names this door as its own address meanwhile.
    """

    kafka: Kafka
    port: int = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, kafka: Kafka) -> AsyncIterator[Self]:
        it = cls(kafka)
        async with await asyncio.start_server(it._answer, "127.0.0.1") as server:
            it.port = server.sockets[0].getsockname()[1]
            await kafka.order("address", "127.0.0.1", it.port)
            try:
                yield it
            finally:
                await kafka.order("address", "127.0.0.1", kafka.port)

    def url(self, password: str) -> str:
        return f"sasl_plaintext://{USER}:{password}@127.0.0.1:{self.port}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self.kafka.port)
        try:
            await self._step(reader, writer, inner_reader, inner_writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            inner_writer.close()
            writer.close()

    async def _step(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inner_reader: asyncio.StreamReader,
        inner_writer: asyncio.StreamWriter,
    ) -> None:
        known = False
        while True:
            frame = await _frame(reader)
            api_key, correlation_id = struct.unpack(">h", frame[:2])[0], frame[4:8]
            if api_key == SASL_HANDSHAKE:
                answer = correlation_id + struct.pack(">hih5s", 0, 1, 5, b"PLAIN")
            elif api_key == SASL_AUTHENTICATE:
                known = frame.endswith(f"\0{USER}\0{PASSWORD}".encode())
                answer = correlation_id + struct.pack(">hhi", 0 if known else SASL_FAILED, -1, 0)
            else:
                assert known or api_key == API_VERSIONS
                inner_writer.write(struct.pack(">i", len(frame)) + frame)
                answer = await _frame(inner_reader)
            if api_key == API_VERSIONS:
                answer = answer[:6] + struct.pack(">i", struct.unpack(">i", answer[6:10])[0] + 2) + answer[10:]
                answer += struct.pack(">hhhhhh", SASL_HANDSHAKE, 0, 1, SASL_AUTHENTICATE, 0, 0)
            writer.write(struct.pack(">i", len(answer)) + answer)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1: only clients that are given it trust it."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        return cls(*self_signed(folder, "127.0.0.1"))


def _need(*programs: str) -> None:
    missing = ", ".join(Path(program).name for program in programs if shutil.which(program) is None)
    if missing:
        miss(f"{missing} is not installed")
