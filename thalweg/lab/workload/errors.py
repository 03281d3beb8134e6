"""What may go wrong in a comparison through no fault of the lab's."""

from typing import NamedTuple


class Doubt(NamedTuple):
    """Why a result may not mean what it seems to: a word for programs and a sentence for readers."""

    kind: str
    text: str


class TrialError(RuntimeError):
    """The workload raised an exception; the message says which and where."""


class WorkerDiedError(RuntimeError):
    """A training process ended before it was given any work."""


class StoreError(RuntimeError):
    """A study's storage cannot be reached or used; the message says which and why."""


class ResumingError(RuntimeError):
    """A run cannot go on from a checkpoint, or none can be made of it; the message says why."""
