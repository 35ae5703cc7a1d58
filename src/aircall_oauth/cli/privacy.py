"""`aircall-oauth export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aircall_oauth.cli import terminal
from aircall_oauth.cli.running import say, with_resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from aircall_oauth.resources import Resources


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
