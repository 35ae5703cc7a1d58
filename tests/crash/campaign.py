"""`python -m tests.crash.campaign --seconds 120 --seed 1`: two webs, two workers, 50 installations, faults, an oracle.

Prints what happens, then each promise with what broke it. Exit 0 where all hold, 1 where one is broken. A seed draws
the same faults in the same order, and the same load; what the machine makes of the moments between is its own.
docs/reliability.md says how it works.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop

from tests.crash import destinations, faults
from tests.crash.churn import OURS, Churn, Partner, move_clock
from tests.crash.destinations import STEADY, Destination, subscribed
from tests.crash.load import Follower, Senders, Tokens
from tests.crash.oracle import Verdict, judge, percentile
from tests.crash.processes import BUDGET_PER_MINUTE, Fleet, fleet
from tests.crash.records import Call, Records, Standing, Stored, Window
from tests.crash.storage import disk
from tests.fakes import free_port
from tests.processes import Process, a_client, eventually

COMPANIES = [70077, 70078, 70079, *range(80000, 80047)]
CHURNED = COMPANIES[-14:]
TOLD = COMPANIES[:36]  # their events are sent; they stay installed
ACMES, MALLORYS, BUSY = TOLD[:5], TOLD[5:7], TOLD[7:9]
STIRRED = TOLD[9:]
INSTALLS_AT_ONCE = 6
PER_SECOND = 20.0
CALM_SHARE = 0.3
MOST_CALM_SECONDS = 36.0
WINDOW_SECONDS = 6.0
SETTLE_SECONDS = 1.0
HOSTILE_SHARE = 0.3  # of the faults, in its presence
FAULT_EVERY_SECONDS = 20.0
QUIET_SECONDS = 8.0
PROGRESS_SECONDS = 10.0
AFTER_SECONDS = 15 * 60
STEP_SECONDS = 3 * 60
QUIESCENCE_SECONDS = 90.0
SHOWN = 3
SCOPES = "installations:read,installations:write,aircall:call,events:read,subscriptions:read,subscriptions:write"
ROWS = "SELECT position, id, installation_id, type, owner, data FROM event ORDER BY position"


@dataclass(frozen=True)
class Plan:
    """What was asked for."""

    seconds: float
    seed: str
    pace: float  # events per second
    faults: tuple[str, ...]
    is_hostile: bool = True  # whether the hostile tenant comes


@dataclass
class Campaign:
    """One run."""

    plan: Plan
    fleet: Fleet
    records: Records
    destinations: list[Destination]
    churn: Churn
    partner: Partner
    hostile: "Hostile"
    windows: list[tuple[float, float, bool]] = field(default_factory=list)
    latest: float = 0.0  # seconds by which this very process came too late, lately

    def tell(self, line: str) -> None:
        print(f"[{self.fleet.now():5.0f} s] {line}", flush=True)

    async def run(self, senders: Senders) -> None:
        """Load and faults, for as long as was asked."""
        end = self.fleet.now() + self.plan.seconds
        sending = asyncio.create_task(senders.send(self.plan.pace, end))
        await asyncio.sleep(QUIET_SECONDS)
        if self.plan.is_hostile:
            await self._calm(self.fleet.now() + min(MOST_CALM_SECONDS, CALM_SHARE * self.plan.seconds))
        await self._faults(end)
        await self.hostile.go()
        self._heal()
        await sending

    async def _calm(self, end: float) -> None:
        """No faults: the hostile tenant comes and goes, so that its windows and the baseline's alternate."""
        here = False
        while self.fleet.now() + WINDOW_SECONDS <= end:
            await (self.hostile.come() if here else self.hostile.go())
            await asyncio.sleep(SETTLE_SECONDS)
            began = self.fleet.now()
            await asyncio.sleep(WINDOW_SECONDS)
            self.windows.append((began, self.fleet.now(), here))
            here = not here

    async def _faults(self, end: float) -> None:
        chance = random.Random(f"{self.plan.seed} faults")
        scene = faults.Scene(self.fleet, self.churn, STIRRED, chance, self.tell)
        waiting: list[str] = []
        down = self._destination("down and back, ordered")
        await down.close()
        while self.fleet.now() + QUIET_SECONDS < end:
            waiting = waiting or faults.deck(chance, self.plan.faults)
            began = self.fleet.now()
            comes = chance.random() < HOSTILE_SHARE and self.plan.is_hostile
            await (self.hostile.come() if comes else self.hostile.go())
            await self._happen(waiting.pop(), scene)
            if not down.is_open:
                await down.open()
                self.tell("a destination that was down is back")
            quiet = max(QUIET_SECONDS, began + FAULT_EVERY_SECONDS - self.fleet.now())
            await asyncio.sleep(max(min(quiet, end - self.fleet.now()), 0))
        if not down.is_open:
            await down.open()

    async def _happen(self, name: str, scene: faults.Scene) -> None:
        """One fault; a fleet that does not come back from it is a failure of the service, not of the campaign."""
        try:
            await faults.FAULTS[name](scene)
        except (TimeoutError, OSError, httpx.HTTPError) as error:
            self.records.failures.append(f"{name}: not undone in time ({type(error).__name__})")
            self.tell(self.records.failures[-1])

    def _destination(self, name: str) -> Destination:
        return next(one for one in self.destinations if one.reading.name == name)

    def _heal(self) -> None:
        for destination in self.destinations:
            destination.heal()

    async def notice_lateness(self) -> None:
        """How long this process waits for its turn: a machine that is too busy says so here."""
        while True:
            asked = self.fleet.now()
            await asyncio.sleep(0.05)
            self.latest = max(self.latest, self.fleet.now() - asked - 0.05)

    async def progress(self) -> None:
        """A line now and then, until cancelled."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            acked = sum(sent.is_acked for sent in self.records.sent.values())
            taken = ", ".join(str(len({one.event_id for one in d.reading.taken})) for d in self.destinations)
            largest = max(self.records.peak_memory.values(), default=0) / 1024**2
            self.tell(
                f"{len(self.records.sent)} events sent, {acked} acknowledged, {len(self.records.followed)} followed, "
                f"taken {taken}; {largest:.0f} MB, {self.latest:.2f} s late at most"
            )
            self.latest = 0.0

    async def settle(self, follower: Follower) -> None:
        """A quarter of an hour goes by, for what is due later; then until nothing is missing, or it is enough."""
        self.tell("no more events and faults; time goes by")
        moved, began = 0, self.fleet.now()
        while self.fleet.now() < began + QUIESCENCE_SECONDS:
            if moved < AFTER_SECONDS:
                await move_clock(self.fleet, STEP_SECONDS)
                moved += STEP_SECONDS
            await asyncio.sleep(6)
            if moved >= AFTER_SECONDS and await self._is_complete(follower):
                return

    async def _is_complete(self, follower: Follower) -> bool:
        await self._look()
        broken = {verdict.number for verdict in judge(self.records) if not verdict.holds}
        return not broken & {2, 3, 9} and follower.after >= self.records.stored[-1].position

    async def conclude(self) -> None:
        """Note what is there in the end."""
        await self._look()
        self.fleet.read_logs()
        steady = self._destination(STEADY).arrived
        for began, ended, hostile in self.windows:
            first = {sent.number: sent.attempts[0].began for sent in self.records.sent.values() if sent.attempts}
            latencies = [
                steady.get(number, self.fleet.now()) - at for number, at in first.items() if began <= at < ended
            ]
            self.records.windows.append(Window(hostile, tuple(latencies)))

    async def _look(self) -> None:
        rows = await self.fleet.sql(ROWS)
        self.records.stored = [_stored(row) for row in rows]
        self.records.standings = await _standings(self.fleet)


def _stored(row: Any) -> Stored:
    data = msgspec.json.decode(row["data"])
    number = data.get("campaign") if isinstance(data, dict) else None
    return Stored(row["position"], row["id"], row["installation_id"], row["type"], row["owner"], number)


async def _standings(it: Fleet) -> list[Standing]:
    state = (await it.aircall.get("/control/state")).json()
    companies = {company["id"]: company for company in state["companies"]}
    rows = await it.sql("SELECT id, status, company_id FROM installation")
    ours = f"{it.url}/aircall/webhook"
    return [
        Standing(
            row["id"],
            row["status"],
            any(hook["active"] and hook["url"] == ours for hook in companies[row["company_id"]]["webhooks"]),
            companies[row["company_id"]]["integration"]["active"],
        )
        for row in rows
    ]


class Hostile:
    """The hostile tenant, which comes and goes: a process, and subscriptions made with an API key of its own."""

    def __init__(self, it: Fleet, key: dict[str, str]) -> None:
        self._fleet = it
        self._key = key
        self._process: Process | None = None

    async def come(self) -> None:
        if self._process is not None:
            return
        port = free_port()
        environment = {"PATH": os.environ["PATH"]}
        log = self._fleet.folder / "hostile.log"
        self._process = await Process.start(
            "hostile", "tests.crash.hostile", str(port), self._fleet.url, environment=environment, log=log
        )
        async with a_client(self._fleet.url, headers=self._key) as client:
            for path in ("continue", "continue/2", "huge"):
                body = {"name": path, "kind": "http", "url": f"http://127.0.0.1:{port}/{path}"}
                with suppress(httpx.HTTPError):
                    await client.post("/v1/subscriptions", json=body)

    async def go(self) -> None:
        if self._process is None:
            return
        with suppress(TimeoutError):
            await eventually(self._unsubscribe, 30)
        await self._process.close()
        self._process = None

    async def close(self) -> None:
        if self._process is not None:
            await self._process.close()

    async def _unsubscribe(self) -> bool:
        """Whether none is left."""
        with suppress(httpx.HTTPError, KeyError, ValueError):
            async with a_client(self._fleet.url, headers=self._key) as client:
                items = (await client.get("/v1/subscriptions")).json()["items"]
                for item in items:
                    await client.delete(f"/v1/subscriptions/{item['id']}")
                return not items
        return False


async def _keep_ledger(it: Fleet) -> None:
    """Note what Aircall was asked, from its ledger of the last thousand requests, until cancelled."""
    seen: set[tuple[Any, ...]] = set()
    ours = "&".join(f"{name}={value}" for name, value in OURS.items())
    while True:
        with suppress(httpx.HTTPError):
            for row in (await it.aircall.get("/control/ledger")).json()["requests"]:
                place = (row["at"], row["method"], row["path"], row["company_id"])
                if row["company_id"] is not None and row["query"] != ours and place not in seen:
                    seen.add(place)
                    it.records.calls.append(Call(row["at"], row["company_id"]))
        await asyncio.sleep(1)


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on while the block lasts; its failure is the campaign's."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


async def run(plan: Plan, folder: Path) -> Records:
    """A whole campaign; what it noted."""
    records = Records(BUDGET_PER_MINUTE)
    async with AsyncExitStack() as stack:
        room = stack.enter_context(disk())
        it = await stack.enter_async_context(fleet(folder, room, records, companies=len(COMPANIES)))
        out = {name: why for name, why in faults.left_out(it).items() if name in plan.faults}
        for name, why in out.items():
            print(f"left out: {name}, as {why}", flush=True)
        plan = replace(plan, faults=tuple(name for name in plan.faults if name not in out))
        key = await it.partner(SCOPES)
        partner = Partner(it, key)
        await _install_all(partner)
        mallorys = "installations:read,events:read,subscriptions:read,subscriptions:write"
        hostile = Hostile(it, await it.partner(mallorys, owner="mallory"))
        stack.push_async_callback(hostile.close)
        tokens = Tokens(it.state_file, f"{it.url}/aircall/webhook")
        tokens.read()
        senders = Senders(it.url, tokens, TOLD, records, it.now, plan.seed)
        some = destinations.some(plan.seed, it.now)
        client = await stack.enter_async_context(a_client(it.url, headers=key))
        await stack.enter_async_context(subscribed(some, client))
        records.readings = [one.reading for one in some]
        records.followed_from = some[0].reading.start
        follower = Follower(it.url, key, records)
        churn = Churn(it, partner, CHURNED, plan.seed)
        campaign = Campaign(plan, it, records, some, churn, partner, hostile)
        campaign.tell(f"{len(COMPANIES) - len(CHURNED)} installations, {len(some)} subscriptions: the campaign begins")
        async with _beside(
            follower.follow(), campaign.progress(), campaign.notice_lateness(), tokens.keep_reading(), _keep_ledger(it)
        ):
            async with _beside(churn.go_on(), *(churn.call_aircall(company) for company in BUSY)):
                await campaign.run(senders)
            await campaign.settle(follower)
        await campaign.conclude()
        records.figures = {**asdict(plan), "steps": churn.steps, "left_out": out}
    return records


async def _install_all(partner: Partner) -> None:
    owners = dict.fromkeys(ACMES, "acme") | dict.fromkeys(MALLORYS, "mallory")
    slots = asyncio.Semaphore(INSTALLS_AT_ONCE)

    async def install(company: int) -> None:
        async with slots:
            await partner.install_for_certain(company, owners.get(company))

    await asyncio.gather(*(install(company) for company in TOLD))


def figures(records: Records, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The run in numbers."""
    tries = Counter(str(attempt.status) for sent in records.sent.values() for attempt in sent.attempts)
    latencies = {
        ("beside_a_hostile_tenant" if hostile else "baseline"): [
            {"p50": percentile(window.latencies, 0.5), "p99": percentile(window.latencies, 0.99)}
            for window in records.windows
            if window.hostile == hostile and window.latencies
        ]
        for hostile in (False, True)
    }
    return {
        **records.figures,
        "others_share_of_the_machine": round(records.others_share, 2),
        "sent": len(records.sent),
        "acknowledged": sum(sent.is_acked for sent in records.sent.values()),
        "stored": len(records.stored),
        "followed": len(records.followed),
        "deliveries": sum(len(reading.taken) for reading in records.readings),
        "attempts_by_status": dict(tries),
        "latency_seconds": latencies,
        "peak_memory_mb": {name: round(size / 1024**2) for name, size in records.peak_memory.items()},
        "happened": [
            {"fault": one.fault, "detail": one.detail, "began": one.began, "ended": one.ended}
            for one in records.occurrences
        ],
        "verdicts": [
            {"number": one.number, "promise": one.promise, "holds": one.holds, "judged_by": one.judged_by}
            | {"broken": list(one.broken[:20]), "times": len(one.broken)}
            for one in verdicts
        ],
    }


def show(verdicts: Sequence[Verdict]) -> None:
    """The table, with the first counterexamples."""
    print()
    for verdict in verdicts:
        word = "ok" if verdict.holds else "BROKEN"
        print(f"{verdict.number:3}  {word:7} {verdict.promise}  ({verdict.judged_by})")
        for example in Counter(verdict.broken).most_common(SHOWN):
            print(f"             - {example[0]}" + (f" ({example[1]} times)" if example[1] > 1 else ""))
        if len(set(verdict.broken)) > SHOWN:
            print(f"             … {len(verdict.broken)} in all")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long load and faults last (120)")
    parser.add_argument("--seed", default="1", help="draws the load and the faults (1)")
    parser.add_argument("--pace", type=float, default=PER_SECOND, help=f"events per second ({PER_SECOND:g})")
    parser.add_argument("--faults", default=",".join(faults.FAULTS), help="only these, separated by commas")
    parser.add_argument("--alone", action="store_true", help="without the hostile tenant, to look at faults only")
    parser.add_argument("--figures", type=Path, help="write the run's numbers into this file, as JSON")
    parser.add_argument("--keep", type=Path, help="keep every process's log in this folder")
    options = parser.parse_args()
    chosen = [name for name in options.faults.split(",") if name]
    if unknown := set(chosen) - set(faults.FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(faults.FAULTS)}")
    plan = Plan(options.seconds, options.seed, options.pace, tuple(chosen), is_hostile=not options.alone)
    print(f"campaign: seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        began, busy = time.monotonic(), _busy_seconds()
        records = uvloop.run(run(plan, folder))
        seconds = time.monotonic() - began
    records.others_share = max(_busy_seconds() - busy, 0.0) / (seconds * (os.cpu_count() or 1))
    verdicts = judge(records)
    if options.figures:
        options.figures.write_text(json.dumps(figures(records, verdicts), indent=2))
    show(verdicts)
    broken = [verdict for verdict in verdicts if not verdict.holds]
    said = f"{len(broken)} of {len(verdicts)} promises broken" if broken else "every promise held"
    print(f"\n{said} (seed {options.seed}, {seconds:.0f} s, others took {records.others_share:.0%} of the machine)")
    return 1 if broken else 0


def _busy_seconds() -> float:
    """Processor time of all others on this machine so far: of all, less our own and our ended children's."""
    try:
        first, *_ = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, hard, soft = (int(number) for number in first.split()[1:8])
    ours = os.times()
    all_of_it = (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")
    return all_of_it - (ours.user + ours.system + ours.children_user + ours.children_system)


if __name__ == "__main__":
    sys.exit(main())
