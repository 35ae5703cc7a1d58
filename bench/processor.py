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
