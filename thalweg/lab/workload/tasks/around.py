"""What is around a user's file while this process runs something of it, as `python my_task.py` would have it.

Its parser finds no arguments, relative paths begin where the import of the file has left off, and what it
does to the folder and to signals is no business of the rest of the program.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""By which a user or a batch system ends the program."""

_folders: dict[str, str] = {}
"""The folder in which the import of a file has left the process, where that was another."""


def command_line(file: Path) -> list[str]:
    """What `sys.argv` is to a file that Python runs without options: ours are not for its parser."""
    return [str(file)]


def folder_of(file: Path | None) -> str:
    """Where the runs of a file's task begin."""
    return (file and _folders.get(str(file.absolute()))) or os.getcwd()


@contextmanager
def alone(file: Path | None, *, importing: bool = False) -> Iterator[None]:
    """What is the file's own runs meanwhile; without one, nothing changes.

    Args:
        file: the user's.
        importing: whether the folder that it goes to meanwhile is that of its runs.
    """
    if file is None:
        yield
        return
    argv, folder, handlers = sys.argv, os.getcwd(), _handlers()
    sys.argv = command_line(file)
    os.chdir(folder_of(file))
    try:
        yield
    finally:
        sys.argv = argv
        if importing and os.getcwd() != folder:
            left = os.getcwd()
            os.chdir(folder)
            _folders[str(file.absolute())] = left
        os.chdir(folder)
        for number, handler in handlers.items():
            # None is a handler from outside Python, which Python could not put back.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in SIGNALS}
