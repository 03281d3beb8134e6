"""Errors of a user's file, told in its own terms."""

import os
import traceback
from pathlib import Path

MOST_SIGNS = 600
"""Of what an error says, no more is shown on a line;"""

MOST_TRACEBACK = 20_000
"""and of a traceback no more than this."""


class TaskError(ValueError):
    """A user's file, or the workload in it, is not what it must be; the message says where and why."""


def explain(error: BaseException, file: Path) -> str:
    """One line: the last place in the user's file that an error went through, and the error.

    For example ``my_task.py:42, in loss: RuntimeError: ...``. An error that did not go through the file is
    placed where it arose.
    """
    if isinstance(error, TaskError):
        return str(error)
    error = _raised(error)
    text = brief_error(error)
    if isinstance(error, SyntaxError) and error.filename and is_of(error.filename, file):
        return f"{shown(file)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return f"{shown(file)}: {text}"
    own = [(code, line) for code, line in frames if is_of(code.co_filename, file)]
    if isinstance(error, SyntaxError) and not error.filename and not own:
        return f"{shown(file)}: {text}"
    code, line = (own or frames)[-1]
    path = shown(file) if own else code.co_filename
    function = "" if code.co_name == "<module>" else f", in {code.co_name}"
    return f"{path}:{line}{function}: {text}"


def _raised(error: BaseException) -> BaseException:
    """What the task has raised: Python has a StopIteration that leaves a generator become a RuntimeError."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, StopIteration) else error


def told(error: BaseException, file: Path | None) -> str:
    """An exception of a workload, for its author: its place in their file, without one the traceback."""
    if file or isinstance(error, TaskError):
        return explain(error, file or Path())
    text = "".join(traceback.format_exception(error))
    return text if len(text) <= MOST_TRACEBACK else f"{text[:MOST_TRACEBACK]}\n... ({len(text):,} characters)"


def shown(file: Path) -> str:
    """The file as a user would type it: relative where it lies below the current folder."""
    resolved = file.resolve()
    return str(resolved.relative_to(Path.cwd()) if resolved.is_relative_to(Path.cwd()) else resolved)


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    # Some hold a whole tensor as text: what is cut away here is not even split.
    text = text_of(error)
    line = " ".join(text[: 4 * MOST_SIGNS].split())
    if len(text) <= 4 * MOST_SIGNS and len(line) <= MOST_SIGNS:
        return line
    return f"{line[:MOST_SIGNS]} ... ({len(text):,} characters)"


def text_of(error: BaseException) -> str:
    """What an error says; one of a class of the user's own may fail at that."""
    try:
        return str(error)
    except Exception:
        return "(its __str__ raises an error itself)"


def brief_error(error: BaseException) -> str:
    """The kind of an error and what it says, on one line."""
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def is_of(filename: str, file: Path) -> bool:
    """Whether a name in a traceback means this file."""
    # What cloudpickle has rebuilt in a worker process keeps its lines but not the name of its file.
    return filename == "<dynamic-code>" or os.path.realpath(filename) == str(file.resolve())
