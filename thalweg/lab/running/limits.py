"""How long what runs in this very process may take."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def within(seconds: float | None, what: str) -> Iterator[None]:
    """Raises TimeoutError in what takes longer; None is no limit, and without alarms there is none.

    Args:
        seconds: how long it may take.
        what: it is, for the message.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def over(_: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} took longer than the limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
