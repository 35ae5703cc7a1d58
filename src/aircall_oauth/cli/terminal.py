"""The command line's output: lines, tables, JSON, and progress bars on a terminal."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from io import TextIOWrapper
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

from aircall_oauth.errors import OutputLost
from aircall_oauth.telemetry.text import readable

if TYPE_CHECKING:
    # For annotations only: a command imports what it needs when it runs.
    from rich.console import Console

    from aircall_oauth.installations.disconnect.revoke_all import Progress, Report
    from aircall_oauth.operations.doctor import Finding
    from aircall_oauth.operations.rotation import Rotation

STDERR = 2


def configure() -> None:
    """Show characters that the encoding lacks as escapes, and open `/dev/null` for closed standard streams.

    Otherwise a socket could get the number of a standard stream and be written to as one, and libuv ends the process.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_line(text: str) -> None:
    """Write one line to stdout; raises `OutputLost` where it can't be written."""
    write(f"{readable(text)}\n")


def write(text: str) -> None:
    if sys.stdout is None:
        raise OutputLost
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputLost from None


def _discard(descriptor: int) -> None:
    """Lead a broken stream to `/dev/null`: its buffer is written when the process ends, and would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def say(text: str) -> None:
    """Write lines to stderr, where there is one."""
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.writelines(f"{readable(line)}\n" for line in text.split("\n"))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str | None]]) -> None:
    """Print a table without cutting any cell; on a terminal that is too narrow, print each row as several lines."""
    from rich.cells import cell_len

    names = list(columns)
    cells = [[readable(cell or "-") for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(names, *cells, strict=True)]
    if sys.stdout is not None and sys.stdout.isatty() and sum(widths) + 2 * len(widths) > get_terminal_size().columns:
        write("\n".join(_as_lines(names, row) for row in cells))
    else:
        write("".join(f"{_as_row(row, widths)}\n" for row in [names, *cells]))


def print_fields(fields: Mapping[str, str]) -> None:
    """Print a line for each field, its name first."""
    write(_as_lines(list(fields), [readable(cell) for cell in fields.values()]))


def _as_row(cells: list[str], widths: list[int]) -> str:
    from rich.cells import cell_len

    padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _as_lines(names: list[str], cells: list[str]) -> str:
    width = max(map(len, names))
    return "".join(f"{name:<{width}}  {cell}\n" for name, cell in zip(names, cells, strict=True))


def print_json(content: Any) -> None:
    """Print JSON, with invisible characters and those that the encoding lacks as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    plain = json.dumps(content, indent=2, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))
    write("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in plain) + "\n")


def print_findings(findings: "Iterable[Finding]") -> None:
    for finding in findings:
        whose = f" {finding.installation_id}" if finding.installation_id else ""
        print_line(f"{finding.level:<8} {finding.check}{whose}: {finding.seen}")
        if finding.advice:
            print_line(f"{'':<8} → {finding.advice}")


def print_report(report: "Report") -> None:
    done = report.progress
    print_line(f"{done.ended} installations ended here, {done.said} of {done.farewells} undone at Aircall.")
    for heading, left in (
        ("Aircall refused, or the token does not open (their webhooks may still be there):", report.refused),
        ("Could not be reached (a worker goes on for three days, or run this again):", report.waiting),
    ):
        if left:
            print_line(heading)
        for one in left:
            print_line(f"  {one.installation_id}  {company(one.company_name, one.company_id)}: {one.why}")


def company(name: str | None, company_id: int | None) -> str:
    """Return a company's name with its id at Aircall: names may be alike, and may hold anything."""
    return f"{name} ({company_id})" if name else str(company_id)


@contextmanager
def progress() -> "Iterator[Callable[[Progress], None]]":
    """Show two progress bars on stderr where it is a terminal; yields the function that moves them."""
    from rich import progress as bar

    columns = (bar.TextColumn("{task.description}"), bar.BarColumn(), bar.MofNCompleteColumn(), bar.TimeElapsedColumn())
    with bar.Progress(*columns, console=_stderr(), disable=not _is_watched()) as bars:
        here, there = bars.add_task("ended here", total=None), bars.add_task("undone at Aircall", total=None)

        def show(done: "Progress") -> None:
            bars.update(here, total=done.installations, completed=done.ended)
            bars.update(there, total=done.farewells, completed=done.said)

        yield show


@contextmanager
def rotation_bar() -> "Iterator[Callable[[Rotation], None]]":
    """Show a progress bar on stderr where it is a terminal; yields the function that moves it."""
    from rich import progress as bar

    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns, console=_stderr(), disable=not _is_watched()) as bars:
        task = bars.add_task("sealed anew", total=None)
        yield lambda rotation: bars.update(task, total=rotation.total, completed=rotation.done)


@contextmanager
def share() -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar on stderr where it is a terminal; yields the function that sets its share and its text."""
    from rich import progress as bar

    with bar.Progress(console=_stderr(), disable=not _is_watched()) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda done, word: bars.update(task, completed=done, description=word)


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def minute(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%d %H:%M}" if at is not None else None


def _is_watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
