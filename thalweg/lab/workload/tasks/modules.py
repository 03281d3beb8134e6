"""The module of a user's file, by the name that pickles of its classes and functions have.

The name is a private one, so that no file is taken for a package of the same name. Pickle looks it up: in the
processes that train, to which classes and functions come by value, and in those that they start in turn, as
a DataLoader's where processes are spawned.
"""

import inspect
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

PREFIX = "_thalweg_task_"

_LOADING = '''\
"""{name} for pickle: the user's file of that name."""

import sys
from pathlib import Path

from thalweg.lab.workload.tasks.finding import imported

sys.modules[__name__] = imported(Path({file!r}))
'''


def name_of(file: Path) -> str:
    """What the module of a file is called."""
    return PREFIX + re.sub(r"[^0-9A-Za-z_]", "_", file.stem)


class _Folder:
    """Holds a module for each file that this process has imported; removed with the process."""

    made: tempfile.TemporaryDirectory[str] | None = None


def make_findable(file: Path) -> None:
    """Lets the processes that this one starts import a file's module by its name."""
    name = name_of(file)
    text = _LOADING.format(name=name, file=str(file.resolve()))
    if any(_holds(Path(folder, f"{name}.py"), text) for folder in folders()):
        return
    if _Folder.made is None:
        # By the number in it, what a killed process has left is removed, as all that is left of a run.
        _Folder.made = tempfile.TemporaryDirectory(prefix=f"thalweg-run-{os.getpid()}-{PREFIX}")
    Path(_Folder.made.name, f"{name}.py").write_text(text, encoding="utf-8")
    if _Folder.made.name not in sys.path:
        sys.path.append(_Folder.made.name)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def folders() -> list[str]:
    """Where such modules lie, for a process that was started before there were any."""
    return [folder for folder in sys.path if PREFIX in folder]


def stand_in(file: Path, values: Iterable[Any]) -> None:
    """Has pickle find the classes and functions of a file that came by value, under their names.

    Args:
        file: the user's.
        values: what may be functions of the file, beside the methods of its classes.
    """
    name = name_of(file)
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__file__ = str(file)
    kinds = [kind for kind in _rebuilt() if kind.__module__ == name]
    for function in (*values, *(value for kind in kinds for value in vars(kind).values())):
        if inspect.isfunction(function) and function.__module__ == name:
            known = function.__globals__.items()
            vars(module).update({key: value for key, value in known if not key.startswith("__")})
            setattr(module, function.__name__, function)
    for kind in kinds:
        setattr(module, kind.__name__, kind)


def _rebuilt() -> Iterator[type]:
    """Classes that cloudpickle has rebuilt in this process."""
    yield from list(getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", ()))
