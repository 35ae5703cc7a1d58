"""The outcomes of HTTP deliveries in one word, and the addresses they may not go to."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aircall_oauth.aircall import clients
from aircall_oauth.deliveries.destinations import addresses, http
from aircall_oauth.deliveries.destinations.addresses import Guard
from aircall_oauth.deliveries.destinations.brokers import network
from aircall_oauth.deliveries.destinations.http import HttpDestination
from aircall_oauth.deliveries.destinations.outcomes import Delivered, Gone, Message, Outcome, TryAgain
from aircall_oauth.errors import AircallUnavailable, DestinationRefused
from aircall_oauth.http_client import trust
from aircall_oauth.operations import doctor
from aircall_oauth.sandbox.ports import free_port
from tests.support.authority import self_signed
from tests.support.receivers import Hangup, Received, answer_with, raw_receiver, receiver
from tests.support.service import loop_turns, settings_for

MESSAGE = Message("evt_1", "ins_1", "call.ended", b'{"id": "evt_1", "data": {}}')
KEY = b"k" * 32


def guard(ranges: str = "127.0.0.0/8", ports: str = "") -> Guard:
    return Guard(settings_for("postgresql:///", ALLOWED_PRIVATE_RANGES=ranges, DESTINATION_PORTS=ports))


async def deliver(url: str, times: int = 1, ranges: str = "127.0.0.0/8") -> Outcome:
    """Make some deliveries in a row; returns the outcome of the last."""
    destination = HttpDestination(url, lambda: [KEY], guard(ranges), at_once=4)
    try:
        for _ in range(times):
            outcome = await destination.deliver(MESSAGE)
        return outcome
    finally:
        await destination.close()


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changes:
        changes.setattr(http, "DEADLINE_SECONDS", 0.5)
        yield


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Delivered()),
        (204, Delivered()),
        (299, Delivered()),
        (304, TryAgain("redirect")),
        (400, TryAgain("http_400")),
        (404, TryAgain("http_404")),
        (410, Gone("http_410")),
        (429, TryAgain("http_429")),
        (500, TryAgain("http_500")),
        (503, TryAgain("http_503")),
    ],
)
async def test_a_status_is_an_outcome(status: int, outcome: Outcome) -> None:
    async with receiver() as to:
        to.answer = answer_with(status)

        assert await deliver(to.url) == outcome


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(status: int) -> None:
    async with receiver() as to, receiver() as elsewhere:
        to.answer = answer_with(status, {"location": elsewhere.url})

        assert await deliver(to.url) == TryAgain("redirect")

        assert elsewhere.received == []
        assert len(to.received) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_a_pause_that_is_asked_for_is_told_in_seconds_or_as_a_date_and_at_most_an_hour(status: int) -> None:
    async def pause(told: str) -> float | None:
        async with receiver() as to:
            to.answer = answer_with(status, {"retry-after": told})
            outcome = await deliver(to.url)
        assert isinstance(outcome, TryAgain)
        return outcome.pause_seconds

    in_ten_minutes = datetime.now(UTC) + timedelta(minutes=10)
    assert await pause("7") == 7
    assert await pause("0") == 0
    assert await pause(str(10**30)) == 3600
    assert await pause("99999") == 3600
    dated = await pause(format_datetime(in_ten_minutes, usegmt=True))
    assert dated is not None
    assert 500 < dated <= 600
    assert await pause("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert await pause("Fri, 31 Dec 9999 23:59:59 GMT") == 3600
    for nonsense in ("soon", "-5", "1.5", "", "²", "Fri, 99 Dec 2026 99:99:99 GMT"):
        assert await pause(nonsense) is None, nonsense


async def test_only_429_and_503_may_ask_for_a_pause() -> None:
    async with receiver() as to:
        to.answer = answer_with(500, {"retry-after": "7"})

        assert await deliver(to.url) == TryAgain("http_500")


async def test_nobody_listens() -> None:
    assert await deliver(f"http://127.0.0.1:{free_port()}/") == TryAgain("refused")


async def test_a_name_that_is_not_there() -> None:
    assert await deliver("https://nowhere.invalid/") == TryAgain("dns")


async def test_a_connection_that_is_cut() -> None:
    async def hang_up(_: Received) -> web.Response:
        raise Hangup

    async with receiver() as to:
        to.answer = hang_up

        assert await deliver(to.url) == TryAgain("reset")


async def test_an_answer_that_is_no_http() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await writer.drain()

    async with raw_receiver(answer) as url:
        assert await deliver(url) == TryAgain("not_http")


@pytest.mark.usefixtures("short_deadline")
async def test_no_answer_in_time() -> None:
    async def answer(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with raw_receiver(answer) as url:
        assert await deliver(url) == TryAgain("timeout")


async def test_a_long_answer_is_not_read_to_its_end() -> None:
    written = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            written += 100_000

    async with raw_receiver(answer) as url:
        assert await deliver(url) == Delivered()

    assert written < 50_000_000


async def test_a_connection_is_used_again() -> None:
    peers: set[Any] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.add(writer.get_extra_info("peername"))
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"Content-Length"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            await writer.drain()

    async with raw_receiver(answer) as url:
        assert await deliver(url, times=5) == Delivered()

    assert len(peers) == 1


async def test_a_connection_is_not_used_again_if_its_request_was_answered_unread() -> None:
    """What is left of the request would be taken for the next one."""
    large, over, connections = replace(MESSAGE, body=b" " * 8_000_000), asyncio.Event(), 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await over.wait()

    async with raw_receiver(answer) as url:
        destination = HttpDestination(url, lambda: [KEY], guard(), at_once=4)
        assert [await destination.deliver(each) for each in (large, MESSAGE)] == [Delivered()] * 2
        await destination.close()
        over.set()

    assert connections == 2


async def test_what_came_unasked_is_no_delivery() -> None:
    """A receiver that answers one delivery twice, and hangs up on the next one."""
    answered, told = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answered.is_set():
            return
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await answered.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        told.set()
        await reader.read()

    async with raw_receiver(answer) as url:
        destination = HttpDestination(url, lambda: [KEY], guard(), at_once=4)
        assert await destination.deliver(MESSAGE) == Delivered()
        answered.set()
        await told.wait()
        await loop_turns()

        assert await destination.deliver(MESSAGE) == TryAgain("reset")
        await destination.close()


async def test_a_cookie_is_not_kept_and_a_proxy_of_the_environment_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with receiver() as to:
        to.answer = answer_with(200, {"set-cookie": "a=b"})

        assert await deliver(to.url, times=2) == Delivered()

        assert "Cookie" not in to.received[1].headers


def certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, Path]:
    """Make a server's context with a self-signed certificate; returns both."""
    pem, key_pem = self_signed(folder, host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key_pem)
    return context, pem


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, pem = certificate(tmp_path, "127.0.0.1")
    async with receiver(ssl_context=context) as to:
        url = to.url.replace("http://", "https://")

        assert await deliver(url) == TryAgain("tls_untrusted")

        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        http._trust.cache_clear()
        try:
            assert await deliver(url) == Delivered()
            assert await deliver(url.replace("127.0.0.1", "127.0.0.2")) == TryAgain("refused")
        finally:
            http._trust.cache_clear()
    assert len(to.received) == 1


def authority_and_server(folder: Path, *, host: str = "127.0.0.1", days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """Run a server of a private authority that leaves extensions out: no keyUsage, no key identifiers."""
    at, keys = datetime.now(UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", host)]
    pems = []
    for number in (0, 1):
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[number])
            .issuer_name(names[0])
            .public_key(keys[number].public_key())
            .serial_number(number + 1)
            .not_valid_before(at - timedelta(days=30))
            .not_valid_after(at + timedelta(days=days if number else 1))
        )
        extension: x509.ExtensionType = x509.BasicConstraints(ca=True, path_length=None)
        if number:
            extension = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        made = builder.add_extension(extension, critical=number == 0).sign(keys[0], hashes.SHA256())
        pems.append(made.public_bytes(serialization.Encoding.PEM))
    secret = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server, authority = folder / "server.pem", folder / "authority.pem"
    server.write_bytes(pems[1] + secret)
    authority.write_bytes(pems[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    return context, authority


@pytest.mark.parametrize(
    ("host", "days", "outcome"),
    [
        ("127.0.0.1", 1, Delivered()),
        ("127.0.0.2", 1, TryAgain("tls_wrong_name")),
        ("127.0.0.1", -1, TryAgain("tls_expired")),
    ],
)
async def test_a_private_authority_is_believed_on_every_python_and_a_failure_says_why(
    host: str, days: int, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ssl.create_default_context

    def as_python_3_13_does() -> ssl.SSLContext:
        context = real()
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    context, authority = authority_and_server(tmp_path, host=host, days=days)
    monkeypatch.setattr(ssl, "create_default_context", as_python_3_13_does)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    http._trust.cache_clear()
    try:
        async with receiver(ssl_context=context) as to:
            assert await deliver(to.url.replace("http://", "https://")) == outcome
    finally:
        http._trust.cache_clear()


async def test_aircall_behind_a_private_authority_is_believed_where_deliveries_are_and_doctor_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = authority_and_server(tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 200 OK\r\ndate: {format_datetime(datetime.now(UTC))}\r\ncontent-length: 0\r\n\r\n".encode()
        )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(AircallUnavailable) as stranger:
            await clock_of_aircall(url)
        page = await doctor.consent_page(settings_for("postgresql:///", AUTHORIZE_URL=url))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        known = await clock_of_aircall(url)
        page_of_known = await doctor.consent_page(settings_for("postgresql:///", AUTHORIZE_URL=url))

    assert stranger.value.reason == "no connection (tls_untrusted)"
    assert ("tls_untrusted" in page.seen, "SSL_CERT_FILE" in (page.advice or "")) == (True, True)
    assert (known is not None, page_of_known.level) == (True, "ok")


async def clock_of_aircall(url: str) -> datetime | None:
    """Ask for the time by a client of the service's."""
    opened = clients.open_clients(
        api_url=url, client_id="a", client_secrets=[], redirect_uri="", proxy="", transport=None, watched=None
    )
    try:
        return await opened.own.clock()
    finally:
        await opened.close()


@pytest.mark.parametrize("strict", [0, ssl.VERIFY_X509_STRICT])
def test_every_way_out_verifies_servers_alike(strict: int) -> None:
    by_default = ssl.create_default_context()
    by_default.verify_flags |= strict

    for context in (trust(by_default), http._trust(), network.tls(), clients.trust_for_aircall()):
        assert context.verify_flags == ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname


BLOCKED = [
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16", "192.88.99.1", "100.100.100.200"),
    *(
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "fe80::1",
        "fc00::1",
    ),
    *("fd00:ec2::254", "ff02::1", "fec0::1", "2002:7f00:1::", "2002:808:808::1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::1", "2001:0:1::1", "2001:db8::1", "100::1", "3fff::1", "5f00::1", "fe80::1%1"),
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "192.0.9.1",
    "100.128.0.1",
]


@pytest.mark.parametrize("address", BLOCKED)
def test_an_address_that_is_not_public_is_blocked(address: str) -> None:
    assert not guard(ranges="").allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    assert guard(ranges="").allows(address)


def test_the_operator_may_allow_a_private_range_and_no_other_comes_with_it() -> None:
    judge = guard(ranges="10.0.0.0/8,fd00::/16")

    assert [judge.allows(a) for a in ("10.9.8.7", "::ffff:10.0.0.1", "fd00::1", "8.8.8.8")] == [True] * 4
    assert [judge.allows(a) for a in ("11.0.0.1", "127.0.0.1", "fd01::1", "192.168.0.1")] == [True, *[False] * 3]


# Every way to say 127.0.0.1 that some library understands.
SPELLINGS = [
    *("127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001", "0"),
    *("localhost", "localhost.", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]"),
    *("127.0.0.1.", "%31%32%37.0.0.1", "[::]", "0.0.0.0", "[64:ff9b::7f00:1]", "[2002:7f00:1::]"),
]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_a_blocked_address_gets_through(host: str) -> None:
    async with receiver() as to:
        for scheme in ("http", "https"):
            outcome = await deliver(f"{scheme}://{host}:{to.port}/", ranges="")

            assert outcome in (TryAgain("blocked_address"), TryAgain("dns")), outcome

    assert to.received == []


@pytest.mark.parametrize("host", [host for host in SPELLINGS if "%" not in host])
async def test_a_blocked_address_is_refused_when_a_subscription_is_made(host: str) -> None:
    for scheme in ("http", "https"):
        with pytest.raises(DestinationRefused):
            await guard(ranges="").require_url(f"{scheme}://{host}/hook")


@asynccontextmanager
async def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> AsyncIterator[None]:
    """Have the resolver answer so, lookup by lookup; the last answer stays."""
    left = list(answers)

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        found = left.pop(0) if len(left) > 1 else left[0]
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in found]
        return [(family, socket.SOCK_STREAM, 6, "", (each, port)) for family, each in zip(families, found, strict=True)]

    with monkeypatch.context() as changes:
        changes.setattr(addresses.socket, "getaddrinfo", look_up)  # type: ignore[attr-defined]
        yield


async def test_a_name_that_means_a_public_and_a_private_address_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as to:
        for both in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["2606:4700::1", "::1"]):
            async with names(monkeypatch, both):
                with pytest.raises(DestinationRefused):
                    await guard(ranges="").require_url(f"https://both.example.com:{to.port}/")
                outcome = await deliver(f"https://both.example.com:{to.port}/", ranges="")

                assert outcome == TryAgain("blocked_address")
    assert to.received == []


async def test_a_name_that_means_something_else_at_the_attempt_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver() as to, names(monkeypatch, ["8.8.8.8"], ["127.0.0.1"]):
        await guard(ranges="").require_url(f"https://rebound.example.com:{to.port}/")

        assert await deliver(f"https://rebound.example.com:{to.port}/", ranges="") == TryAgain("blocked_address")

    assert to.received == []


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://8.8.8.8/",
            "file:///etc/passwd",
            "//8.8.8.8/",
            "https:///x",
            "https://",
            "8.8.8.8",
            "https://8.8.8.8:x/",
        ),
        *("https://user@8.8.8.8/", "https://user:word@8.8.8.8/", "https://8.8.8.8/#x", "https://8.8.8.8\\@10.0.0.1/"),
        *(
            "https://%38.8.8.8/",
            "https://[8.8.8.8]/",
            "https://8.8.8.8/ x",
            "https://8.8.8.8/\n",
            "https://8.8.8.8/é",
            "http://8.8.8.8/",
            "https://8.8.8.8:99999/",
        ),
    ],
)
async def test_an_address_that_is_not_a_plain_https_one_is_refused(url: str) -> None:
    with pytest.raises(DestinationRefused):
        await guard().require_url(url)


async def test_plain_http_is_for_allowed_ranges_only() -> None:
    await guard().require_url("http://127.0.0.1:8080/hook")
    await guard().require_url("https://8.8.8.8/hook")
    await guard().require_url("https://not-there-yet.invalid/hook")
    for refused in ("http://8.8.8.8/hook", "http://not-there-yet.invalid/hook"):
        with pytest.raises(DestinationRefused):
            await guard().require_url(refused)


async def test_ports_may_be_restricted() -> None:
    judge = guard(ports="443, 8443")

    await judge.require_url("https://8.8.8.8/hook")
    await judge.require_url("https://8.8.8.8:8443/hook")
    for refused in ("https://8.8.8.8:22/", "http://127.0.0.1/"):
        with pytest.raises(DestinationRefused, match="DESTINATION_PORTS"):
            await judge.require_url(refused)
