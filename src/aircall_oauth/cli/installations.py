"""`aircall-oauth installations`."""

from typing import Annotated

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, say, usage, with_resources

installations_app = typer.Typer(cls=Group, help="The Aircall companies that are connected.", no_args_is_help=True)

InstallationId = Annotated[str, typer.Argument(help="The installation's id, ins_….")]


@installations_app.command("list")
def list_installations(
    owner: Annotated[str | None, typer.Option(help="Only installations of this owner.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only with this status: unclaimed, active, unauthorized or removed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the installations, oldest first."""
    from aircall_oauth.access import callers
    from aircall_oauth.installations import views
    from aircall_oauth.storage.statuses import InstallationStatus

    wanted = None if status is None else usage(InstallationStatus, status, "--status")
    found = with_resources(lambda resources: views.list_all(resources, callers.OPERATOR, owner=owner, status=wanted))
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
    """Show an installation as JSON, without its secrets."""
    from aircall_oauth.access import callers
    from aircall_oauth.installations import views

    shown = with_resources(lambda resources: views.show_installation(resources, callers.OPERATOR, installation_id))
    terminal.print_json(shown.model_dump(mode="json"))


@installations_app.command("disconnect")
def disconnect_installation(
    installation_id: InstallationId,
    erase: Annotated[bool, typer.Option("--erase-events", help="Erase all its events up to now, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """End an installation: delete our webhook at Aircall, switch the integration off there, erase the token here."""
    from aircall_oauth.access import callers
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.installations.disconnect import farewell
    from aircall_oauth.privacy import erasures

    if not yes:
        typer.confirm(f"Disconnect {installation_id}? Its customer must install anew to come back.", abort=True)
    if erase and not yes:
        typer.confirm("Erase all its events, for every reader? It cannot be undone.", abort=True)
    with_resources(lambda resources: farewell.disconnect(resources, callers.OPERATOR, OPERATOR, installation_id))
    say("Disconnected.")
    if erase:
        begun = with_resources(
            lambda resources: erasures.create_of_customer(resources, callers.OPERATOR, OPERATOR, installation_id)
        )
        terminal.print_line(begun.id)


@installations_app.command("rotate-webhook")
def rotate_webhook(installation_id: InstallationId) -> None:
    """Give an installation a new webhook with a new token. The old webhook is deleted ten minutes later."""
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.installations.upkeep import retired

    done = with_resources(lambda resources: retired.replace_webhook(resources, OPERATOR, installation_id))
    say("Rotated." if done else "The worker rotates it as soon as it can.")
