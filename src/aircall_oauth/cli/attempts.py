"""`aircall-oauth attempts`."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, moment, usage, with_resources

if TYPE_CHECKING:
    from aircall_oauth.installations.attempts.views import InstallAttemptList, InstallAttemptView

attempts_app = typer.Typer(
    cls=Group, help="Install attempts: how far each came, and where it stopped.", invoke_without_command=True
)

Owner = Annotated[str | None, typer.Option(help="Of this owner only.")]
LinkId = Annotated[str | None, typer.Option("--link-id", help="Of this install link, lnk_….")]
Reference = Annotated[str | None, typer.Option(help="The one with this reference, as the page showed it.")]
Ending = Annotated[
    str | None, typer.Option(help="That ended like this, such as declined; under_way for those without an ending.")
]
Since = Annotated[str | None, typer.Option(help="First recorded then or later, such as 2026-01-31T08:00Z.")]
Until = Annotated[str | None, typer.Option(help="First recorded before.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]


@attempts_app.callback()
def list_attempts(
    context: typer.Context,
    owner: Owner = None,
    link_id: LinkId = None,
    reference: Reference = None,
    ending: Ending = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List install attempts, newest first. `attempts show` tells one of them whole."""
    if context.invoked_subcommand is not None:
        return
    filters: dict[str, Any] = {
        "owner": owner,
        "link": link_id,
        "reference": None if reference is None else reference.upper(),
        "ending": ending,
        "since": None if since is None else usage(moment, since, "--since"),
        "until": None if until is None else usage(moment, until, "--until"),
        "limit": limit,
    }
    found = with_resources(lambda resources: _list(resources, filters)).items
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found])
        return
    terminal.print_table(
        ("reference", "first recorded", "owner", "company", "step", "ending", "shown", "link", "installation"),
        (
            (
                *(one.reference, terminal.minute(one.created_at), one.owner),
                None if one.company_id is None else terminal.company(one.company_name, one.company_id),
                *(one.step, one.ending, one.shown, one.link_id, one.installation_id),
            )
            for one in found
        ),
    )


@attempts_app.command("show")
def show_attempt(
    which: Annotated[str, typer.Argument(metavar="REFERENCE-or-ID", help="As the page showed it; or att_….")],
) -> None:
    """Show one attempt as JSON: every step and its time, the ending, and what the browser was shown."""
    shown = with_resources(lambda resources: _show(resources, which if which.startswith("att_") else which.upper()))
    terminal.print_json(shown.model_dump(mode="json"))


@attempts_app.command("counts")
def show_counts(
    days: Annotated[int, typer.Option(min=1, max=90, help="Of the last so many days.")] = 1, as_json: AsJson = False
) -> None:
    """Count, hour by hour, openings without a link and failures that have no row of their own."""
    from aircall_oauth.installations.attempts import views

    since = datetime.now(UTC) - timedelta(days=days)
    found = with_resources(lambda resources: views.tallies(resources, since=since))
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found])
        return
    terminal.print_table(
        ("hour", "what", "count"), ((terminal.minute(one.hour), one.what, str(one.count)) for one in found)
    )


async def _list(resources: Any, filters: dict[str, Any]) -> "InstallAttemptList":
    from aircall_oauth.access import callers
    from aircall_oauth.installations.attempts import views

    await resources.require_ready()
    return await views.list_attempts(resources, callers.OPERATOR, **filters)


async def _show(resources: Any, which: str) -> "InstallAttemptView":
    from aircall_oauth.access import callers
    from aircall_oauth.installations.attempts import views

    await resources.require_ready()
    return await views.show_attempt(resources, callers.OPERATOR, which)
