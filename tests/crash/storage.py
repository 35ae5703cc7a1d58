"""PostgreSQL on a disk of its own, which can be full: a small file system in memory, where mounting is permitted.

What is there outlives `kill -9` of any process, as it would on a disk.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE = "1g"
BLOCK = b"\0" * 1024 * 1024


class Disk:
    """A folder, and whether it can be filled up."""

    def __init__(self, folder: Path, *, can_be_full: bool) -> None:
        self.folder = folder
        self.can_be_full = can_be_full
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take every block that is free."""
        assert self.can_be_full
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(BLOCK):
                pass

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def disk(size: str = SIZE) -> Iterator[Disk]:
    """A disk that is gone with the block; not one of its own where this user may not mount."""
    folder = Path(tempfile.mkdtemp(prefix="aircall-oauth-campaign-"))
    mounted = shutil.which("mount") is not None and os.geteuid() == 0 and _mount(folder, size)
    try:
        yield Disk(folder, can_be_full=mounted)
    finally:
        if mounted:
            # Lazily: a process that is just ending may still hold a file.
            subprocess.run(("umount", "-l", str(folder)), check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(folder: Path, size: str) -> bool:
    command = ("mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
