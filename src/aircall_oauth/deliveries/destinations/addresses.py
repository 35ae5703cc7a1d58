"""Where a delivery may go: public addresses, and the private ones that the operator allowed.

A destination is judged twice. When a subscription is made, so that a mistake is told at once; and at every attempt,
where the socket is made, because a name may mean another address by then.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aircall_oauth.deliveries.destinations import lookups
from aircall_oauth.errors import DestinationRefused
from aircall_oauth.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# An IPv4 address travels inside these, and a gateway takes it out again: what counts is the one inside.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# What `ipaddress` calls global, or leaves to the reader, and is still no place for a delivery.
REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # shared by a carrier's customers
        "168.63.129.16/32",  # a cloud's metadata behind a public address
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "::/96",  # IPv4-compatible
        "64:ff9b:1::/48",  # NAT64 of a network's own
        "100::/64",
        "2001::/23",  # Teredo and other transitions
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",  # site-local, as it was once called
    )
]


LIES_WHERE_NONE_MAY_GO = "This destination lies at an address that deliveries may not go to."


class AddressBlocked(OSError):
    """The destination lies where no delivery may go."""


class Guard:
    """Knows which addresses, ports and schemes a delivery may use; looks names up within the share of `asker`."""

    def __init__(self, settings: Settings, asker: str = "") -> None:
        self._asker = asker
        self._proxy = settings.deliveries_proxy.get_secret_value()
        self._allowed: list[Network] = [ipaddress.ip_network(text) for text in settings.allowed_private_ranges]
        self._ports = frozenset(settings.destination_ports)
        self._judged = lru_cache(4096)(self._judge)

    def allows(self, address: str) -> bool:
        """Whether a delivery may go to this address."""
        return self._judged(address)

    def make_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """A socket for an address that may be connected to; raises `AddressBlocked` for any other."""
        family, type_, _, _, address = addr_info
        if not self.allows(address[0]):
            raise AddressBlocked("blocked")
        return socket.socket(family, type_, socket.IPPROTO_TCP)

    async def addresses_of(self, host: str, family: int = socket.AF_UNSPEC) -> lookups.Found:
        """Every address that a host means now; raises `AddressBlocked` where one of them may not be connected to.

        Raises `OSError` where it can't be looked up within five seconds. Not one is left out: a second answer must
        not get a chance.
        """
        # With a dot at its end `localhost` is not found everywhere, and is this machine all the same where it is.
        found = await lookups.find(host.rstrip("."), family, self._asker)
        if not all(self.allows(address[0]) for _, address in found):
            raise AddressBlocked("blocked")
        return found

    def proxy_to(self, address: str) -> str:
        """The proxy on the way to an address; empty where there is none, as inside of what the operator allowed."""
        return "" if self._is_private(address) else self._proxy

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection to one of a host's addresses; raises `AddressBlocked`, or the last address's `OSError`."""
        failure = OSError("no address")
        for family, address in await self.addresses_of(host):
            connection = self.make_socket((family, socket.SOCK_STREAM, 0, "", address))
            try:
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, (address[0], port, *address[2:]))
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise
                failure = error
            else:
                return connection
        raise failure

    async def require_url(self, url: str) -> None:
        """Raises `DestinationRefused` for an HTTP destination that would be refused at every attempt.

        A name that can't be looked up now is no mistake yet, if it is to be reached by `https`.
        """
        scheme, host, port = _parts(url)
        if self._ports and port not in self._ports:
            raise DestinationRefused("This port is not among the AIRCALL_OAUTH_DESTINATION_PORTS.")
        try:
            addresses = await self._now(host)
        except AddressBlocked:
            raise DestinationRefused(LIES_WHERE_NONE_MAY_GO) from None
        if scheme != "https" and not (addresses and all(self._is_private(each) for each in addresses)):
            raise DestinationRefused("A destination outside AIRCALL_OAUTH_ALLOWED_PRIVATE_RANGES must be https://.")

    async def require_hosts(self, hosts: Iterable[tuple[str, int]]) -> None:
        """Raises `DestinationRefused` where one of a broker's hosts lies where no delivery may go."""
        for host, port in hosts:
            if await self.refusal(host, port) == "blocked_address":
                raise DestinationRefused(LIES_WHERE_NONE_MAY_GO)

    async def refusal(self, host: str, port: int) -> str | None:
        """Why a host may not be connected to now, in one word; None where it may."""
        try:
            return None if await self._now(host) else "dns"
        except AddressBlocked:
            return "blocked_address"

    async def _now(self, host: str) -> Sequence[str]:
        """Every address that a host means now; none for a name that can't be looked up."""
        if _is_oddly_spelled(host):
            raise DestinationRefused("An address must be in its usual spelling.")
        try:
            return [address[0] for _, address in await self.addresses_of(host)]
        except AddressBlocked:
            raise
        except (OSError, UnicodeError):
            return []

    def _judge(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        return self._is_private(text) or _is_public(_inner(address))

    def _is_private(self, text: str) -> bool:
        """Inside what the operator allowed."""
        address = _inner(ipaddress.ip_address(text.partition("%")[0]))
        return any(address.version == network.version and address in network for network in self._allowed)


class JudgingResolver(AbstractResolver):
    """Looks names up for aiohttp, and refuses one of which any address is refused."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=port,
                family=family_found,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for family_found, address in await self._guard.addresses_of(host, family)
        ]

    async def close(self) -> None:
        """There is nothing of its own to close."""


def _parts(url: str) -> tuple[str, str, int]:
    try:
        parts, as_sent = urlsplit(url), URL(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise DestinationRefused("This is not an address.") from None
    # Who judges it and who sends to it must read the same.
    if as_sent.raw_host != host or as_sent.explicit_port != port or "%" in host:
        raise DestinationRefused("This is not an address.")
    if parts.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise DestinationRefused("A destination must be an https:// address.")
    if "@" in parts.netloc or "#" in url or "\\" in url:
        raise DestinationRefused("A destination must not carry a user name, a password or a #fragment.")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _is_oddly_spelled(host: str) -> bool:
    """`127.1`, `0x7f.1` and `2130706433` are 127.0.0.1 for some who read them."""
    try:
        socket.inet_aton(host.rstrip("."))
    except OSError:
        return False
    try:
        return str(IPv4Address(host)) != host
    except ValueError:
        return True


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    refused = any(address.version == network.version and address in network for network in REFUSED)
    return address.is_global and not address.is_multicast and not refused
