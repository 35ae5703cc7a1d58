"""What ten people who refresh the console every five seconds cost the receiver, in one run: with and without them.

python -m bench.onlookers [--rounds 6] [--count 10000] [--apart]    apart: the console of a `serve` without webhooks
python -m bench.onlookers --views 60     the service's processor time for a view of each page, which others disturb less
"""

import argparse
import asyncio
import http.client
import itertools
import random
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from aircall_oauth.storage.models.access import Scope
from bench import ground
from bench.ground import Server

PEOPLE = 10
EVERY_SECONDS = 5.0
PAGES = ("/", "/customers", "/attempts", "/events", "/destinations", "/audit", "/keys", "/search?q=acme")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--count", type=int, default=10_000)
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
        ratios, shown = [], 0
        for number in range(options.rounds):
            rates = {}
            for watched in (False, True) if number % 2 else (True, False):
                with _watching(console_port, cookie) if watched else _nobody() as pages:
                    rates[watched] = ground.load(server, options.count, ground.fresh_salt())["per_second"]
                    shown += next(pages)
            ratios.append(rates[True] / rates[False])
    low, high = min(ratios), max(ratios)
    print(f"{PEOPLE} people, a page each every {EVERY_SECONDS:g} s: {shown} pages in {options.rounds} rounds")
    print(f"acks/s, watched / not watched {statistics.median(ratios):.3f}   ({low:.3f} to {high:.3f})")


def _views(server: Server, port: int, cookie: str, views: int) -> None:
    spent = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"cookie": cookie}, trust_env=False) as browser:
        for page in PAGES:
            browser.get(page, timeout=30.0)
            before = ground.busy_seconds(server.pid)
            for _ in range(views):
                assert browser.get(page, timeout=30.0).status_code == 200
            spent.append(1000 * (ground.busy_seconds(server.pid) - before) / views)
            print(f"{page:<20}{spent[-1]:6.1f} ms")
    print(f"mean of the pages   {statistics.mean(spent):6.1f} ms of the service's processor time")


@contextmanager
def _nobody() -> Iterator[Iterator[int]]:
    yield itertools.repeat(0)


@contextmanager
def _watching(port: int, cookie: str) -> Iterator[Iterator[int]]:
    """Ten people who look at one page after the other while the block lasts; how many pages were shown."""
    done, pages = threading.Event(), itertools.count()

    def look(person: int) -> None:
        chance = random.Random(person)  # noqa: S311
        # No client that costs as much as the page it asks for: people's browsers run elsewhere.
        browser = http.client.HTTPConnection("127.0.0.1", port, timeout=30.0)
        done.wait(chance.uniform(0, EVERY_SECONDS))
        while not done.is_set():
            browser.request("GET", chance.choice(PAGES), headers={"cookie": cookie})
            answer = browser.getresponse()
            answer.read()
            browser.close()  # the server keeps no connection as long as people look at a page
            assert answer.status == 200, answer.status
            next(pages)
            done.wait(EVERY_SECONDS)

    people = [threading.Thread(target=look, args=(person,)) for person in range(PEOPLE)]
    for person in people:
        person.start()
    try:
        yield pages
    finally:
        done.set()
        for person in people:
            person.join()


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
