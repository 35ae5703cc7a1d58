"""`aircall-oauth secrets`."""

from typing import Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.running import fail, say, with_resources

secrets_app = typer.Typer(help="The keys that stored secrets are sealed under.", no_args_is_help=True)


@secrets_app.command("new-key")
def new_sealing_key() -> None:
    """Print a new entry for AIRCALL_OAUTH_SECRET_KEYS, alone on the last line of stdout. It is stored nowhere."""
    from aircall_oauth.operations import rotation
    from aircall_oauth.storage.models.base import now

    say("A new entry for AIRCALL_OAUTH_SECRET_KEYS. At the end of the list it opens; at its beginning it seals, too:")
    terminal.write(f"{rotation.new_key(now())}\n")


@secrets_app.command("rotate")
def rotate_secrets() -> None:
    """Seal everything stored under the first key, while the service runs. If interrupted, run it again."""
    from aircall_oauth.operations import rotation

    async def work(resources: Any) -> Any:
        with terminal.rotation_bar() as show:
            return (
                await rotation.rotate(resources, show),
                await rotation.keys_in_use(resources),
                resources.vault.key_ids,
            )

    done, in_use, key_ids = with_resources(work)
    say(f"{done.done} sealed anew under {key_ids[0]!r}.")
    for key_id in key_ids[1:]:
        say(f"{key_id!r} has {in_use.get(key_id, 0)} left." if in_use.get(key_id) else f"{key_id!r} has nothing left.")
    if done.fingerprints:
        say(f"{done.fingerprints} tokens have fingerprints of the first fingerprint key now.")
    if done.broken:
        fail(f"{len(done.broken)} do not open and were left: {', '.join(sorted(map(str, done.broken))[:5])}")
