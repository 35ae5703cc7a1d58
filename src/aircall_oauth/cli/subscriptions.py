"""`aircall-oauth subscriptions`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, fail, moment, say, usage, with_resources

if TYPE_CHECKING:
    from aircall_oauth.deliveries.replays.bodies import ReplayWindow
    from aircall_oauth.deliveries.replays.jobs import ReplayView

subscriptions_app = typer.Typer(cls=Group, help="The destinations that events are delivered to.", no_args_is_help=True)

POLL_SECONDS = 1.0

SubscriptionId = Annotated[str, typer.Argument(help="The subscription's id, sub_….")]


@subscriptions_app.command("list")
def list_subscriptions(as_json: AsJson = False) -> None:
    """List the subscriptions, oldest first: the status of each, and how many events it is behind."""
    from aircall_oauth.access import callers
    from aircall_oauth.deliveries import views

    found = with_resources(lambda resources: views.list_all(resources, callers.OPERATOR, cursor=None, limit=1000)).items
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found])
        return
    terminal.print_table(
        (
            *("id", "name", "kind", "to", "status", "health", "behind", "oldest", "parked", "dead"),
            *("matched 24 h", "delivered 24 h", "failed 24 h", "last error"),
        ),
        (
            (
                *(one.id, one.name, one.kind, one.url, one.status, one.health, str(one.lag)),
                None if one.oldest_undelivered_seconds is None else f"{one.oldest_undelivered_seconds} s",
                *(str(number) for number in (one.parked, one.dead)),
                *(str(number) for number in (one.matched_24h, one.delivered_24h, one.failed_24h)),
                one.last_error,
            )
            for one in found
        ),
    )


@subscriptions_app.command("show")
def show_subscription(subscription_id: SubscriptionId, as_json: AsJson = False) -> None:
    """Show one subscription: what it wants, how it stands, and what it matched and got in the last 24 hours."""
    from aircall_oauth.access import callers
    from aircall_oauth.deliveries import views

    found = with_resources(lambda resources: views.show(resources, callers.OPERATOR, subscription_id))
    fields = found.model_dump(mode="json")
    if as_json:
        terminal.print_json(fields)
    else:
        terminal.print_fields({name: _shown(value) for name, value in fields.items() if value not in (None, "")})


@subscriptions_app.command("replay")
def replay(
    subscription_id: SubscriptionId,
    since: Annotated[str | None, typer.Option(help="Events received then or later, such as 2026-01-31T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Events received before then.")] = None,
    first: Annotated[
        int | None, typer.Option("--from", min=0, help="Events from this position on, itself included.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=0, help="Events up to this position, itself included.")
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only events of this type, such as call.*; repeatable.")
    ] = None,
    owners: Annotated[list[str] | None, typer.Option("--owner", help="Only events of this owner; repeatable.")] = None,
    installations: Annotated[
        list[str] | None, typer.Option("--installation", help="Only events of this installation; repeatable.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="All events; needed without --type, --owner and --installation.")
    ] = False,
    per_second: Annotated[int, typer.Option(min=1, max=1000, help="The most deliveries a second.")] = 50,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the events, deliver none.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the replay ends.")] = True,
) -> None:
    """Deliver a window of the log once more, beside the live deliveries.

    A worker delivers: Ctrl-C ends this command, not the replay. Exit code 1 if the replay failed, was stopped, or could
    not deliver every event. With --no-wait, exit code 0 only says that it has started.
    """
    window = {
        "since": None if since is None else usage(moment, since, "--since").isoformat(),
        "until": None if until is None else usage(moment, until, "--until").isoformat(),
        "from": first,
        "to": last,
        "types": types or [],
        "owners": owners or [],
        "everything": everything,
        "installations": installations or [],
        "per_second": per_second,
    }
    asked = usage(_window, window, "the window")
    counted = with_resources(lambda resources: _count(resources, subscription_id, asked))
    say(f"{counted.events} events of {counted.customers} customers.")
    if dry_run or not counted.events:
        return
    if not yes:
        typer.confirm("Deliver them once more?", abort=True)
    done = with_resources(lambda resources: _replay(resources, subscription_id, asked, wait=wait))
    say(f"{done.id}: {done.status}, {done.delivered} delivered, {done.failed} failed.")
    if done.status in {"failed", "stopped"} or done.failed:
        raise typer.Exit(1)


@subscriptions_app.command("replays")
def list_replays(subscription_id: SubscriptionId, as_json: AsJson = False) -> None:
    """List the replays of a subscription, newest first, with the progress of each."""
    from aircall_oauth.access import callers
    from aircall_oauth.deliveries.replays import jobs

    found = with_resources(
        lambda resources: jobs.list_of(resources, callers.OPERATOR, subscription_id, cursor=None, limit=100)
    ).items
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found])
        return
    terminal.print_table(
        ("id", "status", "events", "delivered", "failed", "last error", "started", "ended"),
        (
            (
                *(one.id, one.status, str(one.events), str(one.delivered), str(one.failed), one.last_error),
                *(terminal.minute(one.created_at), terminal.minute(one.ended_at)),
            )
            for one in found
        ),
    )


@subscriptions_app.command("stop-replay")
def stop_replay(
    subscription_id: SubscriptionId,
    replay_id: Annotated[str, typer.Argument(help="The replay's id, rpl_….")],
) -> None:
    """Stop a running replay at the position that it has reached."""
    from aircall_oauth.access import audit, callers
    from aircall_oauth.deliveries.replays import jobs

    ended = with_resources(
        lambda resources: jobs.stop(resources, callers.OPERATOR, audit.OPERATOR, subscription_id, replay_id)
    )
    if ended.status != "stopped":
        fail(f"It had ended before: {ended.status}.")
    say(f"Stopped at position {ended.position}: {ended.delivered} of {ended.events} were delivered.")


def _shown(value: Any) -> str:
    return (", ".join(value) or "all") if isinstance(value, list) else str(value)


def _window(fields: dict[str, Any]) -> "ReplayWindow":
    """Check the options as the HTTP API checks them; raises `ValueError` with the first problem."""
    from pydantic import ValidationError

    from aircall_oauth.deliveries.replays.bodies import ReplayWindow

    try:
        return ReplayWindow.model_validate(fields)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


async def _count(resources: Any, subscription_id: str, asked: "ReplayWindow") -> Any:
    """Return a `ReplayPreview`: how many events of how many customers the replay would deliver."""
    from aircall_oauth.access import callers
    from aircall_oauth.deliveries.replays import jobs

    return await jobs.preview(resources, callers.OPERATOR, subscription_id, asked.window, asked.wanted)


async def _replay(resources: Any, subscription_id: str, asked: "ReplayWindow", *, wait: bool) -> "ReplayView":
    """Start a replay and return it: at once, or with `wait` once it has ended, with a progress bar until then."""
    import asyncio

    from aircall_oauth.access import audit, callers
    from aircall_oauth.deliveries.replays import jobs

    replay = await jobs.start(
        resources,
        callers.OPERATOR,
        audit.OPERATOR,
        subscription_id,
        asked.window,
        asked.wanted,
        per_second=asked.per_second,
    )
    with terminal.share() as tell:
        while wait and replay.status == "running":
            tell(replay.delivered / max(replay.events, 1), f"{replay.delivered} of {replay.events} delivered")
            await asyncio.sleep(POLL_SECONDS)
            replay = await jobs.show(resources, callers.OPERATOR, subscription_id, replay.id)
    return replay
