"""Slows down strangers at the callback.

Anyone can open the install door and come back with a code of their own making. So what does not end in an installation
is counted, for the address that it came from and for all together, and beyond so many in a minute the callback answers
429 before it writes a row or asks Aircall. What ends in an installation costs nothing, nor does a repeat. A flow that
began with an install link is never counted: a link is made by the partner, and works once.

Each process counts for itself, so with n replicas n times as many get through. The address is the socket's, which no
header can change; behind a proxy it is the proxy's, so private addresses are counted with all others only.
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
# Who has one IPv6 address has all of its network's.
IPV6_PREFIX = 64


@dataclass
class Bucket:
    """Places that are taken and come back evenly, all of them within a minute."""

    size: int
    free: float
    at: float

    def refill(self, now: float) -> None:
        self.free = min(self.size, self.free + (now - self.at) * self.size / MINUTE_SECONDS)
        self.at = now

    @property
    def wait_seconds(self) -> int:
        """Until a place is free; 0 where one is."""
        return max(0, math.ceil((1 - self.free) * MINUTE_SECONDS / self.size))


class Brake:
    """How many flows of one process ended without an installation of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Bucket(OF_ALL, OF_ALL, clock())
        self._by_network: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str | None) -> "Turn":
        """A turn at the callback, to be given back where it cost nothing. Raises `TooManyFailedInstalls`."""
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
        """The address's own bucket, the one used longest ago making room for a new one."""
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
    """A place in each of some buckets."""

    buckets: list[Bucket]

    def give_back(self) -> None:
        """It ended in an installation, or cost nothing; twice is as good as once."""
        for bucket in self.buckets:
            bucket.free = min(bucket.size, bucket.free + 1)
        self.buckets = []


def _network(address: str | None) -> str | None:
    """What an address is counted by; None for one that is not its visitor's own."""
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
