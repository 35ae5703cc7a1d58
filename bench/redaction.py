"""`python -m bench.redaction`: the processor time that redaction adds to reading an event, in one run with none.

Twenty rounds, each over 2,000 different bodies (`bench/bodies.py`), with and without in turn; the median of each.
"""

import statistics
import time
from collections.abc import Callable

from aircall_oauth.events.receiver import envelope
from aircall_oauth.events.receiver.envelope import Envelope
from aircall_oauth.storage.redaction import Redaction, parse
from aircall_oauth.storage.vault import Vault
from bench.bodies import SLOT, varied

ROUNDS = 20
NAMED = "raw_digits=hash,contact=hash,participants.phone_number=hash,user.email=drop,comments.content=drop,body=drop"


def _microseconds(work: Callable[[Envelope], object], events: list[Envelope]) -> float:
    started = time.process_time()
    for event in events:
        work(event)
    return (time.process_time() - started) * 1e6 / len(events)


def main() -> None:
    vault = Vault({"k": b"k" * 32}, b"f" * 32)
    redaction = Redaction(parse(NAMED), lambda text: vault.fingerprint(text, "bench").hex())
    bodies = [body.replace(SLOT, b"2" * len(SLOT)) for body in varied("token")]
    events = [envelope.read(body) for body in bodies]
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for body in bodies:
            envelope.read(body)
        read = (time.process_time() - started) * 1e6 / len(bodies)
        rounds.append((read, _microseconds(lambda event: redaction.of(event.event, event.data), events)))
    read, added = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"reading the envelope: {read:.0f} µs; redaction: {added:.0f} µs more")


if __name__ == "__main__":
    main()
