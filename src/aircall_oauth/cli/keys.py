"""`aircall-oauth keys`."""

from typing import Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import duration, fail, say, usage, with_resources
from aircall_oauth.errors import OutputLost

keys_app = typer.Typer(cls=Group, help="API keys of the partner's systems.", no_args_is_help=True)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Scopes, separated by commas.")],
    owner: Annotated[str | None, typer.Option(help="Bind the key to this owner.")] = None,
    expires: Annotated[str | None, typer.Option(help="How long it works, such as 90d.")] = None,
    aircall: Annotated[
        list[str] | None, typer.Option(help="Let it ask Aircall for this only: 'GET,POST /calls/*'. May be repeated.")
    ] = None,
) -> None:
    """Create an API key and print it, alone on the last line. It is shown only once."""
    from aircall_oauth.access import keys

    wanted = _scopes(scopes)
    rules = _aircall_rules(aircall or [], wanted)
    lifetime = None if expires is None else duration(expires, "--expires")

    async def make(resources: Any) -> None:
        secret = await keys.create(
            resources, name=name, scopes=wanted, owner=owner, aircall_rules=rules, lifetime=lifetime
        )
        try:
            terminal.write(f"{secret}\n")
        except (OutputLost, BrokenPipeError):
            await keys.withdraw(resources, secret)
            raise OutputLost("The key could not be printed, so it was revoked.") from None

    with_resources(make)


@keys_app.command("list")
def list_keys() -> None:
    """List the API keys, without their secrets."""
    from aircall_oauth.access import known_keys
    from aircall_oauth.storage.stamps import now

    terminal.print_table(
        ("id", "name", "standing", "owner", "scopes", "created", "last used", "expires", "Aircall"),
        (
            (
                key.id,
                key.name,
                key.status(now()),
                key.owner or "any",
                " ".join(key.scopes),
                terminal.minute(key.created_at),
                terminal.minute(key.last_used_at) or "never",
                terminal.minute(key.expires_at) or "never",
                "; ".join(key.aircall_rules or ["any"]),
            )
            for key in with_resources(known_keys.list_all)
        ),
    )


@keys_app.command("revoke")
def revoke_key(which: Annotated[str, typer.Argument(help="The key's id, or its name.")]) -> None:
    """Revoke an API key, or all of one name, and say how many; the next request with them is refused."""
    from aircall_oauth.access import keys

    revoked = with_resources(lambda resources: keys.revoke(resources, which))
    if not revoked:
        fail("There is no active API key with this id or name.")
    say(f"Revoked: {revoked}.")


def _scopes(text: str) -> list[Any]:
    from aircall_oauth.access.scopes import Scope

    try:
        return list(dict.fromkeys(Scope(word.strip()) for word in text.split(",")))
    except ValueError:
        known = ", ".join(Scope)
        raise typer.BadParameter(f"must be some of {known}", param_hint="--scopes") from None


def _aircall_rules(given: list[str], scopes: list[Any]) -> list[str]:
    from aircall_oauth.access import rules
    from aircall_oauth.access.scopes import Scope

    if given and Scope.AIRCALL_CALL not in scopes:
        raise typer.BadParameter(f"needs the scope {Scope.AIRCALL_CALL}", param_hint="--aircall")
    return [usage(rules.checked, rule, "--aircall") for rule in given]
