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
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import uvloop

from tests.crash import destinations, evidence, faults
from tests.crash.attacker import Hostile
from tests.crash.churn import Churn, Partner, move_clock
from tests.crash.destinations import STEADY, Destination, subscribed
from tests.crash.load import Follower, Senders, Tokens
from tests.crash.oracle import judge
from tests.crash.processes import BUDGET_PER_MINUTE, Fleet, fleet
from tests.crash.records import Records, Window
from tests.crash.report import figures, show
from tests.crash.storage import disk
from tests.support.processes import a_client

COMPANIES = [70077, 70078, 70079, *range(80000, 80047)]
CHURNED = COMPANIES[-14:]
TOLD = COMPANIES[:36]  # their events are sent; they stay installed
ACMES, MALLORYS, BUSY = TOLD[:5], TOLD[5:7], TOLD[7:9]
STIRRED = TOLD[9:]
INSTALLS_AT_ONCE = 6
PER_SECOND = 20.0
CALM_SHARE = 0.3
MOST_CALM_SECONDS = 120.0
WINDOW_SECONDS = 6.0
SETTLE_SECONDS = 1.0
HOSTILE_SHARE = 0.3  # of the faults, in its presence
FAULT_EVERY_SECONDS = 20.0
QUIET_SECONDS = 8.0
PROGRESS_SECONDS = 10.0
AFTER_SECONDS = 15 * 60
STEP_SECONDS = 3 * 60
# Longer than a lease of 90 s, which cannot be moved where its row was locked, and a look after it.
QUIESCENCE_SECONDS = 180.0
SCOPES = "installations:read,installations:write,aircall:call,events:read,subscriptions:read,subscriptions:write"


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
    hostile: Hostile
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
        self.records.stored = await evidence.the_log(self.fleet.sql)
        self.records.standings = await evidence.standings(self.fleet)


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
    """A whole campaign; what it noted. SIGTERM ends it early, and all that it started with it."""
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
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
        senders = Senders(it.url, tokens.of, TOLD, records, it.now, plan.seed)
        some = destinations.some(plan.seed, it.now)
        client = await stack.enter_async_context(a_client(it.url, headers=key))
        await stack.enter_async_context(subscribed(some, client))
        records.readings = [one.reading for one in some]
        records.followed_from = some[0].reading.start
        follower = Follower(it.url, key, records, it.now)
        churn = Churn(it, partner, CHURNED, plan.seed)
        campaign = Campaign(plan, it, records, some, churn, partner, hostile)
        campaign.tell(f"{len(COMPANIES) - len(CHURNED)} installations, {len(some)} subscriptions: the campaign begins")
        async with _beside(
            follower.follow(),
            campaign.progress(),
            campaign.notice_lateness(),
            tokens.keep_reading(),
            evidence.keep_ledger(it),
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
        began, busy = time.monotonic(), evidence.busy_seconds()
        try:
            records = uvloop.run(run(plan, folder))
        except asyncio.CancelledError:
            print("ended early")
            return 128 + signal.SIGTERM
        seconds = time.monotonic() - began
    records.others_share = max(evidence.busy_seconds() - busy, 0.0) / (seconds * (os.cpu_count() or 1))
    verdicts = judge(records)
    if options.figures:
        options.figures.write_text(json.dumps(figures(records, verdicts), indent=2))
    show(verdicts)
    broken = [verdict for verdict in verdicts if not verdict.holds]
    said = f"{len(broken)} of {len(verdicts)} promises broken" if broken else "every promise held"
    print(f"\n{said} (seed {options.seed}, {seconds:.0f} s, others took {records.others_share:.0%} of the machine)")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
