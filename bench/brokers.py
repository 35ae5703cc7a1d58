"""Events per second that each broker confirms to one destination, 64 on their way at once; needs what its tests need.

python -m bench.brokers [--events 10000]
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.brokers import Certificate, Ground, Kafka, Nats, RabbitMq

from aircall_oauth.deliveries.destinations.outcomes import Delivered, Destination, Message

AT_ONCE = 64
ROUNDS = 3
BODY = b'{"id": "evt", "data": "%s"}' % (b"x" * 1500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    with tempfile.TemporaryDirectory(prefix="aircall-oauth-bench-") as folder:
        asyncio.run(_measure(Path(folder), parser.parse_args().events))


async def _measure(folder: Path, events: int) -> None:
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(Nats.running(folder))
        await nats.make_stream()
        rabbitmq = await stack.enter_async_context(RabbitMq.running(Certificate.make(folder)))
        kafka = await stack.enter_async_context(Kafka.running())
        for broker in (nats, rabbitmq, kafka):
            rates = [await _rate(broker, events, run) for run in range(ROUNDS)]
            print(f"{type(broker).__name__:10}", *(f"{rate:8,.0f}/s" for rate in rates))


async def _rate(broker: Ground, events: int, run: int) -> float:
    destination = broker.destination()
    messages = (Message(f"evt_{run}_{n}", f"ins_{n % 100}", "call.ended", BODY) for n in range(events))
    assert await destination.deliver(Message(f"evt_{run}", "ins_1", "call.ended", BODY)) == Delivered()
    started = time.perf_counter()
    await asyncio.gather(*(_deliver(destination, messages) for _ in range(AT_ONCE)))
    seconds = time.perf_counter() - started
    await destination.close()
    return events / seconds


async def _deliver(destination: Destination, messages: Iterator[Message]) -> None:
    for message in messages:
        assert await destination.deliver(message) == Delivered()


if __name__ == "__main__":
    main()
