"""`aircall-oauth console`."""

from typing import Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, fail, say, with_resources

console_app = typer.Typer(cls=Group, help="The console: the operator's pages.", no_args_is_help=True)

MOST_OF_A_NAME = 64


@console_app.command("open")
def open_console(
    name: Annotated[str | None, typer.Option("--as", help="Who signs in; the audit says so.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let the session look only.")] = False,
    payloads: Annotated[
        bool, typer.Option("--payloads/--no-payloads", help="Let it show personal data; each look is audited.")
    ] = True,
) -> None:
    """Print a link that signs one person in to the console: once, within a minute."""
    from aircall_oauth.access.scopes import Scope
    from aircall_oauth.console import sessions

    person = _person(name)
    scopes = [Scope.CONSOLE_READ]
    scopes += [] if read_only else [Scope.CONSOLE_ACT]
    scopes += [Scope.PAYLOADS_READ] if payloads else []

    async def make(resources: Any) -> str:
        secret = await sessions.make_link(resources, person=person, scopes=scopes)
        if not resources.settings.console_port and not resources.settings.console_url:
            say("The console is off here: AIRCALL_OAUTH_CONSOLE_PORT says on which port `serve` has it.")
        return f"{resources.settings.console_address}/sign-in/link/{secret}"

    terminal.print_line(with_resources(make))


@console_app.command("sessions")
def list_sessions(as_json: AsJson = False) -> None:
    """List who is signed in."""
    from aircall_oauth.console import sessions

    found = with_resources(sessions.list_all)
    if as_json:
        shown = {"fingerprint"}
        terminal.print_json([each.model_dump(mode="json", exclude=shown) for each in found])
    else:
        terminal.print_table(
            ("id", "person", "scopes", "signed in", "last seen", "until", "from"),
            (
                (
                    each.id,
                    each.person,
                    " ".join(each.scopes),
                    terminal.minute(each.created_at),
                    terminal.minute(each.last_seen_at),
                    terminal.minute(each.expires_at),
                    each.address,
                )
                for each in found
            ),
        )


@console_app.command("revoke")
def revoke_session(
    which: Annotated[str | None, typer.Argument(help="A session's id, or a person's name.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="End every session.")] = False,
) -> None:
    """End sessions of the console; their next request is asked to sign in."""
    from aircall_oauth.console import sessions

    if (which is None) != all_:
        raise typer.BadParameter("give one of them", param_hint="WHICH and --all")
    ended = with_resources(lambda resources: sessions.revoke(resources, which))
    if not ended and not all_:
        fail("There is no session with this id or of this person.")
    say(f"Ended: {ended}.")


def _person(name: str | None) -> str:
    """Return the name for the audit: the one that was given, or the system's user."""
    if name is None:
        import getpass

        try:
            name = getpass.getuser()
        except (KeyError, OSError):
            name = "operator"
    if not 0 < len(name.strip()) <= MOST_OF_A_NAME or not name.isprintable():
        raise typer.BadParameter(f"must be a name of {MOST_OF_A_NAME} characters at most", param_hint="--as")
    return name.strip()
