"""The acceptance run: an install, events, waiting readers, new sealing keys and migrations, through a PgBouncer."""

import asyncio
import base64
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aircall_oauth.storage.migrations import newest_schema_version
from tests.crash.availability.drill import others_share
from tests.crash.availability.rows import pooler_restarted
from tests.crash.availability.stage import ROLE, SCOPES, Ground, Stage, staged
from tests.crash.evidence import busy_seconds
from tests.crash.processes import failures_in
from tests.support.processes import eventually
from tests.support.receivers import subscription_body
from tests.support.service import Ended, run_command

# The version before a table was partitioned anew, or a function added: any older one would do.
OLDER = "0020"
# In session mode each connection of two webs and a worker has a session of its own, and so has each command's.
POOL_SIZES = {"session": 70, "transaction": 20}
# With secrets to seal again, and no event that they are told of.
QUIET_SUBSCRIPTIONS = 20
QUIET_TYPE = "number.deleted"
RELOADED = '"settings read again"'
RELOAD_SECONDS = 60.0
OPEN = f"""
    SELECT count(*) FILTER (WHERE client_addr IS NULL) AS pooled,
           count(*) FILTER (WHERE client_addr IS NOT NULL) AS direct
    FROM pg_stat_activity WHERE usename = '{ROLE}' AND backend_type = 'client backend'
"""


@dataclass
class Run:
    """What an acceptance run did, beside what its stage knows."""

    mode: str
    stage: Stage
    migrated: str = ""  # from which revision to which
    sealed_again: int = 0
    left_under_old_key: int = 0
    sessions: dict[str, int] = field(default_factory=lambda: {"pooled": 0, "direct": 0})  # at one time, at most

    def fail(self, what: str) -> None:
        self.stage.records.failures.append(what)

    async def command(self, *arguments: str) -> Ended:
        """Run a command of the service as a process; one that fails is a failure of the run."""
        ended = await run_command(*arguments, environment=self.stage.world.environment)
        if ended.exit_code != 0:
            self.fail(f"{' '.join(arguments)} ended with {ended.exit_code}: {ended.stderr.strip()[-300:]}")
        return ended

    async def has_sent(self, events: float) -> None:
        """Wait until so many events have been sent."""

        async def enough() -> bool:
            return len(self.stage.records.sent) >= events

        await eventually(enough, float("inf"))


async def accept(mode: str, folder: Path, *, events: int, pace: float, program: str | None = None) -> Run:
    """Do it all through a PgBouncer in this mode, with so many events, so many a second."""
    busy = busy_seconds()
    ground = Ground(
        standby="",
        pooler=mode,
        pooler_size=POOL_SIZES[mode],
        pooler_program=program,
        revision=OLDER,
        round_robin=int(mode == "transaction"),
    )
    async with staged(ground, folder, pace=pace) as stage:
        run = Run(mode, stage)
        watching = asyncio.create_task(_watch_sessions(run))
        await _see_schema(run)
        await _subscribe_more(stage)
        await run.has_sent(0.2 * events)
        await _change_keys(run)
        await run.has_sent(0.4 * events)
        await run.command("migrate")
        await _ask_doctor(run)
        await run.has_sent(0.6 * events)
        await pooler_restarted(stage, 2.0)
        try:
            await stage.comes_home()
        except TimeoutError:
            run.fail("not well again by itself after PgBouncer was restarted")
        await _install_again(run)
        await run.has_sent(events)
        await stage.settle()
        watching.cancel()
        for member in stage.members:
            if member.ended_by_itself:
                run.fail(f"{member.name} ended by itself")
            stage.records.failures.extend(f"{member.name}: {line}" for line in failures_in(member.log))
    # Only now: of processes the time is known that have ended.
    stage.records.others_share = others_share(stage, busy)
    return run


async def _watch_sessions(run: Run) -> None:
    while True:
        with suppress(OSError):
            (found,) = await run.stage.as_superuser(OPEN)
            run.sessions = {name: max(most, found[name]) for name, most in run.sessions.items()}
        await asyncio.sleep(0.5)


async def _see_schema(run: Run) -> None:
    """What `migrate` did before the service was started."""
    ((revision,),) = await run.stage.in_database("SELECT version_num FROM alembic_version")
    if revision != newest_schema_version():
        run.fail(f"migrate left the schema at {revision}")
    run.migrated = f"{OLDER} to {revision}"


async def _subscribe_more(stage: Stage) -> None:
    async with await stage.world.partner(SCOPES) as partner:
        for number in range(QUIET_SUBSCRIPTIONS):
            body = subscription_body(stage.destination.url, name=f"quiet {number}", types=[QUIET_TYPE])
            answer = await partner.post("/v1/subscriptions", json=body)
            assert answer.status_code == 201, answer.text


async def _change_keys(run: Run) -> None:
    """Rotate the sealing keys as docs/operations.md says: the new one opens, then seals, then is the only one."""
    stage = run.stage
    old, new = stage.keys.read_text().strip(), f"k2:{base64.b64encode(os.urandom(32)).decode()}"
    await _reload(run, old, new)
    await _reload(run, new, old)
    rotated = await run.command("secrets", "rotate")
    run.sealed_again = next((int(word) for word in rotated.stderr.split() if word.isdigit()), 0)
    counted = await stage.in_database(
        "SELECT count(*) FROM (SELECT secret_sealed AS held FROM subscription UNION ALL SELECT token_sealed FROM "
        "installation) AS of_both WHERE split_part(held, '.', 2) = 'k1'"
    )
    run.left_under_old_key = counted[0]["count"]
    await _reload(run, new)


async def _reload(run: Run, *keys: str) -> None:
    """Have each process read these sealing keys; it takes none that do not open what is stored."""
    stage = run.stage
    before = {member.name: member.log.read_text().count(RELOADED) for member in stage.members}
    stage.keys.write_text(",".join(keys))
    for member in stage.members:
        member.tell(signal.SIGHUP)

    async def reloaded() -> bool:
        return all(member.log.read_text().count(RELOADED) > before[member.name] for member in stage.members)

    try:
        await eventually(reloaded, RELOAD_SECONDS)
    except TimeoutError:
        run.fail("the sealing keys were not taken by each process")


async def _ask_doctor(run: Run) -> None:
    asked = await run_command("doctor", "--json", environment=run.stage.world.environment)
    found = {one["check"]: one for one in json.loads(asked.stdout)}
    if run.mode not in found["pooler"]["seen"]:
        run.fail(f"doctor says of the pooler: {found['pooler']['seen']}")
    for check in ("database", "schema", "connections", "keys"):
        if found[check]["level"] != "ok":
            run.fail(f"doctor says of {check}: {found[check]['seen']}")


async def _install_again(run: Run) -> None:
    """The company's admin connects once more."""
    world = run.stage.world
    answer = await world.browser.get(await world.consent())
    if answer.status_code != 303:
        run.fail(f"an install was answered {answer.status_code}")
