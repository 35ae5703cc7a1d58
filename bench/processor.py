"""The processor time of processes, from `/proc/PID/stat`: what other programs on the machine hardly change."""

import os
from pathlib import Path


def busy_seconds(*pids: int) -> float:
    """Processor time of these processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def family_seconds(pid: int) -> float:
    """Processor time so far of a process, of its children that run, and of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return ended + busy_seconds(pid, *map(int, children))
