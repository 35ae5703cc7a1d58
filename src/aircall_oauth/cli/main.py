"""The command line's entry point, and the commands that belong to no noun.

Exit codes: 0 done, 1 failed with the reason in one line, 2 wrong usage.
"""

import os
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aircall_oauth.cli import audit, privacy, terminal
from aircall_oauth.cli.attempts import attempts_app
from aircall_oauth.cli.backfill import backfill_app
from aircall_oauth.cli.console import console_app
from aircall_oauth.cli.events import events_app
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.installations import installations_app
from aircall_oauth.cli.keys import keys_app
from aircall_oauth.cli.running import AsJson, collect, duration, fail, run, say, usage, with_resources
from aircall_oauth.cli.secrets import secrets_app
from aircall_oauth.cli.subscriptions import subscriptions_app
from aircall_oauth.errors import OutputLost, SettingsInvalid
from aircall_oauth.imports import uncollected

if TYPE_CHECKING:
    from pydantic import SecretStr

app = typer.Typer(
    cls=Group,
    name="aircall-oauth",
    help="Holds a software company's connections to Aircall.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(keys_app, name="keys")
app.add_typer(installations_app, name="installations")
app.add_typer(attempts_app, name="attempts")
app.add_typer(subscriptions_app, name="subscriptions")
app.add_typer(backfill_app, name="backfill")
app.add_typer(events_app, name="events")
app.add_typer(secrets_app, name="secrets")
app.add_typer(console_app, name="console")
app.add_typer(privacy.erasures_app, name="erasures")
app.add_typer(privacy.retention_app, name="retention")
app.command("audit")(audit.show_audit)
app.command("export")(privacy.export_installation)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    with_worker: Annotated[bool, typer.Option("--with-worker", help="Do the worker's chores too.")] = False,
) -> None:
    """Run the web process."""
    with uncollected():
        from aircall_oauth.server import processes

    run(lambda settings: processes.serve(settings, host=host, port=port, with_worker=with_worker))


@app.command()
def work() -> None:
    """Run the worker's chores until told to stop."""
    with uncollected():
        from aircall_oauth.server import processes

    run(processes.work)


@app.command()
def migrate(
    lock_wait: Annotated[str, typer.Option(help="How long to retry for a table that is in use.")] = "2m",
    print_grants: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            help="Change nothing: print the SQL after which this role of PostgreSQL's can run the service.",
        ),
    ] = None,
) -> None:
    """Bring the database's schema up to date; safe to run from many pods at once, and while events come in."""
    from aircall_oauth.storage import migrations

    if print_grants is not None:
        terminal.write(
            run(
                lambda settings: migrations.grants(
                    settings.unpooled_url, print_grants, setting=settings.unpooled_setting
                )
            )
        )
        return
    wait = duration(lock_wait, "--lock-wait")
    run(
        lambda settings: migrations.migrate(
            settings.unpooled_url, setting=settings.unpooled_setting, lock_wait=wait, tell=say
        )
    )
    say("The schema is up to date.")


@app.command()
def dev(
    demo: Annotated[bool, typer.Option("--demo", help="Walk through once and exit 0 or 1.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the service.")] = 8000,
    aircall_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the pretend Aircall.")] = 8100,
    receiver_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the sample receiver.")] = 8200,
    console_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the console.")] = 8300,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Use this PostgreSQL, and bring its tables up to date, instead of one of the sandbox's own. "
            "AIRCALL_OAUTH_DATABASE_URL is not read; PGPASSWORD and a password file are.",
        ),
    ] = None,
    take: Annotated[
        list[str] | None,
        typer.Option(help="Take this setting from the environment, such as RETURN_URLS; may be repeated."),
    ] = None,
) -> None:
    """Run everything on this machine, with a pretend Aircall and a PostgreSQL of its own."""
    try:
        from aircall_oauth.sandbox import dev as sandbox
    except ModuleNotFoundError as error:
        if error.name != "aircall_oauth.sandbox":
            raise
        fail("The sandbox is not part of this installation; run it from a checkout with `make run`.")
    url = None if database_url is None else usage(_database_url, database_url, "--database-url")
    raise typer.Exit(
        sandbox.run(
            demo=demo,
            port=port,
            aircall_port=aircall_port,
            receiver_port=receiver_port,
            console_port=console_port,
            database_url=url,
            taken=take or [],
        )
    )


@app.command("revoke-all")
def revoke_all(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    give_up_after: Annotated[str, typer.Option(help="How long to retry while Aircall can't be reached.")] = "15m",
    as_json: AsJson = False,
) -> None:
    """The kill switch: end every installation, delete its webhook, switch its integration off, erase its token.

    It may be stopped and started again. Exit code 1 if something could not be undone at Aircall.
    """
    from aircall_oauth.installations.disconnect import revoke_all as revoking

    give_up = duration(give_up_after, "--give-up-after")
    todo = with_resources(revoking.count)
    if not yes:
        typer.confirm(
            f"End all {todo.installations} installations? Every customer must install anew to come back.", abort=True
        )
    with terminal.progress() as show:
        report = with_resources(
            lambda resources: revoking.revoke_all(resources, give_up_after=give_up, on_progress=show)
        )
    if as_json:
        terminal.print_json(asdict(report))
    else:
        terminal.print_report(report)
    if report.refused or report.waiting:
        raise typer.Exit(1)


@app.command("doctor")
def examine(
    as_json: AsJson = False,
    silent_after: Annotated[str, typer.Option(help="Report an installation without events for this long.")] = "7d",
) -> None:
    """Check everything that can be wrong, and say what to do. Exit code 1 if something does not work."""
    from aircall_oauth.operations import doctor
    from aircall_oauth.settings import Settings

    silent = duration(silent_after, "--silent-after")
    try:
        Settings.load()
    except SettingsInvalid as error:
        findings = doctor.settings_findings(error.problems)
    else:
        findings = run(lambda settings: collect(doctor.examine(settings, silent_after=silent)))
    if as_json:
        terminal.print_json([asdict(finding) for finding in findings])
    else:
        terminal.print_findings(findings)
    if any(finding.level == doctor.Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _database_url(text: str) -> "SecretStr":
    from pydantic import SecretStr

    from aircall_oauth.settings import read_database_url

    return read_database_url(SecretStr(text))


def main() -> None:
    """Entry point of the `aircall-oauth` command."""
    signal.signal(signal.SIGTERM, _end_at_once)
    # Pydantic would look through all installed packages for plugins, which takes a tenth of a short command's time.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    terminal.configure()
    try:
        app()
    except OutputLost as error:
        say(f"aircall-oauth: {error.detail}")
        sys.exit(1)


def _end_at_once(number: int, _frame: Any) -> None:
    """End the process on SIGTERM, as the default does for any process but number 1.

    The long-running commands replace it with an orderly stop. An exception would wait for a migration's thread, which
    may wait for a lock. PostgreSQL rolls back what is under way.
    """
    os._exit(128 + number)
