"""`aircall-oauth audit`."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.running import AsJson, moment, usage, with_resources

if TYPE_CHECKING:
    from aircall_oauth.access.audit_lines import AuditLine


def show_audit(
    action: Annotated[
        list[str] | None,
        typer.Option(help="Of this action, such as token.read or 'subscription.*'; repeatable."),
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="By this API key (id or name), this person, operator or service.")
    ] = None,
    installation: Annotated[str | None, typer.Option(help="Of this installation only.")] = None,
    owner: Annotated[str | None, typer.Option(help="What concerned this owner only.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Of this subscription only.")] = None,
    request: Annotated[str | None, typer.Option("--request-id", help="Of this request only.")] = None,
    since: Annotated[str | None, typer.Option(help="At this time or later, such as 2026-01-31T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most this many lines.")] = 100,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for a spreadsheet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show who did what, when, from where: the newest lines, newest first."""
    from aircall_oauth.access import audit_lines, callers
    from aircall_oauth.access.audit_lines import Asked

    if as_csv and as_json:
        raise typer.BadParameter("is either --csv or --json", param_hint="--csv")
    asked = Asked(
        actions=usage(audit_lines.actions_of, action or [], "--action"),
        actor=actor,
        installation_id=installation,
        owner=owner,
        subscription_id=subscription,
        request_id=request,
        since=None if since is None else usage(moment, since, "--since"),
        until=None if until is None else usage(moment, until, "--until"),
    )
    found = with_resources(
        lambda resources: audit_lines.newest(resources, callers.OPERATOR, asked, limit=limit),
    )
    if as_csv:
        terminal.write(audit_lines.as_csv(found).replace("\r\n", "\n"))
    elif as_json:
        terminal.print_json([line.model_dump(mode="json") for line in found])
    else:
        _print(found)


def _print(lines: "list[AuditLine]") -> None:
    terminal.print_table(
        ("at", "actor", "name", "action", "outcome", "owner", "of", "details", "from", "request"),
        (
            (
                *(f"{a.at:%Y-%m-%d %H:%M:%S}", a.actor, a.actor_name, a.action, a.outcome, a.owner),
                a.subscription_id or a.installation_id,
                json.dumps(a.details, ensure_ascii=False) if a.details else None,
                *(a.address, a.request_id),
            )
            for a in lines
        ),
    )
