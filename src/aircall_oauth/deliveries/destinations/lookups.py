"""Looks names up in threads, with a limit for each share, so that names without an answer do not hold up others."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

Found = list[tuple[socket.AddressFamily, tuple[Any, ...]]]

# A lookup that hangs holds its thread for as long as the system's resolver tries, perhaps half a minute.
IN_ALL = 256
OF_A_SHARE = 8
SECONDS = 5.0


class Lookups:
    """The lookups under way in one event loop. Within a share, one lookup serves all requests for the same name."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str, int], asyncio.Task[Found]] = {}
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._in_all = asyncio.Semaphore(IN_ALL)

    async def find(self, name: str, family: int, share: str) -> Found:
        """Return the addresses of a name. Raises `OSError`, within five seconds, or `UnicodeError` for no name."""
        asked = (share, name, family)
        if asked not in self._under_way:
            self._under_way[asked] = asyncio.create_task(self._find(name, family, share))
            self._under_way[asked].add_done_callback(lambda task: self._ended(asked, task))
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.shield(self._under_way[asked])
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer in time") from None

    async def _find(self, name: str, family: int, share: str) -> Found:
        of_the_share = self._shares.setdefault(share, asyncio.Semaphore(OF_A_SHARE))
        async with of_the_share, self._in_all:
            return await _in_a_thread(name, family)

    def _ended(self, asked: tuple[str, str, int], task: asyncio.Task[Found]) -> None:
        del self._under_way[asked]
        if not task.cancelled():
            # Retrieved, or asyncio would log it: callers that still wait get it too.
            task.exception()


_of_each_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Lookups] = WeakKeyDictionary()


async def find(name: str, family: int, share: str) -> Found:
    """Look a name up as `Lookups.find` does, among the lookups of the running event loop."""
    return await _of_each_loop.setdefault(asyncio.get_running_loop(), Lookups()).find(name, family, share)


async def _in_a_thread(name: str, family: int) -> Found:
    """Look a name up in a thread of its own, a daemon: the end of the process does not wait for it."""
    done: Future[Found] = Future()
    done.set_running_or_notify_cancel()

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(name, 0, family=family, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            done.set_exception(error)
        else:
            done.set_result([(found, address) for found, _, _, _, address in infos])

    threading.Thread(target=look_up, name="lookup", daemon=True).start()
    return await asyncio.wrap_future(done)
