"""Processes of one machine: how one has ended, in words; a program's folder; where modules are looked for."""

import os
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

if not hasattr(signal, "SIGKILL"):
    raise ImportError(
        f"the lab trains in processes that it ends by signals: on Linux, macOS and WSL, not on {sys.platform}"
    )

_USUAL = {
    signal.SIGKILL: "as Linux does when memory is short",
    signal.SIGSEGV: "it reached for memory that is not its own: compiled code is at fault",
    signal.SIGBUS: "as it happens when a disk or /dev/shm is full",
    signal.SIGABRT: "compiled code gave up",
    signal.SIGTERM: "as a batch system does at the end of the time",
}
"""What commonly ends a process by these signals."""


def ending(code: int | None) -> str:
    """How a process has ended that gave this exit code."""
    if code is None or code >= 0:
        return f"its process ended with status {code or 0}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"killed by signal {-code}"
    usual = _USUAL.get(number, "")
    name = "" if number == signal.SIGKILL else f" ({number.name})"
    return f"killed by signal {-code}{name}{', ' * bool(usual)}{usual}"


def process_exists(process: int) -> bool:
    """Whether a process of this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_PREFIX = "thalweg-run-"


def new_folder() -> Path:
    """A folder for this program; those of programs that were killed before they could do it are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not process_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


_SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def own_modules_last() -> Iterator[None]:
    """Processes started meanwhile take Python's own modules for such, whatever files lie in the folder.

    A task called ``random.py`` would otherwise be imported by all that asks for Python's.
    """
    path, safe = sys.path.copy(), os.environ.get(_SAFE_PATH)
    shadowing = [entry for entry in path if _shadows(Path(entry))]
    sys.path[:] = [entry for entry in path if entry not in shadowing] + shadowing
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        sys.path[:] = path
        os.environ.pop(_SAFE_PATH) if safe is None else os.environ.update({_SAFE_PATH: safe})


_WARNINGS = "PYTHONWARNINGS"


def start_tracker() -> None:
    """Has the tracker of semaphores start, if it does not run yet, and remove without a word what is left.

    Processes that train are killed in the end, with the semaphores of their DataLoaders and compilers.
    """
    before = os.environ.get(_WARNINGS)
    os.environ[_WARNINGS] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        resource_tracker.ensure_running()
    finally:
        os.environ.pop(_WARNINGS) if before is None else os.environ.update({_WARNINGS: before})


_HASH_SEED = "PYTHONHASHSEED"


@contextmanager
def hashes_fixed() -> Iterator[None]:
    """Processes started meanwhile have the same hashes of texts, unless the user has chosen some.

    Else the order of a set of words, and what is made of it, would depend on the process that has the run.
    """
    if _HASH_SEED in os.environ:
        yield
        return
    os.environ[_HASH_SEED] = "0"
    try:
        yield
    finally:
        os.environ.pop(_HASH_SEED, None)


def _shadows(folder: Path) -> bool:
    """Whether a folder that is not Python's own has files that are called like Python's modules."""
    pythons = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    if not folder.is_dir() or any(folder.resolve().is_relative_to(path) for path in pythons):
        return False
    return any(file.stem in sys.stdlib_module_names for file in folder.glob("*.py"))


def take_off_safe_path() -> None:
    """What a task starts is to look for modules as usual."""
    os.environ.pop(_SAFE_PATH, None)
