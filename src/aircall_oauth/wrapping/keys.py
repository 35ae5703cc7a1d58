"""Wrapped keys: unwrap them for a start, wrap and rewrap them for a setting, tell how each is held."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aircall_oauth.errors import KeyServiceFailed
from aircall_oauth.wrapping.access import Access
from aircall_oauth.wrapping.entries import KEY_BYTES, Entry, Service, ServiceKey, Wrapped

if TYPE_CHECKING:
    from aircall_oauth.wrapping.kms import Kms
    from aircall_oauth.wrapping.transit import Transit, Versions


@dataclass(frozen=True)
class Holding:
    """How a wrapped key is held; the versions are None where the service does not tell them."""

    name: str
    wrapped: Wrapped
    versions: "Versions | None" = None


async def unwrap(wrapped: Mapping[str, Wrapped], access: Access) -> dict[str, bytes]:
    """Return the keys, by the text of their entries; `wrapped` is by what an error calls them.

    Raises `KeyServiceFailed`, which names the first that could not be unwrapped.
    """
    keys = {}
    async with _services(access) as services:
        for name, entry in wrapped.items():
            with _telling_which(name):
                keys[str(entry)] = await services.unwrap(entry)
    return keys


async def wrap(entries: Sequence[Entry], by: ServiceKey, access: Access) -> list[Entry]:
    """Wrap keys by a service's key; what another key has wrapped is unwrapped first. Raises `KeyServiceFailed`."""
    done = []
    async with _services(access) as services:
        for name, entry in _named(entries):
            with _telling_which(name):
                clear = await services.unwrap(entry.key) if isinstance(entry.key, Wrapped) else entry.key
                done.append(replace(entry, key=await (await services.of(by)).wrap(clear, by)))
    return done


async def rewrap(entries: Sequence[Entry], access: Access) -> list[Entry]:
    """Have each key wrapped by the newest version of the same service's key. Raises `KeyServiceFailed`."""
    done = []
    async with _services(access) as services:
        for name, entry in _named(entries):
            with _telling_which(name):
                if not isinstance(entry.key, Wrapped):
                    raise KeyServiceFailed("it is not wrapped yet", "Run `aircall-oauth secrets wrap` for all of them.")
                done.append(replace(entry, key=await (await services.of(entry.key.by)).rewrap(entry.key)))
    return done


async def holdings(wrapped: Mapping[str, Wrapped], access: Access) -> list[Holding]:
    """Return how each key is held, with the versions of Vault's key where our policy there lets us read them."""
    async with _services(access) as services:
        return [Holding(name, entry, await services.versions(entry.by)) for name, entry in wrapped.items()]


class _Services:
    """The key services, each opened when it is first needed."""

    def __init__(self, access: Access, stack: AsyncExitStack) -> None:
        self._access = access
        self._stack = stack
        self._transit: Transit | None = None

    async def of(self, key: ServiceKey) -> "Transit | Kms":
        match key.service:
            case Service.VAULT:
                return await self._vault()
            case Service.AWSKMS:
                from aircall_oauth.wrapping.kms import Kms

                return Kms(self._access)

    async def unwrap(self, wrapped: Wrapped) -> bytes:
        key = await (await self.of(wrapped.by)).unwrap(wrapped)
        if len(key) != KEY_BYTES:
            raise KeyServiceFailed(f"what is wrapped has {len(key)} bytes, not {KEY_BYTES}", "Wrap the key's bytes.")
        return key

    async def versions(self, key: ServiceKey) -> "Versions | None":
        try:
            return await (await self._vault()).versions(key) if key.service is Service.VAULT else None
        except KeyServiceFailed:
            return None

    async def _vault(self) -> "Transit":
        from aircall_oauth.wrapping import transit

        if self._transit is None:
            self._transit = await self._stack.enter_async_context(transit.opened(self._access))
        return self._transit


@asynccontextmanager
async def _services(access: Access) -> AsyncIterator[_Services]:
    async with AsyncExitStack() as stack:
        yield _Services(access, stack)


def _named(entries: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """Return the entries, each with what an error calls it."""
    return [
        (f"entry {number}" if entry.key_id is None else f"the key {entry.key_id!r}", entry)
        for number, entry in enumerate(entries, start=1)
    ]


@contextmanager
def _telling_which(name: str) -> Iterator[None]:
    try:
        yield
    except KeyServiceFailed as error:
        raise error.about(name) from None
