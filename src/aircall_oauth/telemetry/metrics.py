"""The metrics of a process, for Prometheus.

Label values are our own words, never anything that was sent to us; but for the names that the partner's systems gave to
subscriptions.
"""

import time
from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from aircall_oauth import __version__
from aircall_oauth.errors import AppError, FlowError
from aircall_oauth.telemetry.answered import Answered
from aircall_oauth.telemetry.figures import ACK_SECONDS, ALL, DELIVERY_SECONDS, Counts, Figures, Lag, Name

PREFIX = "aircall_oauth"
METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER_METHOD = "other"
REQUEST_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
FLUSH_EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CHORE_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 900)
# Subscriptions with metrics of their own, each with a label value: those that most need attention. And how far the
# parked and dead events of one are counted.
MOST_SUBSCRIPTIONS = 100
MOST_BESIDE = 10_000
# Older measurements are not exposed any more.
MEASURED_KEPT_SECONDS = 120.0


class InstallStep(StrEnum):
    STARTED = "started"  # sent to Aircall's consent page
    CONSENTED = "consented"  # came back with a code
    EXCHANGED = "exchanged"  # the code became a token
    WEBHOOK_LIVE = "webhook_live"  # Aircall sends its events
    CLAIMED = "claimed"  # what came of a link became its owner's


class Role(StrEnum):
    """What a process does; one that does both has both roles."""

    WEB = "web"
    WORKER = "worker"


class ChoreOutcome(StrEnum):
    DONE = "done"
    PUT_OFF = "put_off"  # by one of our own errors, such as a database that can't be reached
    FAILED = "failed"


class Asker(StrEnum):
    """What a request to Aircall is for."""

    CALLER = "caller"  # a caller that waits for the answer
    CHORE = "chore"


@dataclass(frozen=True)
class Reading:
    """What is measured of one subscription."""

    lag: int
    lag_seconds: float
    up: bool
    parked: int
    dead: int
    name: str = ""
    oldest_seconds: float = 0.0  # the age of the oldest event that waits, in the log or beside it

    @property
    def waiting(self) -> dict[Lag, float]:
        """Return what waits for it, for the numbers over time."""
        return {
            Lag.EVENTS: self.lag,
            Lag.SECONDS: self.lag_seconds,
            Lag.PARKED: self.parked,
            Lag.OLDEST: self.oldest_seconds,
        }


@dataclass(frozen=True)
class Measurement:
    """What was measured in the database, at one moment."""

    installations: Mapping[str, int]
    webhooks: Mapping[str, int]
    silent: int
    gaps_open: int
    gaps_to_fill: int
    subscriptions: Mapping[str, Reading]
    oldest_transaction_seconds: float
    log_held_seconds: float
    days_ahead: int
    position: int
    paused: Mapping[str, Reading] = field(default_factory=dict)  # for the numbers over time only
    measured_at: float = field(default_factory=time.monotonic)


class Durations(Histogram):
    """A histogram that counts many durations at once: one by one they would cost as much as reading the events."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        self._sum.inc(sum(amounts))
        for place, count in Tally(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[place].inc(count)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.figures = Figures()
        self._taken: dict[tuple[Name, str, int], int] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._about_requests()
        self._about_events()
        self._about_deliveries()
        self._about_refusals()
        self._about_the_worker()
        Info(f"{PREFIX}_build", "The version that runs (`version`)", registry=self.registry).info(
            {"version": __version__}
        )

    def acts_as(self, role: Role) -> None:
        """Expose what this process does, so that an alert can tell when no process does it."""
        self._roles.labels(role).set(1)

    def expect_requests(self, routes: Iterable[tuple[str, str]]) -> None:
        """Create the counters of failed requests (`path`, `method`) at zero: the first failure is then an increase."""
        for path, method in routes:
            self._requests.labels(path, method_label(method), AppError.status)

    def expect_acks(self, answers: Iterable[tuple[int, str]]) -> None:
        """Create the counters of these answers to events (status, answer) at zero."""
        for status, answer in answers:
            self._acks.labels(status, answer)

    def requested(self, *, method: str, path: str, status: int, started: float) -> None:
        """Count an answered request; `path` is its template, `started` a time of `time.perf_counter`."""
        known = method_label(method)
        self._requests.labels(path, known, status).inc()
        self._request_seconds.labels(path, known).observe(time.perf_counter() - started)

    def acked(self, answered: Sequence[Answered]) -> None:
        """Count answered events."""
        for (status, answer), count in Tally(each[:2] for each in answered).items():
            counter = self._acks_by_answer.get((status, answer))
            if counter is None:
                counter = self._acks_by_answer[status, answer] = self._acks.labels(status, answer)
            counter.inc(count)
        self._ack_seconds.observe_all([each.seconds for each in answered])

    def watch_inbox(self, depth: Callable[[], int]) -> None:
        """Ask the inbox for its depth at every scrape."""
        self._inbox_depth.set_function(depth)

    def flushed(self, *, events: int, started: float) -> None:
        """Count a committed group of events."""
        self._flush_events.observe(events)
        self._commit_seconds.observe(time.perf_counter() - started)

    def attempted(self, outcome: str) -> None:
        """Count an attempt of a delivery by its outcome, one word."""
        counter = self._attempts_by_outcome.get(outcome)
        if counter is None:
            counter = self._attempts_by_outcome[outcome] = self._attempts.labels(outcome)
        counter.inc()

    def delivered(self, subscription_id: str, seconds: float) -> None:
        """Count a live delivery, so many seconds after the event was received."""
        self._delivery_seconds.observe(seconds)
        self.figures.delivered(subscription_id, seconds)

    def reader_failed(self) -> None:
        """Count a subscription's reader that ended by an error of this service."""
        self._reader_failures.inc()

    def budget_refused(self, by: Asker) -> None:
        """Count a call to Aircall that did not fit its company's budget."""
        self._budget_refusals.labels(by).inc()

    def seal_refused(self) -> None:
        """Count a sealed value that did not open."""
        self._seal_refusals.inc()

    def install_step(self, step: InstallStep) -> None:
        self._install_steps.labels(step).inc()

    def install_ended(self, ending: str) -> None:
        """Count an ending other than connected that was shown to a browser, by its code."""
        self._install_endings.labels(ending).inc()

    def chore_ran(self, chore: str, outcome: ChoreOutcome, *, started: float) -> None:
        self._chore_runs.labels(chore, outcome).inc()
        self._chore_seconds.labels(chore).observe(time.perf_counter() - started)
        if outcome == ChoreOutcome.DONE:
            self._chore_done_at.labels(chore).set_to_current_time()

    def expect_chores(self, chores: Iterable[str]) -> None:
        """Create the counters of these chores at zero, so that one that never succeeds can be seen."""
        for chore in chores:
            for outcome in ChoreOutcome:
                self._chore_runs.labels(chore, outcome)

    def measured(self, measurement: Measurement) -> None:
        self._measured.last = measurement
        for label, each in {**measurement.subscriptions, **measurement.paused}.items():
            self.figures.behind(label, each.waiting)
        for each in measurement.subscriptions.values():
            self.figures.behind(ALL, each.waiting)

    def take_figures(self) -> Counts:
        """Return what was counted since the last call, for the numbers over time.

        Answers to events are read from the counters that they have anyway, so that they cost the receiver nothing more.
        """
        counts = self.figures.take()
        for (name, label, place), total in self._answers().items():
            if more := total - self._taken.get((name, label, place), 0):
                of = len(ACK_SECONDS) + 1 if name == Name.ACK_SECONDS else 1
                counts.setdefault((name, label), [0] * of)[place] += more
                self._taken[name, label, place] = total
        return counts

    def roles(self) -> list[str]:
        """Return what this process does."""
        return [sample.labels["role"] for sample in _samples(self._roles) if sample.value]

    def _answers(self) -> dict[tuple[Name, str, int], int]:
        """Return how many events were answered since the start, by answer and by how long that took."""
        totals: dict[tuple[Name, str, int], int] = {}
        for sample in _samples(self._acks):
            if sample.name.endswith("_total"):
                key = (Name.ACKS, sample.labels["answer"], 0)
                totals[key] = totals.get(key, 0) + int(sample.value)
        below = 0
        buckets = (sample for sample in _samples(self._ack_seconds) if sample.name.endswith("_bucket"))
        for place, sample in enumerate(buckets):
            totals[Name.ACK_SECONDS, ALL, place] = int(sample.value) - below
            below = int(sample.value)
        return totals

    def _about_requests(self) -> None:
        registry = self.registry
        self._roles = Gauge(
            f"{PREFIX}_role", f"1 for what this process does (`role`: {', '.join(Role)})", ("role",), registry=registry
        )
        self._requests = Counter(
            f"{PREFIX}_http_requests",
            "Requests answered, events from Aircall apart (`path` as a template, `method`, `status`)",
            ("path", "method", "status"),
            registry=registry,
        )
        self._request_seconds = Histogram(
            f"{PREFIX}_http_request_seconds",
            "How long a request took, waiting readers included (`path`, `method`)",
            ("path", "method"),
            buckets=REQUEST_SECONDS,
            registry=registry,
        )
        self._install_steps = Counter(
            f"{PREFIX}_install_steps",
            f"Installs that came as far as this (`step`: {', '.join(InstallStep)})",
            ("step",),
            registry=registry,
        )
        for step in InstallStep:
            self._install_steps.labels(step)
        self._install_endings = Counter(
            f"{PREFIX}_install_endings",
            "Pages shown to a browser instead of a connection (`ending`: the error's code)",
            ("ending",),
            registry=registry,
        )
        for ending in (AppError.code(), *(kind.code() for kind in FlowError.every())):
            self._install_endings.labels(ending)

    def _about_events(self) -> None:
        registry = self.registry
        self._acks = Counter(
            f"{PREFIX}_acks",
            "Events answered (`status`, 0 where the sender hung up; `answer`: stored, repeated, or the error's code)",
            ("status", "answer"),
            registry=registry,
        )
        # Finding a counter by its labels costs more than counting, and every event needs one.
        self._acks_by_answer: dict[tuple[int, str], Counter] = {}
        self._ack_seconds = Durations(
            f"{PREFIX}_ack_seconds",
            "From an event's first byte to its answer",
            buckets=ACK_SECONDS,
            registry=registry,
        )
        self._inbox_depth = Gauge(f"{PREFIX}_inbox_depth", "Events that wait for their commit", registry=registry)
        self._flush_events = Histogram(
            f"{PREFIX}_flush_events", "Events in one commit", buckets=FLUSH_EVENTS, registry=registry
        )
        self._commit_seconds = Histogram(
            f"{PREFIX}_commit_seconds", "How long a commit of events took", buckets=ACK_SECONDS, registry=registry
        )

    def _about_deliveries(self) -> None:
        self._attempts = Counter(
            f"{PREFIX}_attempts",
            "Deliveries tried (`outcome`: delivered, or in one word why not)",
            ("outcome",),
            registry=self.registry,
        )
        # As for the answers to events: every delivery needs one.
        self._attempts_by_outcome: dict[str, Counter] = {}
        self._delivery_seconds = Histogram(
            f"{PREFIX}_delivery_seconds",
            "From an event's reception to its delivery, where it was not replayed",
            buckets=DELIVERY_SECONDS,
            registry=self.registry,
        )
        self._reader_failures = Counter(
            f"{PREFIX}_reader_failures",
            "Times a subscription's reader ended by an error of this service; its log has it",
            registry=self.registry,
        )

    def _about_refusals(self) -> None:
        registry = self.registry
        self._budget_refusals = Counter(
            f"{PREFIX}_budget_refusals",
            f"Calls to Aircall that did not fit their company's budget (`by`: {', '.join(Asker)})",
            ("by",),
            registry=registry,
        )
        for asker in Asker:
            self._budget_refusals.labels(asker)
        self._seal_refusals = Counter(f"{PREFIX}_seal_refusals", "Sealed values that did not open", registry=registry)

    def _about_the_worker(self) -> None:
        registry = self.registry
        self._chore_runs = Counter(
            f"{PREFIX}_chore_runs",
            f"Runs of a chore (`chore`; `outcome`: {', '.join(ChoreOutcome)})",
            ("chore", "outcome"),
            registry=registry,
        )
        self._chore_seconds = Histogram(
            f"{PREFIX}_chore_seconds",
            "How long a run took (`chore`)",
            ("chore",),
            buckets=CHORE_SECONDS,
            registry=registry,
        )
        self._chore_done_at = Gauge(
            f"{PREFIX}_chore_done_timestamp_seconds",
            "When a chore was last done (`chore`)",
            ("chore",),
            registry=registry,
        )
        self._measured = _Measured()
        registry.register(self._measured)


def _samples(metric: Collector) -> list[Sample]:
    return [sample for family in metric.collect() for sample in family.samples]


def method_label(method: str) -> str:
    """Return a request's method where it is one of HTTP's, else `other`."""
    return method if method in METHODS else OTHER_METHOD


class _Measured(Collector):
    """Exposes the last measurement while it is fresh, and then nothing: zeros would be wrong."""

    def __init__(self) -> None:
        self.last: Measurement | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        last = self.last
        if last is None or time.monotonic() - last.measured_at > MEASURED_KEPT_SECONDS:
            return
        yield _by_status("installations", "Installations (`status`)", last.installations)
        yield _by_status("webhooks", "Webhooks (`status`)", last.webhooks)
        yield from _by_subscription(last.subscriptions)
        for name, meaning, value in (
            ("silent_installations", "Installations that used to speak at hours like these, and do not", last.silent),
            ("gaps_open", "Active installations that can't receive", last.gaps_open),
            ("gaps_to_fill", "Windows that wait for their back-fill, or are being filled", last.gaps_to_fill),
            (
                "oldest_transaction_seconds",
                "Age of the oldest transaction in the database",
                last.oldest_transaction_seconds,
            ),
            (
                "log_held_seconds",
                "How long a session that has the log's lock has been at the same statement, or waiting for its client",
                last.log_held_seconds,
            ),
            ("partition_horizon_days", "Days of the log that are ready, today included", last.days_ahead),
            ("log_position", "The newest position of the log", last.position),
        ):
            yield GaugeMetricFamily(f"{PREFIX}_{name}", meaning, value)


def _by_status(name: str, meaning: str, counts: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=["status"])
    for status, count in counts.items():
        family.add_metric([status], count)
    return family


def _by_subscription(readings: Mapping[str, Reading]) -> Iterator[GaugeMetricFamily]:
    of_one = (
        f"(`subscription`: {MOST_SUBSCRIPTIONS} that are not paused; down, with dead events, farthest behind first)"
    )
    for name, meaning in (
        ("lag", "Positions of the log that it is behind, whether it wants their events or not"),
        ("lag_seconds", "Age of the oldest event that it has not read yet, whether it wants it or not; 0 at the end"),
        ("up", "Whether its destination takes events; 0 while it is down or wants no more"),
        ("parked", f"Events that are tried again by schedule, {MOST_BESIDE:,} at most"),
        ("dead", f"Events that were given up on, {MOST_BESIDE:,} at most"),
    ):
        family = GaugeMetricFamily(f"{PREFIX}_subscription_{name}", f"{meaning} {of_one}", labels=["subscription"])
        for subscription_id, reading in readings.items():
            family.add_metric([subscription_id], getattr(reading, name))
        yield family
    named = GaugeMetricFamily(
        f"{PREFIX}_subscription_info", f"1 for its name (`name`) {of_one}", labels=["subscription", "name"]
    )
    for subscription_id, reading in readings.items():
        named.add_metric([subscription_id, reading.name], 1)
    yield named
