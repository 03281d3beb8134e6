"""A workload in a plain Python file: the reference that a user types, the import, the choice."""

import ast
import hashlib
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from thalweg.lab.workload.contract import Workload
from thalweg.lab.workload.tasks import modules
from thalweg.lab.workload.tasks.around import alone, make_importable, package
from thalweg.lab.workload.tasks.caches import make_sendable
from thalweg.lab.workload.tasks.checking import METHODS, brief, check, missing_methods, takes
from thalweg.lab.workload.tasks.errors import TaskError, explain, shown


def is_file(reference: str) -> bool:
    """Whether what the user typed means a file, ``my_task.py`` or ``my_task.py:name``."""
    return ".py" in (Path(reference).suffix, Path(reference.rpartition(":")[0]).suffix)


def parse(reference: str) -> tuple[Path, str | None]:
    """The file in ``my_task.py`` or ``my_task.py:name``, and the name, if there is one."""
    file, _, name = reference.rpartition(":")
    if Path(file).suffix == ".py":
        return Path(file), name
    return Path(reference), None


def load(reference: str) -> Workload:
    """The workload in a user's file.

    That is what the reference names: an object, a class or a function without arguments. Without a name,
    it is the only object with a workload's methods in the file, else the only class.

    Args:
        reference: ``my_task.py`` or ``my_task.py:name``.

    Raises:
        TaskError: there is no such file, it cannot be imported, or it has no workload, or one that lacks
            something.
    """
    file, name = parse(reference)
    module = imported(file)
    found = _named(module, name, file) if name is not None else _only(module, file)
    if _is_workload(found) and not isinstance(found, type):
        return check(found, file)
    if not callable(found):
        lacking = ", ".join(missing_methods(found))
        raise TaskError(f"{shown(file)}: {name} is {brief(found)}, not a workload: it lacks {lacking}")
    return check(_made(found, file), file)


def imported(file: Path) -> ModuleType:
    """The file as a module of a private name, whose content travels to worker processes by value.

    Raises:
        TaskError: there is no such file, or it cannot be imported; the message says where.
    """
    if not file.is_file():
        raise TaskError(
            f"no file {str(file)!r}; thalweg new-task {shlex.quote(str(file))} writes one to start from"
        )
    name = modules.name_of(file)
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise TaskError(f"{shown(file)} is not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    if of := package(file):
        # Its private name lies in none, which Python would warn of.
        module.__package__, module.__spec__ = of, None
    before = set(sys.modules)
    sys.modules[name] = module
    make_importable(file)
    try:
        with alone(file, importing=True):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(explain(error, file)) from error
    _brought[str(file.resolve())] = set(sys.modules) - before - {name}
    cloudpickle.register_pickle_by_value(module)
    make_sendable()
    modules.make_findable(file)
    return module


_brought: dict[str, set[str]] = {}
"""What the import of each file has brought into `sys.modules`."""


def listed_modules(file: Path) -> list[str]:
    """The modules that lie outside of Python's folders and that the import of a file has brought with it."""
    found = []
    for name in _brought.get(str(file.resolve()), ()):
        origin = getattr(sys.modules.get(name), "__file__", None)
        if origin and not {"site-packages", "dist-packages"} & set(Path(origin).parts):
            found.append(name)
    return sorted(found)


def neighbours(file: Path | None) -> dict[Path, str]:
    """The files of these modules, each with a digest of its program."""
    found = (sys.modules[name].__file__ for name in (listed_modules(file) if file else ()))
    return {Path(name): program_of(Path(name)) for name in found if name is not None}


def program_of(path: Path) -> str:
    """A digest of the program in a file, of which comments and layout are no part; "" if it is not there."""
    try:
        text = path.read_bytes()
        text = ast.dump(ast.parse(text)).encode()
    except OSError:
        return ""
    except (SyntaxError, ValueError):
        pass
    return hashlib.sha256(text).hexdigest()


def _named(module: ModuleType, name: str, file: Path) -> Any:
    if not hasattr(module, name):
        known = ", ".join(_candidates(module)) or "none"
        raise TaskError(f"{shown(file)} defines no {name!r}; workloads in it: {known}")
    return getattr(module, name)


def _only(module: ModuleType, file: Path) -> Any:
    """The only object with a workload's methods, else the only class."""
    found = _candidates(module)
    objects = {name: value for name, value in found.items() if not isinstance(value, type)}
    chosen = objects or found
    if len(chosen) == 1:
        return next(iter(chosen.values()))
    if chosen:
        raise TaskError(
            f"{shown(file)} defines several workloads: {', '.join(chosen)}; "
            f"name one: {shown(file)}:{next(iter(chosen))}"
        )
    partial = [
        f"class {name} lacks {', '.join(missing_methods(value))}"
        for name, value in _classes(module).items()
        if len(missing_methods(value)) < len(METHODS)
    ]
    raise TaskError(
        f"{shown(file)} defines no workload, which has the methods {', '.join(METHODS)}"
        + (f": {'; '.join(partial)}" if partial else "")
    )


def _candidates(module: ModuleType) -> dict[str, Any]:
    """Objects that can be workloads, each once, and classes made here of which no other is derived."""
    objects = {
        id(value): (name, value)
        for name, value in reversed(vars(module).items())
        if not isinstance(value, type | ModuleType) and not name.startswith("__") and _is_workload(value)
    }
    classes = {name: value for name, value in _classes(module).items() if _is_workload(value)}
    leaves = {
        name: value
        for name, value in classes.items()
        if not any(other is not value and issubclass(other, value) for other in classes.values())
    }
    return {**dict(reversed(objects.values())), **leaves}


def _classes(module: ModuleType) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }


def _is_workload(value: Any) -> bool:
    return not missing_methods(value)


def _made(maker: Callable[..., Any], file: Path) -> Any:
    """What a class or a function gives when it is called."""
    name = getattr(maker, "__name__", repr(maker))
    if not takes(maker, 0):
        raise TaskError(f"{shown(file)}: {name} needs arguments; name a function without any that makes it")
    try:
        with alone(file, importing=True):
            made = maker()
    except (Exception, SystemExit) as error:
        raise TaskError(explain(error, file)) from error
    if made is None:
        raise TaskError(f"{shown(file)}: {name}() returned None, not a workload")
    return made
