"""`aircall-oauth events`."""

from typing import Annotated

import typer

from aircall_oauth.cli.running import duration, fail, say, with_resources

events_app = typer.Typer(help="The log of events.", no_args_is_help=True)


@events_app.command("drop")
def drop_events(
    older_than: Annotated[str, typer.Option(help="Drop the days that ended longer ago than this, such as 30d.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop all old days of the log now. The worker drops one every ten minutes, by the age of the newest event."""
    from aircall_oauth.events import retention

    age = duration(older_than, "--older-than")
    if not yes:
        typer.confirm(f"Drop every day of the log that ended more than {older_than} ago, for every reader?", abort=True)
    days = with_resources(lambda resources: retention.drop_all_before(resources, age))
    say(f"{len(days)} days dropped.")


@events_app.command("resend")
def resend_event(
    event_id: Annotated[str, typer.Argument(help="The event's id, evt_….")],
    subscription: Annotated[str, typer.Option("--to", help="The subscription's id, sub_….")],
) -> None:
    """Send one event to one subscription once more, right now. Exit code 1 where it was not taken."""
    from aircall_oauth.access import callers
    from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
    from aircall_oauth.deliveries.replays import resend

    sent = with_resources(lambda resources: resend.resend(resources, callers.OPERATOR, event_id, subscription))
    if not isinstance(sent.outcome, Delivered):
        fail(f"The event was not taken: {word(sent.outcome)}, after {sent.milliseconds} ms.")
    say(f"Delivered in {sent.milliseconds} ms.")
