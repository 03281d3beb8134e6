"""What is around a user's file while this process runs something of it, as `python my_task.py` would have it.

Its parser finds no arguments, its neighbours come before packages of the same names, relative paths begin
where the import of the file has left off, and what it does to the folder and to signals is no business of the
rest of the program.
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


def make_importable(file: Path) -> None:
    """Lets the file import its neighbours, as it can when Python runs it, and the package that it lies in."""
    sys.path += [folder for folder in own_folders(file) if folder not in sys.path]


def put_own_first(file: Path) -> list[str]:
    """Has the file's neighbours found before packages of the same names, and after Python's own modules.

    Returns:
        What it has put into `sys.path`, to be known again by identity.
    """
    first = own_folders(file)
    installed = {"site-packages", "dist-packages"}
    places = [place for place, entry in enumerate(sys.path) if installed & set(Path(entry).parts)]
    place = places[0] if places else len(sys.path)
    sys.path[place:place] = first
    return first


def own_folders(file: Path) -> list[str]:
    """The folder of the file, and the one above the outermost package that it lies in."""
    return [str(folder) for folder in dict.fromkeys((file.resolve().parent, _above(file)))]


def package(file: Path) -> str:
    """The package that the file lies in, to which its relative imports refer; "" if it lies in none."""
    return ".".join(file.resolve().parent.relative_to(_above(file)).parts)


def _above(file: Path) -> Path:
    """The folder of the file, or that of the outermost package that it lies in."""
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


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
    first = put_own_first(file)
    os.chdir(folder_of(file))
    try:
        yield
    finally:
        sys.argv = argv
        # The file may have added others, which stay.
        sys.path[:] = [entry for entry in sys.path if not any(entry is own for own in first)]
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
