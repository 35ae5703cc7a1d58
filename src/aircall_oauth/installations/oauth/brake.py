"""Brake: limit the flows without an installation at the callback.

The install door is public, and a made-up code costs nothing. So flows that do not end in an installation are counted,
per network address and in total; beyond a number per minute the callback answers 429 before it writes a row or asks
Aircall. Flows that end in an installation, and repeats, do not count. Nor do flows that began with an install link:
the partner makes it, and it works once.

Each process counts for itself, so n replicas let n times as many through. The address is the socket's, which no header
can change. Behind a proxy it is the proxy's, so private addresses count towards the total only.
"""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aircall_oauth.errors import TooManyFailedInstalls

MINUTE_SECONDS = 60.0
PER_ADDRESS = 10
OF_ALL = 30
MOST_ADDRESSES = 4096
# A sender with one IPv6 address has all addresses of its network.
IPV6_PREFIX = 64


@dataclass
class Bucket:
    """A token bucket: free places, refilled evenly, all of them within so many seconds."""

    size: int
    free: float
    at: float
    seconds: float = MINUTE_SECONDS

    def refill(self, now: float) -> None:
        self.free = min(self.size, self.free + (now - self.at) * self.size / self.seconds)
        self.at = now

    @property
    def wait_seconds(self) -> int:
        """Seconds until a place is free; 0 if one is."""
        return max(0, math.ceil((1 - self.free) * self.seconds / self.size))


class Brake:
    """Counts the flows of this process that ended without an installation in the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Bucket(OF_ALL, OF_ALL, clock())
        self._by_network: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str | None) -> "Turn":
        """Take a turn at the callback; give it back if the flow does not count. Raises `TooManyFailedInstalls`."""
        now = self._clock()
        buckets = [self._all, *self._of_network(address, now)]
        for bucket in buckets:
            bucket.refill(now)
        wait = max(bucket.wait_seconds for bucket in buckets)
        if wait:
            raise TooManyFailedInstalls(wait)
        for bucket in buckets:
            bucket.free -= 1
        return Turn(buckets)

    def _of_network(self, address: str | None, now: float) -> list[Bucket]:
        """Return the bucket of a public address's network. Beyond a limit the least recently used one is dropped."""
        network = _network(address)
        if network is None:
            return []
        bucket = self._by_network.setdefault(network, Bucket(PER_ADDRESS, PER_ADDRESS, now))
        self._by_network.move_to_end(network)
        if len(self._by_network) > MOST_ADDRESSES:
            self._by_network.popitem(last=False)
        return [bucket]


@dataclass
class Turn:
    """A place taken in each of some buckets."""

    buckets: list[Bucket]

    def give_back(self) -> None:
        """Free the places, as the flow does not count. A second call does nothing."""
        for bucket in self.buckets:
            bucket.free = min(bucket.size, bucket.free + 1)
        self.buckets = []


def _network(address: str | None) -> str | None:
    """Return the network that an address is counted by, or None for a private address, which may be a proxy's."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    if not parsed.is_global:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed)
