"""Programs that tests start and send signals to."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300
"""How long a test waits for what comes at once, unless the machine is very busy."""

LAUNCH = """
import os, signal, sys
ignored, program = sys.argv[1].split(), sys.argv[2:]
signal.pthread_sigmask(signal.SIG_SETMASK, ())
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(signal.Signals[name], signal.SIG_IGN if name in ignored else signal.SIG_DFL)
os.execv(program[0], program)
"""


def start(program: Sequence[str], *, ignored: str = "", **options: Any) -> subprocess.Popen[str]:
    """Starts a program, in a session of its own, that ignores the signals of these names and no others.

    What `nohup`, `cron` or a shell without job control has the tests ignore would be inherited else. A
    launcher and not `preexec_fn`, which may hang where there are threads.
    """
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, ignored, *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(child: subprocess.Popen[str], words: str) -> None:
    """Reads what a program says on stderr up to the line with these words."""
    alarm = threading.Timer(PATIENCE_SECONDS, child.kill)
    alarm.start()
    while words not in (line := child.stderr.readline()):
        assert line, f"it ended, or was ended, before it said {words!r}"
    alarm.cancel()


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Returns as soon as a condition holds; `otherwise` says what it means if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in children] + [d for child in children for d in descendants(int(child))]


def all_gone(processes: Iterable[int]) -> bool:
    """Whether none of these processes runs any more."""
    return not any(map(_is_running, processes))


def _is_running(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
