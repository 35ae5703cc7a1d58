"""A replay beside live deliveries: what it costs them, and what arrives of it when its worker is killed twice.

python -m bench.replay [--events 100000] [--rounds 3] [--seconds 12] [--per-second 1000]
"""

import argparse
import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aircall_oauth.sandbox.children import Child, wait_until
from aircall_oauth.sandbox.ports import free_port
from bench import ground, paced
from bench.deliveries import House, api_key_of

LIVE_PER_SECOND = 50
DEFAULT_PER_SECOND = 50
KILLS = 2
PATH = "/replayed"
# Numbered below every live event, eight about each call; the sink finds the number in the body.
FILL = """
    INSERT INTO event (position, received_at, id, installation_id, company_id, type, resource, subject, source, data)
    SELECT nextval('event_position'), now(), 'evt_' || md5(n::text), 'ins_' || md5((n % 100)::text), 1,
           'call.ended', 'call', 'call:' || n / 8, 'aircall',
           '{"id":"' || lpad(n::text, 20, '0') || '","note":"' || repeat('x', 1900) || '"}'
    FROM generate_series($1::bigint, $2::bigint) n
"""


def main() -> None:
    options = _options()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-")))
        url = stack.enter_context(ground.durable_postgres(folder)).dsn()
        asyncio.run(ground.prepare(url))
        api_key = asyncio.run(api_key_of(url))
        sink_port = free_port()
        stack.enter_context(Child("sink", ["bench.sink", str(sink_port)], dict(os.environ), folder / "sink.log"))
        server = stack.enter_context(ground.serving("service", folder, url))
        house = House(folder, url, server, sink_port, api_key)
        for first in range(1, options.events + 1, 10_000):
            house.sql(FILL.replace("$1", str(first)).replace("$2", str(min(first + 9_999, options.events))))
        last = int(house.sql("SELECT max(position) FROM event")[0])
        subscription_id = house.subscribe(PATH)
        with house.worker():
            for per_second in (DEFAULT_PER_SECOND, options.per_second):
                _beside(house, subscription_id, last, per_second, options)
        _killed(house, subscription_id, last, options)


def _beside(house: House, subscription_id: str, last: int, per_second: int, options: argparse.Namespace) -> None:
    """The live deliveries' p99 with a replay going on, against none; alternating, which comes first too."""
    p99: dict[bool, list[float]] = {False: [], True: []}
    rates = []
    for number in range(options.rounds):
        for replaying in (False, True) if number % 2 else (True, False):
            replay_id = _start(house, subscription_id, last, per_second) if replaying else None
            delays, rate = _delays(house, options.seconds, options.events)
            p99[replaying].append(_percentile(delays, 0.99))
            rates.append(rate)
            if replay_id is not None:
                _ask(house, "post", f"/{subscription_id}/replays/{replay_id}/stop")
    ratios = [during / without for during, without in zip(p99[True], p99[False], strict=True)]
    ground.say(
        f"\n{LIVE_PER_SECOND} live events/s beside a replay of {per_second} a second; p99 from answer to delivery"
    )
    ground.say(f"  replayed {max(rates):.0f} a second at most")
    ground.say(f"  without {statistics.median(p99[False]):7.1f} ms   during {statistics.median(p99[True]):7.1f} ms")
    ground.say(f"  ratio {statistics.median(ratios):.2f}   ({min(ratios):.2f} to {max(ratios):.2f})")


def _delays(house: House, seconds: int, events: int) -> tuple[list[float], float]:
    """Milliseconds between the answer to each live event and its delivery, and the replayed events a second."""
    time.sleep(3)  # so that the replay is taken up, and the reader keeps up with the log
    house.came()
    answered = paced.load(house.server.port, ground.TOKEN, LIVE_PER_SECOND, seconds, ground.fresh_salt())
    time.sleep(2)
    all_that_came = house.came()
    came = {number: at for _, number, at in all_that_came if number > events}
    assert answered.keys() <= came.keys(), f"{len(came)} of {len(answered)} came"
    replayed = sum(0 < number <= events for _, number, _ in all_that_came)
    return [(came[number] - at) * 1000 for number, at in answered.items()], replayed / (seconds + 2)


def _killed(house: House, subscription_id: str, last: int, options: argparse.Namespace) -> None:
    """A replay of all events whose worker is killed twice, counted where it arrives."""
    before = house.show(subscription_id)
    house.came()
    replay_id, began = _start(house, subscription_id, last, options.per_second), time.monotonic()
    for number in range(KILLS):
        with house.worker() as worker:
            _wait(house, subscription_id, replay_id, worker, options.events * (number + 1) // (KILLS + 1))
            os.kill(worker.pid, signal.SIGKILL)
    with house.worker() as worker:
        shown = _wait(house, subscription_id, replay_id, worker, options.events)
    seconds = time.monotonic() - began
    came = Counter(number for _, number, _ in house.came())
    after = house.show(subscription_id)
    missing = options.events - len([number for number in came if 0 < number <= options.events])
    ground.say(f"\nreplay of {options.events:,} events, {options.per_second} a second, its worker killed {KILLS} times")
    ground.say(f"  {shown['status']} after {seconds:.0f} s: {shown['delivered']:,} delivered, {shown['failed']} failed")
    ground.say(f"  arrived {len(came):,}, missing {missing}, repeats {came.total() - len(came)}")
    ground.say(f"  live position {before['position']} before, {after['position']} after")
    assert missing == 0
    assert shown["delivered"] == options.events
    assert (before["position"], before["lag"]) == (after["position"], after["lag"])


def _wait(house: House, subscription_id: str, replay_id: str, worker: Child, delivered: int) -> dict[str, Any]:
    shown: dict[str, Any] = {}

    def is_there() -> bool:
        time.sleep(0.2)
        shown.update(_ask(house, "get", f"/{subscription_id}/replays/{replay_id}"))
        return bool(shown["status"] != "running" or delivered <= shown["delivered"] < shown["events"])

    wait_until(is_there, [worker], 400)
    return shown


def _start(house: House, subscription_id: str, last: int, per_second: int) -> str:
    body = {"from": 1, "to": last, "everything": True, "per_second": per_second}
    return str(_ask(house, "post", f"/{subscription_id}/replay", body)["id"])


def _ask(house: House, method: str, path: str, body: Any = None) -> dict[str, Any]:
    answer = house.partner.request(method, f"/v1/subscriptions{path}", json=body)
    answer.raise_for_status()
    told: dict[str, Any] = answer.json()
    return told


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("events", 100_000), ("rounds", 3), ("seconds", 12), ("per-second", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
