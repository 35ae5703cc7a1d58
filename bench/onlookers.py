"""What ten people who refresh the console every five seconds cost the receiver.

python -m bench.onlookers [--minutes 2] [--count 6000] [--apart]    apart: the console of a `serve` without webhooks
python -m bench.onlookers --views 60     the service's processor time for a view of each page

Slices of so many events alternate, without people, with, with, without (ABBA), so that what slowly changes on the
machine is on both sides alike. Each two neighbours give a ratio; what is said is the mean of these and its standard
error. The rate of acknowledgements is as noisy as the machine; the processor time of the server per event hardly is.
"""

import argparse
import asyncio
import http.client
import itertools
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from aircall_oauth.access.scopes import Scope
from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import ground
from bench.ground import Server
from bench.processor import busy_seconds

PEOPLE = 10
EVERY_SECONDS = 5.0
PAGES = ("/", "/customers", "/attempts", "/events", "/destinations", "/audit", "/keys", "/search?q=acme")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long slices are begun")
    parser.add_argument("--count", type=int, default=6_000, help="events of a slice")
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        api_key, console_port = asyncio.run(ground.api_key(url, Scope.CONSOLE_READ)), free_port()
        server = stack.enter_context(_serving(folder, url, 0 if options.apart else console_port))
        shows = stack.enter_context(_serving(folder, url, console_port)) if options.apart else server
        cookie = _signed_in(console_port, api_key)
        ground.load(server, 500, ground.fresh_salt())
        if options.views:
            _views(shows, console_port, cookie, options.views)
            return
        people = stack.enter_context(_people(console_port, cookie))
        _compare(server, people, options.minutes, options.count)


def _compare(server: Server, people: "People", minutes: float, count: int) -> None:
    """Load slice after slice, and print what people change."""
    slices, until = list[dict[bool, dict[str, Any]]](), time.monotonic() + 60 * minutes
    while time.monotonic() < until:
        for order in ((False, True), (True, False)):
            pair = {}
            for watched in order:
                people.look(watched)
                pair[watched] = ground.load(server, count, ground.fresh_salt())
            slices.append(pair)
    people.look(False)
    seconds = sum(pair[True]["seconds"] for pair in slices)
    ground.say(f"{PEOPLE} people, a page each every {EVERY_SECONDS:g} s, {people.shown} pages in all")
    ground.say(f"{len(slices)} pairs of slices of {count:,} events, {seconds:.0f} s of load with people")
    ground.say(f"acks/s, with people against without    {_ratio(slices, lambda told: told['per_second'])}")
    busy = _ratio(slices, lambda told: told["busy_seconds"] / told["count"])
    ground.say(f"processor time of the server per event {busy}")


def _ratio(slices: list[dict[bool, dict[str, Any]]], figure: Callable[[dict[str, Any]], float]) -> str:
    ratios = [figure(pair[True]) / figure(pair[False]) for pair in slices]
    error = statistics.stdev(ratios) / math.sqrt(len(ratios))
    return f"{statistics.mean(ratios):.3f} ± {error:.3f} (mean of the pairs' ratios and its standard error)"


def _views(server: Server, port: int, cookie: str, views: int) -> None:
    spent = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"cookie": cookie}, trust_env=False) as browser:
        for page in PAGES:
            browser.get(page, timeout=30.0)
            before = busy_seconds(server.pid)
            for _ in range(views):
                assert browser.get(page, timeout=30.0).status_code == 200
            spent.append(1000 * (busy_seconds(server.pid) - before) / views)
            print(f"{page:<20}{spent[-1]:6.1f} ms")
    print(f"mean of the pages   {statistics.mean(spent):6.1f} ms of the service's processor time")


class People:
    """Ten people, of whom each opens the next page every five seconds: evenly, two pages a second in all."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._cookie = port, cookie
        self._looking, self._gone = threading.Event(), threading.Event()
        self.shown = 0

    def look(self, watched: bool) -> None:
        """Have them begin to look, or look away."""
        (self._looking.set if watched else self._looking.clear)()

    def go(self) -> None:
        self._gone.set()

    def be(self, person: int) -> None:
        """One person, until all go."""
        due = time.monotonic() + person * EVERY_SECONDS / PEOPLE
        for page in itertools.islice(itertools.cycle(PAGES), person, None):
            if self._gone.wait(max(0.0, due - time.monotonic())):
                return
            due += EVERY_SECONDS
            if self._looking.is_set():
                self._open(page)

    def _open(self, page: str) -> None:
        # No client that costs as much as the page it asks for: people's browsers run elsewhere.
        browser = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30.0)
        browser.request("GET", page, headers={"cookie": self._cookie})
        answer = browser.getresponse()
        answer.read()
        browser.close()  # the server keeps no connection as long as people look at a page
        assert answer.status == 200, answer.status
        self.shown += 1


@contextmanager
def _people(port: int, cookie: str) -> Iterator[People]:
    people = People(port, cookie)
    threads = [threading.Thread(target=people.be, args=(person,)) for person in range(PEOPLE)]
    for thread in threads:
        thread.start()
    try:
        yield people
    finally:
        people.go()
        for thread in threads:
            thread.join()


@contextmanager
def _serving(folder: Path, url: str, console_port: int) -> Iterator[Server]:
    port = free_port()
    environment = ground.environment(url, port) | {"AIRCALL_OAUTH_CONSOLE_PORT": str(console_port)}
    command = ["aircall_oauth", "serve", "--port", str(port)]
    with Child("service", command, environment, folder / "service.log") as child:
        wait_until(lambda: ground.answers(port), [child], ground.READY_SECONDS)
        yield Server("service", port, child.pid)


def _signed_in(port: int, api_key: str) -> str:
    """The cookie of a session: one for all ten, as a session costs nothing but its row."""
    url = f"http://127.0.0.1:{port}/sign-in"
    answer = httpx.post(url, data={"api_key": api_key}, headers={"sec-fetch-site": "same-origin"}, trust_env=False)
    if "set-cookie" not in answer.headers:
        sys.exit(f"not signed in: {answer.status_code}")
    return answer.headers["set-cookie"].partition(";")[0]


if __name__ == "__main__":
    main()
