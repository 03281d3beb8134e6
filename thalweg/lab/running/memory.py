"""Whether there is memory for more than a run has needed."""

import sys
from contextlib import suppress
from pathlib import Path

BASE_BYTES = 500e6
"""What a process holds that trains nothing: Python, torch and the data of a small task."""


def is_tight(times: float) -> bool:
    """Whether so many times what the process has needed, beyond `BASE_BYTES`, is over half of what is free.

    Where that cannot be found out there is room.
    """
    with suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        needed = max(0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - BASE_BYTES)
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return times * needed > free / 2
    return False
