"""Whether there is memory for more than a run has needed."""

from contextlib import suppress
from pathlib import Path

BASE_BYTES = 500e6
"""What a process holds that trains nothing: Python, torch and the data of a small task."""


def is_tight(times: float) -> bool:
    """Whether so many times what the process has needed, beyond `BASE_BYTES`, is over half of what is free.

    Where that cannot be found out there is room.
    """
    with suppress(OSError, ValueError, StopIteration):
        needed = max(0.0, peak() - BASE_BYTES)
        return times * needed > _kibibytes("/proc/meminfo", "MemAvailable:") / 2
    return False


def peak() -> int:
    """The most bytes that this process has held, on Linux.

    Not `resource.getrusage`, whose number begins with that of the parent: it outlives fork and exec.

    Raises:
        OSError: another system.
    """
    return _kibibytes("/proc/self/status", "VmHWM:")


def _kibibytes(file: str, name: str) -> int:
    """A line of one of Linux's files, in bytes."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
