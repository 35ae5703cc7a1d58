"""How the command line shows what it found: tables, JSON, and bars where somebody looks at them."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    # For the names only: the front desk imports late.
    from aircall_oauth.doctor import Finding
    from aircall_oauth.installations.revoke import Progress, Report
    from aircall_oauth.rotation import Rotation


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str | None]]) -> None:
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(cell or "-" for cell in row))
    show(table)


def show(table: Table) -> None:
    """As wide as the terminal; into a pipe never cut, so that a script reads whole words."""
    terminal = sys.stdout.isatty()
    Console(soft_wrap=not terminal, width=None if terminal else 500).print(table)


def print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def print_findings(findings: "Iterable[Finding]") -> None:
    for finding in findings:
        whose = f" {finding.installation_id}" if finding.installation_id else ""
        sys.stdout.write(f"{finding.level:<8} {finding.check}{whose}: {finding.seen}\n")
        if finding.advice:
            sys.stdout.write(f"{'':<8} → {finding.advice}\n")


def print_report(report: "Report") -> None:
    done = report.progress
    sys.stdout.write(f"{done.ended} installations ended here, {done.said} of {done.farewells} undone at Aircall.\n")
    for heading, left in (
        ("Aircall refused, or the token does not open (their webhooks may still be there):", report.refused),
        ("Could not be reached (a worker goes on for three days, or run this again):", report.waiting),
    ):
        if left:
            sys.stdout.write(f"{heading}\n")
        for one in left:
            sys.stdout.write(f"  {one.installation_id}  {one.company_name or one.company_id}: {one.why}\n")


@contextmanager
def progress() -> "Iterator[Callable[[Progress], None]]":
    """Two bars on stderr, where somebody looks at them; nothing in a pipe."""
    from rich import progress as bar

    columns = (bar.TextColumn("{task.description}"), bar.BarColumn(), bar.MofNCompleteColumn(), bar.TimeElapsedColumn())
    with bar.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        here, there = bars.add_task("ended here", total=None), bars.add_task("undone at Aircall", total=None)

        def tell(done: "Progress") -> None:
            bars.update(here, total=done.installations, completed=done.ended)
            bars.update(there, total=done.farewells, completed=done.said)

        yield tell


@contextmanager
def rotation_bar() -> "Iterator[Callable[[Rotation], None]]":
    """One bar on stderr, where somebody looks at it; nothing in a pipe."""
    from rich import progress as bar

    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("sealed anew", total=None)
        yield lambda rotation: bars.update(task, total=rotation.total, completed=rotation.done)


@contextmanager
def share() -> Iterator[Callable[[float, str], None]]:
    """One bar on stderr, told how much of the whole is done, and a word to it; nothing in a pipe."""
    from rich import progress as bar

    with bar.Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda done, word: bars.update(task, completed=done, description=word)


def minute(at: datetime | None) -> str | None:
    return f"{at:%Y-%m-%d %H:%M}" if at is not None else None
