"""What runs print, in a file for each, so that it does not come between the tables of the answer."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from thalweg.lab.study.record import Trial

LONGEST = 40
"""Characters of an optimizer's name in that of a file."""


def name_of(trial: Trial) -> str:
    """A run's name in folders, by what is run."""
    # A file's name has 255 bytes, of which a letter may take four.
    name = "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in trial.name[:LONGEST])
    return f"{trial.stage}-{name}-{hashlib.sha256(trial.key.encode()).hexdigest()[:8]}"


def log_name(trial: Trial) -> str:
    """The file in which what a run prints is kept."""
    return f"{name_of(trial)}.log"


@contextmanager
def printing_to(path: Path | None) -> Iterator[None]:
    """Whatever this process prints meanwhile, compiled code too, goes to a file; without one, as usual.

    A file in which nothing stands is not kept.
    """
    if path is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    except OSError:  # a full disk takes the log, and not the run
        yield
        return
    _flush()
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number in (1, 2):
            os.dup2(log, number)
        yield
    finally:
        _flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(log)
        with suppress(OSError):  # a child of the task, if it came back here, has removed it
            if path.stat().st_size == 0:
                path.unlink()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
