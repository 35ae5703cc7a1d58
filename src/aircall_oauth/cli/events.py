"""`aircall-oauth events`."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, collect, duration, fail, moment, say, usage, with_resources

if TYPE_CHECKING:
    from aircall_oauth.events.query import EventJson, Filter

events_app = typer.Typer(cls=Group, help="The log of events.", no_args_is_help=True)

LOOK_SECONDS = 1.0
PAGE = 1000
COLUMNS = ("position", "received", "happened", "type", "installation", "company", "owner", "source", "id")

Types = Annotated[list[str] | None, typer.Option("--type", help="Of this type, such as call.*; repeatable.")]
InstallationId = Annotated[
    str | None, typer.Option("--installation-id", "--installation", help="Of this installation, ins_….")
]
Owner = Annotated[str | None, typer.Option("--owner", help="Of this owner.")]
WithData = Annotated[bool, typer.Option("--data", help="With what Aircall sent: that is personal data.")]


@events_app.command("list")
def list_events(
    since: Annotated[str | None, typer.Option(help="Received then or later, such as 2026-01-31T08:00Z.")] = None,
    until: Annotated[str | None, typer.Option(help="Received before.")] = None,
    occurred_since: Annotated[str | None, typer.Option(help="Happened then or later, as Aircall tells it.")] = None,
    occurred_until: Annotated[str | None, typer.Option(help="Happened before.")] = None,
    subject: Annotated[str | None, typer.Option(help="What it is about, such as call:123 or user:456.")] = None,
    call_id: Annotated[int | None, typer.Option(min=0, help="About this call.")] = None,
    types: Types = None,
    installation_id: InstallationId = None,
    owner: Owner = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most this many.")] = 100,
    data: WithData = False,
    as_json: AsJson = False,
) -> None:
    """List events, newest first."""
    from aircall_oauth.access import callers
    from aircall_oauth.events import newest
    from aircall_oauth.events.spans import Span

    if subject is not None and call_id is not None:
        raise typer.BadParameter("is the same as --subject call:…; give one of them", param_hint="--call-id")
    span = Span(
        _moment(since, "--since"),
        _moment(until, "--until"),
        _moment(occurred_since, "--occurred-since"),
        _moment(occurred_until, "--occurred-until"),
        subject if call_id is None else f"call:{call_id}",
    )
    wanted = newest.Search(limit, _filter(types, installation_id, owner), span)
    found = with_resources(lambda resources: collect(newest.search(resources, callers.OPERATOR, wanted)))
    if as_json:
        terminal.print_json([_as_dict(event, data=data) for event in found])
        return
    columns = (*COLUMNS, "data") if data else COLUMNS
    terminal.print_table(columns, (_cells(event, data=data) for event in found))


@events_app.command("follow")
def follow_events(
    types: Types = None,
    installation_id: InstallationId = None,
    owner: Owner = None,
    data: WithData = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, for a program.")] = False,
) -> None:
    """Show each new event as it comes in, one line each, until Ctrl-C."""
    wanted = _filter(types, installation_id, owner)
    with_resources(lambda resources: _follow(resources, wanted, data=data, as_json=as_json))


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
    from aircall_oauth.access import audit, callers
    from aircall_oauth.deliveries.destinations.outcomes import Delivered, word
    from aircall_oauth.deliveries.replays import resend

    sent = with_resources(
        lambda resources: resend.resend(resources, callers.OPERATOR, audit.OPERATOR, event_id, subscription)
    )
    if not isinstance(sent.outcome, Delivered):
        fail(f"The event was not taken: {word(sent.outcome)}, after {sent.milliseconds} ms.")
    say(f"Delivered in {sent.milliseconds} ms.")


async def _follow(resources: Any, wanted: "Filter", *, data: bool, as_json: bool) -> None:
    import asyncio

    from aircall_oauth.access import callers
    from aircall_oauth.events import feed
    from aircall_oauth.events.feed import Wanted
    from aircall_oauth.events.positions import newest_position

    async with resources.database.driver_connection() as connection:
        at = Wanted(await newest_position(connection), PAGE, wanted)
    say("Following the log from here on; Ctrl-C ends it.")
    while True:
        page = await feed.read_page(resources, callers.OPERATOR, at, most_bytes=feed.MOST_BYTES)
        for event in page.events:
            terminal.print_line(_line(event, data=data, as_json=as_json))
        at = replace(at, after=page.next)
        if not page.more:
            await asyncio.sleep(LOOK_SECONDS)


def _moment(text: str | None, option: str) -> datetime | None:
    return None if text is None else usage(moment, text, option)


def _filter(types: list[str] | None, installation_id: str | None, owner: str | None) -> "Filter":
    from aircall_oauth.events.query import Filter

    return Filter(types or [], [owner] if owner else [], [installation_id] if installation_id else [])


def _line(event: "EventJson", *, data: bool, as_json: bool) -> str:
    import json

    if as_json:
        return json.dumps(_as_dict(event, data=data))
    return "  ".join(cell or "-" for cell in _cells(event, data=data))


def _as_dict(event: "EventJson", *, data: bool) -> dict[str, Any]:
    """Return an event for JSON; its payload is personal data, and only there if asked for."""
    import json

    import msgspec

    encoded = msgspec.json.encode(event if data else msgspec.structs.replace(event, data=msgspec.Raw(b"null")))
    # Python refuses very long integers, which an event may hold.
    shown: dict[str, Any] = json.loads(encoded, parse_int=lambda digits: int(digits) if len(digits) < 4000 else digits)
    if not data:
        del shown["data"]
    return shown


def _cells(event: "EventJson", *, data: bool) -> tuple[str | None, ...]:
    cells = (
        *(str(event.position), f"{event.received_at:%Y-%m-%d %H:%M:%S}"),
        f"{event.occurred_at:%Y-%m-%d %H:%M:%S}" if event.occurred_at else None,
        *(event.type, event.installation_id, str(event.company_id), event.owner, event.source, event.id),
    )
    return (*cells, bytes(event.data).decode()) if data else cells
