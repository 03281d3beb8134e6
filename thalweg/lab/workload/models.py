"""The model that a user names: of a task, in a file of theirs, or at a dotted path."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from thalweg.lab.workload import shipped, tasks
from thalweg.lab.workload.tasks.checking import brief, missing_methods, takes

SEED = 0
"""What a task's model is made from; its size does not depend on it."""


def find(reference: str) -> nn.Module:
    """The model of that name, newly made.

    Args:
        reference: a built-in task, whose data are not needed; ``my_task.py[:name]`` or ``my_model.py:name``;
            or ``package.module.name``. A name is that of a module, a task, or what makes one without
            arguments.

    Raises:
        ValueError: there is none, or it raised an exception; the message says where.
    """
    if tasks.is_file(reference):
        path, name = tasks.parse(reference)
        module = tasks.imported(path)
        if name is not None and not hasattr(module, name):
            raise tasks.TaskError(f"{tasks.shown(path)} defines no {name!r}")
        found = getattr(module, name) if name is not None else _only(reference)
        return _made(found, reference, path)
    if reference in shipped.WORKLOADS:
        # Made without its constructor, which loads the data: no model of ours looks at them.
        kind = shipped.kind(reference)
        return kind.__new__(kind).model(SEED)
    if "." in reference:
        return _at(reference)
    known = ", ".join(shipped.WORKLOADS)
    raise ValueError(
        f"MODEL_OR_TASK: unknown {reference!r}; choose from: {known}; or give a file, my_model.py:name, or a "
        "dotted path, package.module.name"
    )


def _only(reference: str) -> Any:
    """The only task in a file."""
    try:
        return tasks.load(reference)
    except tasks.TaskError as error:
        if "defines no workload" not in str(error):
            raise
        file = Path(reference)
        raise tasks.TaskError(
            f"{tasks.shown(file)} defines no task; name the model in it: {tasks.shown(file)}:name"
        ) from None


def _at(reference: str) -> nn.Module:
    path, _, name = reference.rpartition(".")
    tasks.make_importable(Path(reference))
    try:
        module = import_module(path)
        found = getattr(module, name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise ValueError(
                f"MODEL_OR_TASK: {reference!r}: {tasks.explain(error, Path(reference))}"
            ) from error
        raise ValueError(f"MODEL_OR_TASK: nothing at {reference!r}: {error}") from None
    except (AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"MODEL_OR_TASK: nothing at {reference!r}: {error}") from None
    except (Exception, SystemExit) as error:  # the user's own module may raise anything
        raise ValueError(f"MODEL_OR_TASK: {reference!r}: {tasks.explain(error, Path(reference))}") from error
    return _made(found, reference, Path(getattr(module, "__file__", None) or reference))


def _made(found: Any, reference: str, file: Path) -> nn.Module:
    """The model that was found, or that what was found makes."""
    if not isinstance(found, nn.Module) and callable(found):
        found = _called(found, reference, file)
    if not isinstance(found, nn.Module | type) and not missing_methods(found):
        model = found.model
        found = _called(lambda: model(SEED), reference, file)
    if isinstance(found, nn.Module):
        return found
    raise ValueError(
        f"MODEL_OR_TASK: {reference!r} is {brief(found)}, not a torch.nn.Module, a task, or what makes one"
    )


def _called(make: Callable[[], Any], reference: str, file: Path) -> Any:
    if not takes(make, 0):
        raise ValueError(
            f"MODEL_OR_TASK: {reference!r} needs arguments; name a function without any that makes the model"
        )
    try:
        return make()
    except (Exception, SystemExit) as error:
        raise ValueError(f"MODEL_OR_TASK: {reference!r}: {tasks.explain(error, file)}") from error
