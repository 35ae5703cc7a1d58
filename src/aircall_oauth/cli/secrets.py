"""`aircall-oauth secrets`."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.groups import Group
from aircall_oauth.cli.running import AsJson, fail, run_some, say, usage, with_resources

if TYPE_CHECKING:
    from aircall_oauth.wrapping.entries import Entry

secrets_app = typer.Typer(cls=Group, help="The keys that stored secrets are sealed under.", no_args_is_help=True)


class KeyList(StrEnum):
    """A setting that holds keys."""

    SECRET_KEYS = "secret-keys"
    FINGERPRINT_KEY = "fingerprint-key"


FromStdin = Annotated[bool, typer.Option("--stdin", help="Read the keys from stdin instead of the setting.")]
OfSetting = Annotated[KeyList, typer.Option("--setting", help="Which setting's keys.")]


@secrets_app.command("new-key")
def new_sealing_key() -> None:
    """Print a new entry for AIRCALL_OAUTH_SECRET_KEYS, alone on the last line of stdout. It is stored nowhere."""
    from aircall_oauth.operations import rotation
    from aircall_oauth.storage.stamps import now

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


@secrets_app.command("wrap")
def wrap_keys(
    by: Annotated[str, typer.Option("--by", metavar="KEY", help="vault:MOUNT/KEY or awskms:KEY.")],
    stdin: FromStdin = False,
    setting: OfSetting = KeyList.SECRET_KEYS,
    as_json: AsJson = False,
) -> None:
    """Wrap keys by a key of Vault's, OpenBao's or AWS KMS, and print the setting's new value, alone on stdout.

    Keys that another key has wrapped are wrapped anew. Nothing is stored or changed.
    """
    from aircall_oauth.settings import access
    from aircall_oauth.wrapping import keys
    from aircall_oauth.wrapping.entries import read_service_key

    service_key = usage(read_service_key, by, "--by")

    async def work(settings: Any) -> "list[Entry]":
        return await keys.wrap(_entries(settings, setting, stdin), service_key, access(settings))

    _print_entries(run_some(_needed(setting, stdin), work), as_json)


@secrets_app.command("rewrap")
def rewrap_keys(stdin: FromStdin = False, setting: OfSetting = KeyList.SECRET_KEYS, as_json: AsJson = False) -> None:
    """Have wrapped keys wrapped by the newest version of the same key, and print the setting's new value.

    Do this after a rotation of the service's key, before its older versions end. Nothing is stored or changed.
    """
    from aircall_oauth.settings import access
    from aircall_oauth.wrapping import keys

    async def work(settings: Any) -> "list[Entry]":
        return await keys.rewrap(_entries(settings, setting, stdin), access(settings))

    _print_entries(run_some(_needed(setting, stdin), work), as_json)


def _needed(setting: KeyList, stdin: bool) -> list[str]:
    from aircall_oauth.settings import KEY_SERVICE_SETTINGS

    return [*([] if stdin else [_field(setting)]), *KEY_SERVICE_SETTINGS]


def _field(setting: KeyList) -> str:
    return setting.replace("-", "_")


def _entries(settings: Any, setting: KeyList, stdin: bool) -> "list[Entry]":
    """Return the keys that are asked for; fails where what came by stdin is none, without showing it."""
    from aircall_oauth.settings import KEY_LISTS
    from aircall_oauth.wrapping.entries import read_list

    text = sys.stdin.read().strip() if stdin else getattr(settings, _field(setting)).get_secret_value()
    try:
        return read_list(text, with_ids=KEY_LISTS[_field(setting)])
    except ValueError as error:
        fail(f"What came by stdin {error}")


def _print_entries(entries: "list[Entry]", as_json: bool) -> None:
    from aircall_oauth.wrapping.entries import Wrapped

    if not as_json:
        terminal.write(f"{','.join(map(str, entries))}\n")
        return
    wrapped = [(entry, entry.key) for entry in entries if isinstance(entry.key, Wrapped)]
    terminal.print_json(
        [
            {"id": entry.key_id, "entry": str(entry), "wrapped_by": str(key.by), "version": key.version}
            for entry, key in wrapped
        ]
    )
