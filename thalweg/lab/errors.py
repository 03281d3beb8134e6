"""What may go wrong in a comparison through no fault of the lab's."""

import traceback
from pathlib import Path


class TrialError(RuntimeError):
    """The workload raised an exception; the message says which and where."""


class WorkerDiedError(RuntimeError):
    """A training process ended before it was given any work."""


class StoreError(RuntimeError):
    """A study's storage cannot be reached or used; the message says which and why."""


def told(error: BaseException, file: Path | None) -> str:
    """An exception of a workload, for its author: its place in their file, without one the traceback."""
    from thalweg.lab import tasks

    return tasks.explain(error, file) if file else "".join(traceback.format_exception(error))
