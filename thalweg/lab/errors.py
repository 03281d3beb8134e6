"""What may go wrong in a comparison through no fault of the lab's."""


class TrialError(RuntimeError):
    """The workload raised an exception; the message says which and where."""


class WorkerDiedError(RuntimeError):
    """A training process ended before it was given any work."""


class StoreError(RuntimeError):
    """A study's storage cannot be reached or used; the message says which and why."""
