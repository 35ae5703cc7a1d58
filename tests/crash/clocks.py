"""Clocks that can be set, each by a file: with Debian's libfaketime, which is put before a program's own library.

The monotonic clock stays as it is, as it does where a machine's clock is set.
"""

from pathlib import Path


class Clock:
    """One program's clock."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, ahead_seconds: int) -> None:
        """So far from the true time, at once; negative is behind."""
        self._file.write_text(f"{ahead_seconds:+d}\n")

    def environment(self, *, threads: bool) -> dict[str, str]:
        """What a program must be started with; nothing where its clock can't be set."""
        library = find_library(threads=threads)
        if library is None:
            return {}
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DISABLE_SHM": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Else waits by the monotonic clock end at once, and threads of Python do nothing but wait for each other.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }


def find_library(*, threads: bool) -> Path | None:
    """The library, if it is installed (Debian's `libfaketime`)."""
    name = "libfaketimeMT.so.1" if threads else "libfaketime.so.1"
    return next(Path("/usr/lib").glob(f"*/faketime/{name}"), None)
