"""`aircall-oauth export` and `aircall-oauth erasures`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, say, usage, with_resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from aircall_oauth.privacy.erasures import ErasureView
    from aircall_oauth.privacy.people import Person
    from aircall_oauth.privacy.retention import OwnerRetentionView
    from aircall_oauth.resources import Resources

    Tell = Callable[[float, str], None]

LOOK_SECONDS = 1.0


def export_installation(
    installation_id: Annotated[str, typer.Argument(help="The installation's id, ins_….")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Write to this file, which must not exist yet; it is yours alone.")
    ] = None,
) -> None:
    """Write out all that is held about one customer, a line of JSON for each thing; never a secret."""
    if to is None:
        with_resources(lambda resources: _export(resources, installation_id, terminal.write))
        return
    try:
        to.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise typer.BadParameter(f"cannot be made ({error.strerror})", param_hint="--to") from None
    with to.open("w", encoding="utf-8") as file:
        lines = with_resources(lambda resources: _export(resources, installation_id, file.write))
    say(f"{lines} lines.")


async def _export(resources: "Resources", installation_id: str, write: "Callable[[str], object]") -> int:
    from aircall_oauth.access import callers
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.privacy import export

    await resources.require_ready()
    lines = 0
    first = await export.begin(resources, callers.OPERATOR, OPERATOR, installation_id)
    async for some in export.lines(resources, callers.OPERATOR, first):
        write(some.decode())
        lines += some.count(b"\n")
    return lines


erasures_app = typer.Typer(cls=Group, help="People and customers whose data are erased.", no_args_is_help=True)


@erasures_app.command("create")
def create_erasure(
    phone: Annotated[str | None, typer.Option(help="A phone number in any spelling, best with its country.")] = None,
    email: Annotated[str | None, typer.Option(help="An e-mail address.")] = None,
    contact_id: Annotated[str | None, typer.Option(help="Aircall's id of a contact.")] = None,
    user_id: Annotated[str | None, typer.Option(help="Aircall's id of a user.")] = None,
    call_id: Annotated[str | None, typer.Option(help="Aircall's id of a call.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only in events of this owner.")] = None,
    installation: Annotated[str | None, typer.Option(help="Only in events of this installation, ins_….")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count, and change nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is until it is done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Erase what is held about one person: by a phone number, an e-mail address or one of Aircall's ids."""
    from aircall_oauth.privacy import people
    from aircall_oauth.privacy.bodies import KINDS

    given = {"phone": phone, "email": email, "contact_id": contact_id, "user_id": user_id, "call_id": call_id}
    chosen = {name: text for name, text in given.items() if text is not None}
    if len(chosen) != 1:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in KINDS)
        raise typer.BadParameter(f"give exactly one of {options}", param_hint="--phone")
    ((name, text),) = chosen.items()
    person = usage(lambda given: people.parse(KINDS[name], given), text, f"--{name.replace('_', '-')}")
    if dry_run:
        with terminal.share() as tell:
            read, found = with_resources(lambda resources: _count(resources, person, owner, installation, tell))
        say(f"{found} of {read} events would be erased. Nothing was changed.")
        return
    if not yes:
        typer.confirm("Erase for every reader what is held about this person? It cannot be undone.", abort=True)
    with terminal.share() as tell:
        done = with_resources(lambda resources: _erase(resources, person, owner, installation, tell if wait else None))
    _show_erasure(done, as_json=as_json)


@erasures_app.command("list")
def list_erasures(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show at most this many.")] = 100, as_json: AsJson = False
) -> None:
    """List erasures, newest first; never whom they were about."""
    from aircall_oauth.access import callers
    from aircall_oauth.privacy import erasures

    found = with_resources(
        lambda resources: erasures.list_erasures(resources, callers.OPERATOR, cursor=None, limit=limit)
    )
    if as_json:
        terminal.print_json([one.model_dump(mode="json") for one in found.items])
        return
    terminal.print_table(
        ("id", "status", "by", "owner", "installation", "erased", "begun", "ended"),
        (
            (
                *(one.id, one.status, one.by, one.owner, one.installation_id, str(one.erased)),
                *(terminal.minute(one.created_at), terminal.minute(one.ended_at)),
            )
            for one in found.items
        ),
    )


@erasures_app.command("show")
def show_erasure(
    erasure_id: Annotated[str, typer.Argument(help="The erasure's id, era_….")],
    positions: Annotated[
        bool, typer.Option("--positions", help="The positions of the erased events, one a line.")
    ] = False,
) -> None:
    """Show how far an erasure is and what it came to, as JSON; never whom it was about."""
    from aircall_oauth.access import callers
    from aircall_oauth.privacy import erasures

    if positions:
        with_resources(lambda resources: _print_positions(resources, erasure_id))
        return
    _show_erasure(
        with_resources(lambda resources: erasures.show(resources, callers.OPERATOR, erasure_id)), as_json=True
    )


async def _count(
    resources: "Resources", person: "Person", owner: str | None, installation: str | None, tell: "Tell"
) -> tuple[int, int]:
    from aircall_oauth.privacy import searching

    await resources.require_ready()
    scope = searching.scope_of(owner, installation)
    return await searching.preview(
        resources, person, scope, lambda position, head: tell(position / max(head, 1), "searching")
    )


async def _erase(
    resources: "Resources", person: "Person", owner: str | None, installation: str | None, tell: "Tell | None"
) -> "ErasureView":
    import asyncio

    from aircall_oauth.access import callers
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.events import spans
    from aircall_oauth.privacy import erasures

    await resources.require_ready()
    begun = await erasures.create(
        resources, callers.OPERATOR, OPERATOR, person, owner=owner, installation_id=installation
    )
    while tell is not None and begun.ended_at is None:
        await asyncio.sleep(LOOK_SECONDS)
        begun = await erasures.show(resources, callers.OPERATOR, begun.id)
        async with resources.database.driver_connection() as connection:
            head = await connection.fetchval(spans.HEAD)
        tell(begun.position / max(head, 1), begun.status)
    return begun


async def _print_positions(resources: "Resources", erasure_id: str) -> None:
    from aircall_oauth.access import callers
    from aircall_oauth.privacy import erasures

    after: int | None = 0
    while after is not None:
        page = await erasures.positions(resources, callers.OPERATOR, erasure_id, after=after, limit=10_000)
        terminal.write("".join(f"{position}\n" for position in page.positions))
        after = page.next


def _show_erasure(erasure: "ErasureView", *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(erasure.model_dump(mode="json"))
    else:
        terminal.print_line(erasure.id)
        say(f"{erasure.status}: {erasure.erased} events erased. `aircall-oauth erasures show` says how far it is.")


retention_app = typer.Typer(cls=Group, help="How long owners' events are kept.", no_args_is_help=True)


@retention_app.command("list")
def list_retention(as_json: AsJson = False) -> None:
    """Show how long events are kept, and for which owners otherwise."""
    from aircall_oauth.access import callers
    from aircall_oauth.privacy import retention

    found = with_resources(
        lambda resources: retention.list_retention(
            resources, callers.OPERATOR, cursor=None, limit=retention.MOST_OWNERS
        )
    )
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
        return
    everyone = [("(all)", "*", found.longest), *(("(all)", *rule) for rule in found.rules.items())]
    own = [(one.owner, *rule) for one in found.items for rule in one.rules.items()]
    terminal.print_table(("owner", "type", "kept"), (*everyone, *own))


@retention_app.command("set")
def set_retention(
    owner: Annotated[str, typer.Argument(help="The owner.")],
    rules: Annotated[list[str], typer.Argument(help="TYPE=DURATION, such as 'transcription.*=7d'; '*' is every type.")],
    as_json: AsJson = False,
) -> None:
    """Say how long an owner's events are kept; what was said before is replaced."""
    from aircall_oauth.privacy.retention import NewRetention

    given = dict(rule.partition("=")[::2] for rule in rules)
    if len(given) < len(rules):
        raise typer.BadParameter("names a type twice", param_hint="RULES")
    try:
        wanted = NewRetention.model_validate({"rules": given}).rules
    except ValueError:
        raise typer.BadParameter("must look like 'transcription.*=7d'", param_hint="RULES") from None
    done = with_resources(lambda resources: _keep(resources, owner, wanted))
    if as_json:
        terminal.print_json(done.model_dump(mode="json"))
    else:
        say(f"{len(done.rules)} rules.")


@retention_app.command("reset")
def reset_retention(owner: Annotated[str, typer.Argument(help="The owner.")]) -> None:
    """Keep an owner's events as long as all others."""
    with_resources(lambda resources: _keep(resources, owner, {}))


async def _keep(resources: "Resources", owner: str, rules: dict[str, str]) -> "OwnerRetentionView":
    from aircall_oauth.access import callers
    from aircall_oauth.access.audit import OPERATOR
    from aircall_oauth.privacy import retention

    await resources.require_ready()
    return await retention.change(resources, callers.OPERATOR, OPERATOR, owner, rules)
