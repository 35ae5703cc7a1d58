"""The front desk: the command line, and the one place where settings are read.

Exit codes: 0 done, 1 failed with one line why, 2 wrong usage.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop
from pydantic import SecretStr

from aircall_oauth import terminal
from aircall_oauth.errors import AppError, DatabaseAway, OutputLost, SettingsInvalid
from aircall_oauth.settings import Settings, parse_duration, read_database_url
from aircall_oauth.telemetry import log

T = TypeVar("T")
Given = TypeVar("Given")

app = typer.Typer(
    name="aircall-oauth",
    help="Holds a software company's connections to Aircall.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys_app = typer.Typer(help="API keys of the partner's systems.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
installations_app = typer.Typer(help="The Aircall companies that are connected.", no_args_is_help=True)
app.add_typer(installations_app, name="installations")
backfill_app = typer.Typer(help="Calls that ended while they could not be received.")
app.add_typer(backfill_app, name="backfill")
events_app = typer.Typer(help="The log of events.", no_args_is_help=True)
app.add_typer(events_app, name="events")

secrets_app = typer.Typer(help="The keys that stored secrets are sealed under.", no_args_is_help=True)
app.add_typer(secrets_app, name="secrets")

Host = Annotated[str, typer.Option(help="Address to listen on.")]
InstallationId = Annotated[str, typer.Argument(help="The installation's id, ins_….")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for a program.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    with_worker: Annotated[bool, typer.Option("--with-worker", help="Do the worker's chores too.")] = False,
) -> None:
    """Run the web process."""
    from aircall_oauth.server import processes

    _run(lambda settings: processes.serve(settings, host=host, port=port, with_worker=with_worker))


@app.command()
def work() -> None:
    """Run the worker's chores until told to stop."""
    from aircall_oauth.server import processes

    _run(processes.work)


@app.command()
def migrate(
    lock_wait: Annotated[str, typer.Option(help="How long to ask again for a table that is in use.")] = "2m",
) -> None:
    """Bring the database's schema up to date; safe to run from many pods at once, and while events come in."""
    from aircall_oauth.storage import database

    wait = _usage(parse_duration, lock_wait, "--lock-wait")
    _run(lambda settings: database.migrate(settings.database_url.get_secret_value(), lock_wait=wait, tell=_say))
    _say("The schema is up to date.")


@app.command()
def dev(
    demo: Annotated[bool, typer.Option("--demo", help="Walk through once and exit 0 or 1.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the service.")] = 8000,
    aircall_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the pretend Aircall.")] = 8100,
    receiver_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the sample receiver.")] = 8200,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Use this PostgreSQL, and bring its tables up to date, instead of one of the sandbox's own. "
            "AIRCALL_OAUTH_DATABASE_URL is not read; PGPASSWORD and a password file are.",
        ),
    ] = None,
) -> None:
    """Run everything on this machine, with a pretend Aircall and a PostgreSQL of its own."""
    try:
        from aircall_oauth.sandbox import dev as sandbox
    except ModuleNotFoundError as error:
        if error.name != "aircall_oauth.sandbox":
            raise
        _fail("The sandbox is not part of this installation; run it from a checkout with `make run`.")
    url = None if database_url is None else _usage(read_database_url, SecretStr(database_url), "--database-url")
    raise typer.Exit(
        sandbox.run(demo=demo, port=port, aircall_port=aircall_port, receiver_port=receiver_port, database_url=url)
    )


@app.command("revoke-all")
def revoke_all(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    give_up_after: Annotated[str, typer.Option(help="How long to go on where Aircall is away.")] = "15m",
    as_json: AsJson = False,
) -> None:
    """The kill switch: end every installation, delete its webhook, switch its integration off, erase its token.

    May be stopped and started again. Exit code 1 where something could not be undone at Aircall.
    """
    from aircall_oauth.installations.disconnect import revoke_all as revoke

    give_up = _usage(parse_duration, give_up_after, "--give-up-after")
    todo = _with_resources(revoke.count)
    if not yes:
        typer.confirm(
            f"End all {todo.installations} installations? Every customer must install anew to come back.", abort=True
        )
    with terminal.progress() as tell:
        report = _with_resources(lambda resources: revoke.revoke_all(resources, give_up_after=give_up, tell=tell))
    if as_json:
        terminal.print_json(asdict(report))
    else:
        terminal.print_report(report)
    if report.refused or report.waiting:
        raise typer.Exit(1)


@app.command("doctor")
def examine(
    as_json: AsJson = False,
    silent_after: Annotated[str, typer.Option(help="Without an event for so long is silent.")] = "7d",
) -> None:
    """Look at everything that can be wrong, and say what to do. Exit code 1 where something does not work."""
    from aircall_oauth.operations import doctor

    silent = _usage(parse_duration, silent_after, "--silent-after")
    try:
        Settings.load()
    except SettingsInvalid as error:
        findings = doctor.settings_findings(error.problems)
    else:
        findings = _run(lambda settings: _collect(doctor.examine(settings, silent_after=silent)))
    if as_json:
        terminal.print_json([asdict(finding) for finding in findings])
    else:
        terminal.print_findings(findings)
    if any(finding.level == doctor.Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


@app.command("audit")
def show_audit(
    installation: Annotated[str | None, typer.Option(help="Of this installation only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many lines.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show who did what, when, from where: the newest lines, newest first."""
    from aircall_oauth.access import audit

    found = _with_resources(lambda resources: audit.lines(resources, installation_id=installation, limit=limit))
    if as_json:
        terminal.print_json([line.model_dump(mode="json") for line in found])
    else:
        terminal.print_table(
            ("at", "actor", "action", "outcome", "installation", "from", "request"),
            (
                (f"{a.at:%Y-%m-%d %H:%M:%S}", a.actor, a.action, a.outcome, a.installation_id, a.address, a.request_id)
                for a in found
            ),
        )


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Scopes, separated by commas.")],
    owner: Annotated[str | None, typer.Option(help="Bind the key to this owner.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it works, such as 90d.")] = None,
    aircall: Annotated[
        list[str] | None, typer.Option(help="Let it ask Aircall for this only: 'GET,POST /calls/*'. May be repeated.")
    ] = None,
) -> None:
    """Make an API key and print it, this one time, alone on the last line."""
    from aircall_oauth.access import keys

    wanted = _scopes(scopes)
    rules = _aircall_rules(aircall or [], wanted)
    lifetime = None if expires is None else _usage(parse_duration, expires, "--expires")

    async def make(resources: Any) -> None:
        secret = await keys.create(
            resources, name=name, scopes=wanted, owner=owner, aircall_rules=rules, lifetime=lifetime
        )
        try:
            terminal.write(f"{secret}\n")
        except (OutputLost, BrokenPipeError):
            await keys.withdraw(resources, secret)
            raise OutputLost("The key could not be printed, so it was revoked.") from None

    _with_resources(make)


@keys_app.command("list")
def list_keys() -> None:
    """List the API keys; never the secrets."""
    from aircall_oauth.access import keys
    from aircall_oauth.storage.models.base import now

    terminal.print_table(
        ("id", "name", "standing", "owner", "scopes", "created", "last used", "expires", "Aircall"),
        (
            (
                key.id,
                key.name,
                keys.standing(key, now()),
                key.owner or "any",
                " ".join(key.scopes),
                terminal.minute(key.created_at),
                terminal.minute(key.last_used_at) or "never",
                terminal.minute(key.expires_at) or "never",
                "; ".join(key.aircall_rules or ["any"]),
            )
            for key in _with_resources(keys.list_all)
        ),
    )


@keys_app.command("revoke")
def revoke_key(which: Annotated[str, typer.Argument(help="The key's id, or its name.")]) -> None:
    """Revoke an API key; the next request with it is refused."""
    from aircall_oauth.access import keys

    if not _with_resources(lambda resources: keys.revoke(resources, which)):
        _fail("There is no active API key with this id or name.")
    _say("Revoked.")


@secrets_app.command("new-key")
def new_sealing_key() -> None:
    """Print a new entry for AIRCALL_OAUTH_SECRET_KEYS, alone on the last line of stdout; it is kept nowhere."""
    from aircall_oauth.operations import rotation
    from aircall_oauth.storage.models.base import now

    _say("A new entry for AIRCALL_OAUTH_SECRET_KEYS. At the end of the list it opens; at its beginning it seals, too:")
    terminal.write(f"{rotation.new_key(now())}\n")


@secrets_app.command("rotate")
def rotate_secrets() -> None:
    """Seal everything stored under the first key, while the service goes on. Cut short, it is begun again."""
    from aircall_oauth.operations import rotation

    async def work(resources: Any) -> Any:
        with terminal.rotation_bar() as tell:
            return (
                await rotation.rotate(resources, tell),
                await rotation.keys_in_use(resources),
                resources.vault.key_ids,
            )

    done, in_use, key_ids = _with_resources(work)
    _say(f"{done.done} sealed anew under {key_ids[0]!r}.")
    for key_id in key_ids[1:]:
        _say(f"{key_id!r} has {in_use.get(key_id, 0)} left." if in_use.get(key_id) else f"{key_id!r} has nothing left.")
    if done.broken:
        _fail(f"{len(done.broken)} do not open and were left: {', '.join(sorted(map(str, done.broken))[:5])}")


@installations_app.command("list")
def list_installations(
    owner: Annotated[str | None, typer.Option(help="Of this owner only.")] = None,
    status: Annotated[str | None, typer.Option(help="unclaimed, active, unauthorized or removed.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the installations, oldest first."""
    from aircall_oauth.access import callers
    from aircall_oauth.installations import views
    from aircall_oauth.storage.models.installations import InstallationStatus

    wanted = None if status is None else _usage(InstallationStatus, status, "--status")
    found = _with_resources(lambda resources: views.list_all(resources, callers.OPERATOR, owner=owner, status=wanted))
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found])
    else:
        terminal.print_table(
            ("id", "status", "owner", "company", "webhook", "connected", "last event"),
            (
                (
                    one.id,
                    one.status,
                    one.owner,
                    terminal.company(one.company_name, one.company_id),
                    one.webhook.status,
                    terminal.minute(one.connected_at),
                    terminal.minute(one.last_event_at),
                )
                for one in found
            ),
        )


@installations_app.command("show")
def show_installation(installation_id: InstallationId) -> None:
    """Show an installation, as JSON; never a secret."""
    from aircall_oauth.access import callers
    from aircall_oauth.installations import views

    shown = _with_resources(lambda resources: views.show_installation(resources, callers.OPERATOR, installation_id))
    terminal.print_json(shown.model_dump(mode="json"))


@installations_app.command("disconnect")
def disconnect_installation(
    installation_id: InstallationId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove our webhook at Aircall, switch the integration off, erase the token."""
    from aircall_oauth.access import callers
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.installations.disconnect import farewell

    if not yes:
        typer.confirm(f"Disconnect {installation_id}? Its customer must install anew to come back.", abort=True)
    _with_resources(lambda resources: farewell.disconnect(resources, callers.OPERATOR, OPERATOR, installation_id))
    _say("Disconnected.")


@installations_app.command("rotate-webhook")
def rotate_webhook(installation_id: InstallationId) -> None:
    """Give an installation a webhook with another token; the old one is deleted ten minutes later."""
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.installations.upkeep import retired

    done = _with_resources(lambda resources: retired.rotate(resources, OPERATOR, installation_id))
    _say("Rotated." if done else "The worker rotates it as soon as it can.")


@events_app.command("drop")
def drop_events(
    older_than: Annotated[str, typer.Option(help="Days that ended longer ago than this go, such as 30d.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop all old days of the log now. The worker drops one in ten minutes, counted back from the newest event."""
    from aircall_oauth.events import retention

    age = _usage(parse_duration, older_than, "--older-than")
    if not yes:
        typer.confirm(f"Drop every day of the log that ended more than {older_than} ago, for every reader?", abort=True)
    days = _with_resources(lambda resources: retention.drop_all_before(resources, age))
    _say(f"{len(days)} days dropped.")


@backfill_app.callback(invoke_without_command=True)
def fill(
    context: typer.Context,
    installation: Annotated[str | None, typer.Option(help="The installation's id, ins_….")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Such as 2026-01-31T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Until now, where left out.")] = None,
) -> None:
    """Ask Aircall for the calls that ended in a window, and put what the log lacks into it."""
    if context.invoked_subcommand is not None:
        return
    if installation is None or since is None:
        raise typer.BadParameter("both are needed", param_hint="--installation and --from")
    begin = _usage(_moment, since, "--from")
    end = None if until is None else _usage(_moment, until, "--to")
    gap = _with_resources(lambda resources: _fill(resources, installation, begin, end))
    _say(f"{gap.found} calls found, {gap.added} of them added.")


@backfill_app.command("list")
def list_gaps(
    installation: Annotated[str | None, typer.Option(help="Of this installation only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show when what could not be received, and how far each gap is filled: the newest first."""
    from aircall_oauth.installations.outages import backfill

    gaps = _with_resources(lambda resources: backfill.list_gaps(resources, installation_id=installation, limit=limit))
    if as_json:
        terminal.print_json([gap.model_dump(mode="json") for gap in gaps])
    else:
        terminal.print_table(
            ("installation", "reason", "since", "until", "filled", "found", "added", "last error"),
            (
                (
                    gap.installation_id,
                    gap.reason,
                    terminal.minute(gap.since),
                    terminal.minute(gap.until) or "still open",
                    f"{backfill.Step(gap).share:.0%}",
                    str(gap.found),
                    str(gap.added),
                    gap.last_error,
                )
                for gap in gaps
            ),
        )


def main() -> None:
    """Entry point of the `aircall-oauth` command."""
    signal.signal(signal.SIGTERM, _end_at_once)
    terminal.configure()
    try:
        app()
    except OutputLost as error:
        _say(f"aircall-oauth: {error.detail}")
        sys.exit(1)


def _end_at_once(number: int, _frame: Any) -> None:
    """What SIGTERM does by default, and not to process 1. The long-running commands replace it by an orderly end.

    An exception would wait for a migration's thread, and that for a lock. PostgreSQL undoes what is under way.
    """
    os._exit(128 + number)


def _run(command: Callable[[Settings], Coroutine[Any, Any, T]]) -> T:
    """Run one command with the settings of the environment; one line and exit code 1 where it can't be done."""
    try:
        settings = Settings.load()
        log.configure(settings.log_level, settings.log_format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(command(settings))
    except SettingsInvalid as error:
        _fail(error.detail)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except Exception as error:
        _fail(_in_one_line(error))


def _with_resources(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    from aircall_oauth.resources import open_resources

    async def command(settings: Settings) -> T:
        async with open_resources(settings) as resources:
            return await work(resources)

    return _run(command)


async def _fill(resources: Any, installation_id: str, since: datetime, until: datetime | None) -> Any:
    """Fill a window under a progress bar; the gap, filled."""
    from aircall_oauth.installations.outages import backfill

    with terminal.share() as tell:
        async for step in backfill.by_hand(resources, installation_id, since=since, until=until):
            tell(step.share, f"{step.gap.found} calls found, {step.gap.added} added")
    return step.gap


def _moment(text: str) -> datetime:
    """A point in time, of UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must look like 2026-01-31T08:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _scopes(text: str) -> list[Any]:
    from aircall_oauth.storage.models.access import Scope

    try:
        return list(dict.fromkeys(Scope(word.strip()) for word in text.split(",")))
    except ValueError:
        known = ", ".join(Scope)
        raise typer.BadParameter(f"must be some of {known}", param_hint="--scopes") from None


async def _collect(found: AsyncIterator[T]) -> list[T]:
    return [one async for one in found]


def _aircall_rules(given: list[str], scopes: list[Any]) -> list[str]:
    from aircall_oauth.access import rules
    from aircall_oauth.storage.models.access import Scope

    if given and Scope.AIRCALL_CALL not in scopes:
        raise typer.BadParameter(f"needs the scope {Scope.AIRCALL_CALL}", param_hint="--aircall")
    return [_usage(rules.checked, rule, "--aircall") for rule in given]


def _usage(read: Callable[[Given], T], text: Given, option: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _in_one_line(error: Exception) -> str:
    """What went wrong and what to do, of our own errors and the database's; any other one is a bug, and raised."""
    from aircall_oauth.storage.faults import DRIVER_ERRORS, explain

    cause = error.__cause__ if isinstance(error, DatabaseAway) else error
    if isinstance(error, AppError) and (cause is None or cause is error):
        return error.detail.splitlines()[0]
    if not isinstance(error, (DatabaseAway, *DRIVER_ERRORS)):
        raise error
    log.get(__name__).debug("the database's error", exc_info=error)
    fault = explain(cause)
    if isinstance(error, DatabaseAway) and not fault.lasting:
        return f"{error.detail} ({fault.words})"
    return f"The database cannot be used: {fault.words}. {fault.advice}"


def _say(line: str) -> None:
    terminal.say(line)


def _fail(reason: str) -> NoReturn:
    _say(f"aircall-oauth: {reason}")
    raise typer.Exit(1)
