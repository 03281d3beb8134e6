"""Ctrl-C and SIGTERM: held back from what must not be cut short; processes leave them to their parent."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

ENDINGS = (signal.SIGINT, signal.SIGTERM)
"""What a terminal, `timeout` or a batch system sends to all processes of a command; the parent answers."""

PATIENCE = 2.0
"""Seconds after which a second one goes through: what holds them back may hang, as a server that is gone."""


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait meanwhile, and then do what they do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in ENDINGS}
    # One that is ignored stays so; None is a handler from outside Python, which Python could not put back.
    held = {number: now for number, now in handlers.items() if now not in (signal.SIG_IGN, None)}
    came: dict[int, float] = {}
    over = False

    def hold(number: int, _: FrameType | None) -> None:
        # It may stay in place if another signal cuts the end of this short; then it holds nothing back.
        first = came.setdefault(number, time.monotonic())
        if over or time.monotonic() - first > PATIENCE:
            del came[number]
            signal.signal(number, handlers[signal.Signals(number)])
            signal.raise_signal(number)

    for number in held:
        signal.signal(number, hold)
    try:
        yield
    finally:
        over = True
        for number, handler in held.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes started meanwhile see no Ctrl-C and no SIGTERM until they have said what these do there."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first process starts this one too, which would lift the block.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """Has this process live on when its parent is ended; see `blocked`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not ignored, which what a task starts would inherit: then nothing but SIGKILL would end it.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
