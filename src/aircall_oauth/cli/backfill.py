"""`aircall-oauth backfill`."""

from datetime import datetime
from typing import Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, moment, say, usage, with_resources

backfill_app = typer.Typer(cls=Group, help="Calls that ended while they could not be received.")


@backfill_app.callback(invoke_without_command=True)
def fill(
    context: typer.Context,
    installation: Annotated[str | None, typer.Option(help="The installation's id, ins_….")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Such as 2026-01-31T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="The same; now, if left out.")] = None,
) -> None:
    """Ask Aircall for the calls that ended in a window, and put what the log lacks into it."""
    if context.invoked_subcommand is not None:
        return
    if installation is None or since is None:
        raise typer.BadParameter("both are needed", param_hint="--installation and --from")
    begin = usage(moment, since, "--from")
    end = None if until is None else usage(moment, until, "--to")
    gap = with_resources(lambda resources: _fill(resources, installation, begin, end))
    say(f"{gap.found} calls found, {gap.added} of them added.")


@backfill_app.command("list")
def list_gaps(
    installation: Annotated[str | None, typer.Option(help="Of this installation only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most this many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the gaps: when events could not be received, and how far each one is filled; newest first."""
    from aircall_oauth.installations.outages import backfill

    gaps = with_resources(lambda resources: backfill.list_gaps(resources, installation_id=installation, limit=limit))
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


async def _fill(resources: Any, installation_id: str, since: datetime, until: datetime | None) -> Any:
    """Fill a window under a progress bar; returns the filled gap."""
    from aircall_oauth.installations.outages import backfill

    with terminal.share() as show:
        async for step in backfill.by_hand(resources, installation_id, since=since, until=until):
            show(step.share, f"{step.gap.found} calls found, {step.gap.added} added")
    return step.gap
