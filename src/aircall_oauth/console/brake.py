"""Brakes failed sign-ins: what is right is let in all the same, and what is wrong costs the database little.

A key and a link are 32 random bytes, so no number of guesses finds one; what a flood of them could do is keep the
database busy. Failures are counted for each network address and in all, by buckets that fill again evenly. Where one is
empty, a sign-in is still looked up while there is a place among a few a second: a key that is right signs in, one that
is wrong gets a 429. So no one locks out a colleague behind the same address, and a flood costs no more than those.

Each process counts for itself. The address is the socket's, which no header can change.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aircall_oauth.errors import ConsoleError, TooManySignIns
from aircall_oauth.installations.oauth.brake import IPV6_PREFIX, Bucket

PER_ADDRESS, OF_ALL = 10, 30  # within a minute
BRAKED_A_SECOND = 10
MOST_ADDRESSES = 4096


class SignInBrake:
    """Counts the sign-ins of this process that failed lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = Bucket(OF_ALL, OF_ALL, clock())
        self._braked = Bucket(BRAKED_A_SECOND, BRAKED_A_SECOND, clock(), seconds=1.0)
        self._by_network: OrderedDict[str, Bucket] = OrderedDict()

    @contextmanager
    def attempt(self, address: str | None) -> Iterator[None]:
        """Take a turn for a sign-in, which counts if it is refused; raises `TooManySignIns`."""
        now = self._clock()
        own = self._of_network(address, now)
        counted = [self._all, own]
        for bucket in (*counted, self._braked):
            bucket.refill(now)
        wait = max(bucket.wait_seconds for bucket in counted)
        taken = [self._braked] if wait else counted
        if any(bucket.wait_seconds for bucket in taken):
            raise TooManySignIns(1)
        for bucket in taken:
            bucket.free -= 1
        try:
            yield
        except ConsoleError as error:
            raise (TooManySignIns(wait) if wait else error) from None
        except BaseException:
            _give_back(taken)
            raise
        _give_back(taken)
        own.free = own.size

    def _of_network(self, address: str | None, now: float) -> Bucket:
        """Return the bucket of an address's network. Beyond a limit the least recently used one is dropped."""
        network = _network(address)
        bucket = self._by_network.setdefault(network, Bucket(PER_ADDRESS, PER_ADDRESS, now))
        self._by_network.move_to_end(network)
        if len(self._by_network) > MOST_ADDRESSES:
            self._by_network.popitem(last=False)
        return bucket


def _give_back(buckets: list[Bucket]) -> None:
    for bucket in buckets:
        bucket.free = min(bucket.size, bucket.free + 1)


def _network(address: str | None) -> str:
    """Return the network that an address is counted by: who has one IPv6 address has all of its network."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return str(parsed)
