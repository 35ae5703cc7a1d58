"""The breaker of a destination: learns from the outcomes of deliveries whether the destination is up.

An event that fails is a suspect. It is parked once a delivery that began later succeeds: the destination is up, so the
event is to blame. If a run of events fails with no success in between, the destination is down: nothing is parked, and
one probe at a time goes out, with growing pauses. If there is no other delivery to compare a suspect with, its outcome
decides: a refused connection, for example, says nothing about the event.
"""

import math
import random
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from aircall_oauth.deliveries.destinations.outcomes import TryAgain
from aircall_oauth.deliveries.reader.queue import Item
from aircall_oauth.storage.stamps import now
from aircall_oauth.storage.statuses import Health

RUN = 10
SUSPECTED_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
# Deliveries at once in the beginning; every success allows one more.
FIRST_LIMIT = 8
# Outcomes that the event is probably to blame for; all others concern the destination. Fewer of them where one parked
# event holds up all of its installation.
ABOUT_THE_EVENT = re.compile(r"http_(?!408|429|502|503|504)[45]\d\d|redirect|not_http|too_large|internal_error")
ABOUT_THE_EVENT_IN_ORDER = re.compile(r"http_(?!408|429)4\d\d|redirect|too_large")
# Outcomes that say nothing about the event.
NEVER_THE_EVENT = re.compile(r"refused|dns|tls(_\w+)?|unreachable|blocked_address")


@dataclass(frozen=True, slots=True)
class Pause:
    """A time in which no request goes out: waited for by a clock that does not jump, kept as a moment.

    A moment alone would last for a month where the process's clock was a month ahead when it was written.
    """

    until: datetime
    ends: float

    @classmethod
    def of(cls, seconds: float) -> Self:
        return cls(now() + timedelta(seconds=seconds), time.monotonic() + seconds)

    @classmethod
    def kept(cls, until: datetime | None) -> Self | None:
        return None if until is None else cls.of((until - now()).total_seconds())

    def seconds(self) -> float:
        """How long it still lasts."""
        return max(self.ends - time.monotonic(), 0.0)


@dataclass(frozen=True, slots=True)
class Suspect:
    """An event that failed, and the number of the last delivery that had begun by then."""

    item: Item
    outcome: TryAgain
    begun: int
    at: float


class Breaker:
    """What is known of one destination, and which deliveries that allows."""

    def __init__(
        self, *, health: Health, quiet_until: datetime | None, probes: int, at_once: int, by_installation: bool
    ) -> None:
        self.down = health == Health.DOWN
        self._pause = self._asked = Pause.kept(quiet_until)
        self.probes = probes
        self.gone = False  # the destination wants no more events
        self.limit = 1 if self.down else min(FIRST_LIMIT, at_once)  # of deliveries at once
        self._at_once = at_once
        self._about_the_event = ABOUT_THE_EVENT_IN_ORDER if by_installation else ABOUT_THE_EVENT
        self._begun = 0
        self._down_since = 0
        self._doubts = 0
        self._suspects: list[Suspect] = []
        self._doubted: list[Suspect] = []  # the few failures by which the destination is held to be down

    @property
    def health(self) -> Health:
        return Health.DOWN if self.down else Health.UP

    def begin(self) -> int:
        """Count a delivery that begins; returns its number."""
        self._begun += 1
        return self._begun

    def is_quiet(self) -> bool:
        """Whether no request may go out now."""
        return self.quiet_seconds() > 0

    def quiet_seconds(self) -> float:
        """How long no request may go out from now on."""
        return 0.0 if self._pause is None else self._pause.seconds()

    @property
    def quiet_until(self) -> datetime | None:
        """Until when no request may go out, to be kept."""
        return None if self._pause is None else self._pause.until

    def may_try_another(self) -> bool:
        """Whether an event that was never tried may go out although a few others failed.

        Those few may be to blame themselves; then an untried event need not wait for the next probe.
        """
        return self._doubts > 0 and (self._asked is None or not self._asked.seconds())

    def doubt_less(self) -> None:
        """Count an untried event that goes out although the destination is held to be down."""
        self._doubts -= 1

    def succeeded(self, item: Item, number: int) -> list[Suspect]:
        """Learn of a success; returns the suspects that it proves to be to blame."""
        self.limit = min(self.limit + 1, self._at_once)
        if self.down:
            return self._up_again(item) if number > self._down_since else []
        condemned = [suspect for suspect in self._suspects if suspect.begun < number]
        if condemned:
            self._suspects = [suspect for suspect in self._suspects if suspect.begun >= number]
        return condemned

    def failed(self, item: Item, outcome: TryAgain, *, probe: bool) -> list[Item]:
        """Learn of a failure; returns the events that go back into the queue because the destination is down."""
        self.obey(outcome)
        if not self.down:
            self._suspects.append(Suspect(item, outcome, self._begun, time.monotonic()))
            return self._go_down() if len(self._suspects) >= RUN else []
        if probe:
            self.probes += 1
            self._wait_for_probe()
        return [item]

    def obey(self, outcome: TryAgain) -> None:
        """Keep quiet as long as the destination asked for."""
        if outcome.pause_seconds:
            self._asked = self._pause = _longer(Pause.of(outcome.pause_seconds), self._pause)

    def judge_overdue(self, *, under_way: bool) -> tuple[list[Suspect], list[Item]]:
        """Judge suspects that no other delivery was compared with in time; returns those to blame and those to hold."""
        if self.seconds_to_judgement(under_way=under_way) > 0:
            return [], []
        to_blame = [s for s in self._suspects if self._about_the_event.fullmatch(s.outcome.reason)]
        if to_blame:
            self._suspects = [s for s in self._suspects if s not in to_blame]
            return to_blame, []
        return [], self._go_down()

    def seconds_to_judgement(self, *, under_way: bool) -> float:
        """How long the first suspect still waits for a delivery to be compared with; endless while one is under way."""
        if not self._suspects or (under_way and self._begun > self._suspects[0].begun):
            return math.inf
        return self._suspects[0].at + SUSPECTED_SECONDS - time.monotonic()

    def come_up(self) -> None:
        """Hold the destination to be up."""
        self.down, self._pause, self.probes, self._doubts = False, None, 0, 0
        self._doubted = []

    def turn(self) -> int:
        """Which of the first events the next probe takes: the first, until it has failed often; then others in turn."""
        return 0 if self.probes < 4 or self.probes % 2 else self.probes // 2

    def _up_again(self, item: Item) -> list[Suspect]:
        """Come up; returns the few events that had failed, if another one succeeded and they may be to blame."""
        of_them = any(suspect.item is item for suspect in self._doubted)
        condemned = [] if of_them else [s for s in self._doubted if not NEVER_THE_EVENT.fullmatch(s.outcome.reason)]
        self.come_up()
        return condemned

    def _go_down(self) -> list[Item]:
        held = [suspect.item for suspect in self._suspects]
        self._doubted = self._suspects if len(held) < RUN else []
        self.down, self.limit, self.probes, self._down_since = True, 1, 0, self._begun
        self._doubts = RUN - len(held)
        self._suspects = []
        self._wait_for_probe()
        return held

    def _wait_for_probe(self) -> None:
        seconds = min(FIRST_PAUSE_SECONDS * 2**self.probes, LONGEST_PAUSE_SECONDS)
        spread = random.uniform(0.9, 1.0)  # noqa: S311 - spreads load only
        self._pause = _longer(Pause.of(seconds * spread), self._asked)


def _longer(pause: Pause, other: Pause | None) -> Pause:
    return pause if other is None else max(pause, other, key=Pause.seconds)
