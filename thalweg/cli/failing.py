"""What may go wrong, as one line on stderr and a status; Ctrl-C and SIGTERM."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn, TypeVar

LAB = ("cloudpickle", "optuna", "plotly", "rich", "scipy", "sklearn")
"""What the lab imports beyond the optimizers' own dependencies."""

INTERRUPTED, TERMINATED = 130, 143
"""The statuses that a shell gives to what Ctrl-C or SIGTERM ended: 128 and the signal's number."""

Request = TypeVar("Request")


def finish(run: Callable[[Request], bool], request: Request, otherwise: str) -> None:
    """Runs to the end; what was interrupted before ends the program with what its words are.

    Args:
        run: says whether it has come to the end.
        request: what it is given.
        otherwise: what is said of what was interrupted.
    """
    before = set(threading.enumerate())
    try:
        with failures(), terminable():
            if not run(request):
                raise KeyboardInterrupt(otherwise)
    except SystemExit as error:
        leave_threads(before, error.code)
        raise
    leave_threads(before, 0)


def leave_threads(before: Collection[threading.Thread], status: object) -> None:
    """Ends the program where a task has left a thread that Python would wait for, perhaps for ever.

    So one waits that loads batches ahead into a queue from which nobody takes any more.
    """
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    if left:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def need_lab() -> None:
    """Ends the program with one line where the lab's packages are missing, or it cannot run."""
    missing = [name for name in LAB if find_spec(name) is None]
    if missing:
        fail(f"the lab needs {', '.join(missing)}: pip install 'thalweg[lab]'")
    try:
        import_module("thalweg.lab.running.processes")
    except ImportError as error:
        fail(str(error))


@contextmanager
def failures() -> Iterator[None]:
    """Turns what may go wrong in a comparison into a line on stderr and a status.

    Bad input ends with 2, a run that could not go on with 1, Ctrl-C with 130.
    """
    from thalweg.lab.workload.errors import StoreError, TrialError, WorkerDiedError

    try:
        yield
    except KeyboardInterrupt as error:
        fail(f"interrupted{error}", INTERRUPTED)
    except TrialError as error:
        fail_at_length(str(error))
    except ValueError as error:
        fail(str(error))
    except (OSError, StoreError, WorkerDiedError) as error:
        fail(str(error), 1)


@contextmanager
def terminable() -> Iterator[None]:
    """Has SIGTERM end what runs meanwhile as Ctrl-C does, with its own word and status.

    Where SIGTERM is ignored from the start it stays so, as Python does with SIGINT: whoever started the
    program meant it.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def end(number: int, frame: object) -> None:
        # `timeout` sends two, and the second would cut the ending short.
        signal.signal(number, signal.SIG_IGN)
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        if not came:
            raise
        fail(f"terminated{error}", TERMINATED)
    finally:
        signal.signal(signal.SIGTERM, before)


def fail_at_length(message: str) -> NoReturn:
    """Ends the program with an error that keeps its lines, such as one in a user's own file."""
    sys.stderr.write(f"thalweg: {message.rstrip()}\n")
    raise SystemExit(1)


def fail(message: str, status: int = 2) -> NoReturn:
    """Ends the program with one line on stderr."""
    sys.stderr.write(f"thalweg: {' '.join(message.split())}\n")
    raise SystemExit(status)
