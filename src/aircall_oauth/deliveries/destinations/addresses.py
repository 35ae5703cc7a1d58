"""Decides which addresses deliveries may go to: public ones, and private ones that the operator allowed.

A destination is judged twice: when a subscription is made, so that a mistake shows at once, and at every attempt when
the socket is made, because its name may mean another address by then.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from aircall_oauth.deliveries.destinations import lookups
from aircall_oauth.errors import DestinationRefused
from aircall_oauth.settings import Settings

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# These carry an IPv4 address, to which a gateway translates them: the inner address is judged.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Networks that `ipaddress` calls global, or does not judge, and deliveries must not go to.
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
    """The destination is at an address that deliveries may not go to."""


class Guard:
    """Knows which addresses, ports and schemes a delivery may use. Looks names up within the share of `asker`."""

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
        """Make a socket for an address; raises `AddressBlocked` if deliveries may not go there."""
        family, type_, _, _, address = addr_info
        if not self.allows(address[0]):
            raise AddressBlocked("blocked")
        return socket.socket(family, type_, socket.IPPROTO_TCP)

    async def addresses_of(self, host: str, family: int = socket.AF_UNSPEC) -> lookups.Found:
        """Return every address that a host has now; raises `AddressBlocked` if deliveries may not go to one of them.

        A blocked address is not merely left out: the host's next answer might be another one. Raises `OSError` if the
        host can't be looked up within five seconds.
        """
        # `localhost.` is not found by every system; where it is found, it is this machine like `localhost`.
        found = await lookups.find(host.rstrip("."), family, self._asker)
        if not all(self.allows(address[0]) for _, address in found):
            raise AddressBlocked("blocked")
        return found

    def proxy_to(self, address: str) -> str:
        """Return the proxy on the way to an address; empty if there is none, as for ranges the operator allowed."""
        return "" if self._is_private(address) else self._proxy

    async def connect(self, host: str, port: int) -> socket.socket:
        """Connect to one of a host's addresses. Raises `AddressBlocked`, or the `OSError` of the last address tried."""
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
        """Raise `DestinationRefused` for an HTTP destination that would be refused at every attempt.

        A name that can't be looked up now is accepted, if it is reached by `https`.
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
        """Raise `DestinationRefused` if deliveries may not go to one of a broker's hosts."""
        for host, port in hosts:
            if await self.refusal(host, port) == "blocked_address":
                raise DestinationRefused(LIES_WHERE_NONE_MAY_GO)

    async def refusal(self, host: str, port: int) -> str | None:
        """Return one word why a host may not be connected to now, or None if it may."""
        try:
            return None if await self._now(host) else "dns"
        except AddressBlocked:
            return "blocked_address"

    async def _now(self, host: str) -> Sequence[str]:
        """Return every address that a host has now; none if it can't be looked up."""
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
        """Whether an address is in a range that the operator allowed."""
        address = _inner(ipaddress.ip_address(text.partition("%")[0]))
        return any(address.version == network.version and address in network for network in self._allowed)


def _parts(url: str) -> tuple[str, str, int]:
    from yarl import URL

    try:
        parts, as_sent = urlsplit(url), URL(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise DestinationRefused("This is not an address.") from None
    # `urlsplit` judges the address and yarl sends to it: both must read the same host and port.
    if as_sent.raw_host != host or as_sent.explicit_port != port or "%" in host:
        raise DestinationRefused("This is not an address.")
    if parts.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise DestinationRefused("A destination must be an https:// address.")
    if "@" in parts.netloc or "#" in url or "\\" in url:
        raise DestinationRefused("A destination must not carry a user name, a password or a #fragment.")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _is_oddly_spelled(host: str) -> bool:
    """Whether a host is an IPv4 address to some parsers only, as `127.1`, `0x7f.1` and `2130706433` are."""
    try:
        socket.inet_aton(host.rstrip("."))
    except OSError:
        return False
    try:
        return str(IPv4Address(host)) != host
    except ValueError:
        return True


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address carries, or the address itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    refused = any(address.version == network.version and address in network for network in REFUSED)
    return address.is_global and not address.is_multicast and not refused
