"""What a workload must have, checked before anything is done with it."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.lab.spaces import Recipe, Space
from thalweg.lab.workload.contract import OPTIONS, Workload, option
from thalweg.lab.workload.tasks.errors import TaskError, shown

METHODS: Mapping[str, tuple[str, ...]] = {
    "model": ("seed",),
    "batches": ("seed",),
    "loss": ("model", "batch"),
    "evaluate": ("model", "split"),
}
"""What a workload must be able to do, and what it is given."""


OWN: Mapping[str, tuple[str, ...]] = {
    "param_groups": ("model", "settings"),
    "training_step": ("run", "batch"),
    "training_loop": ("run",),
    "whole_run": ("config",),
    "further": ("model", "split"),
}
"""What a workload may do by itself, likewise."""


def check(workload: Any, file: Path | None = None) -> Workload:
    """The same object, once all of its attributes are found to be what they must be.

    Optional attributes that it lacks are set to their defaults; `name` defaults to that of the file or class.

    Args:
        workload: an object with the attributes and methods of `thalweg.lab.workload.Workload`.
        file: the user's file that it comes from, if one.

    Raises:
        TaskError: one of them is missing or has a value that is not allowed.
    """
    if isinstance(workload, type):
        name = workload.__name__
        raise TaskError(f"{name} is a class; give an object of it: {name}()")
    where = shown(file) if file else type(workload).__name__
    if missing := missing_methods(workload):
        raise TaskError(f"{where}: {type(workload).__name__} lacks {', '.join(missing)}")
    for method, arguments in {**METHODS, **OWN}.items():
        if callable(getattr(workload, method, None)) and not takes(getattr(workload, method), len(arguments)):
            raise TaskError(f"{place_of(workload, method)}: it must take ({', '.join(arguments)})")
    _complete(workload, _allowed(file.stem) if file else type(workload).__name__.lower())
    for name, (allowed, is_allowed) in ATTRIBUTES.items():
        value = getattr(workload, name, ABSENT)
        if value is ABSENT:
            raise TaskError(f"{where}: {type(workload).__name__} lacks {name}: {allowed}")
        if not is_allowed(value):
            raise TaskError(f"{where}: {name} must be {allowed}, not {brief(value)}")
    for name, (allowed, is_allowed) in ALLOWED_OPTIONS.items():
        if not is_allowed(value := option(workload, name)):
            raise TaskError(f"{where}: {name} must be {allowed}, not {brief(value)}")
    _fitting(workload, where)
    checked: Workload = workload
    return checked


def _fitting(workload: Any, where: str) -> None:
    """Sees whether options agree with each other."""
    own = [
        name for name in ("training_step", "training_loop", "whole_run") if option(workload, name) is not None
    ]
    if len(own) > 1:
        raise TaskError(f"{where}: it has {' and '.join(own)}; one of them trains")
    if own and option(workload, "accumulate") > 1:
        raise TaskError(f"{where}: accumulate has no effect beside {own[0]}, which takes its steps itself")


def missing_methods(value: Any) -> list[str]:
    """The methods that an object or class does not have, or only as the contract's empty ones.

    A training step of its own takes the place of `loss`, and a loop that of `batches` too.
    """
    spared: tuple[str, ...] = ("loss",) if callable(getattr(value, "training_step", None)) else ()
    if callable(getattr(value, "training_loop", None)):
        spared = ("loss", "batches")
    if callable(getattr(value, "whole_run", None)):
        spared = tuple(METHODS)
    return [
        name
        for name in METHODS
        if name not in spared
        and (
            not callable(method := getattr(value, name, None))
            or getattr(method, "__func__", method) is getattr(Workload, name)
        )
    ]


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it does not say
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _complete(workload: Any, name: str) -> None:
    """Sets the optional attributes that an object lacks, as deriving from `Workload` would."""
    defaults = {key: getattr(Workload, key) for key in ATTRIBUTES if hasattr(Workload, key)}
    for key, value in {**defaults, "name": name, "facts": dict}.items():
        if not hasattr(workload, key):
            try:
                setattr(workload, key, value)
            except AttributeError:
                kind = type(workload).__name__
                raise TaskError(f"{kind} lacks {key}; derive it from thalweg.lab.workload.Workload") from None


def brief(value: Any) -> str:
    """A value and its type, short."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def place_of(workload: Any, method: str) -> str:
    """Where a method of the workload is written: ``my_task.py:42, in loss``."""
    function = inspect.unwrap(getattr(workload, method))
    code = getattr(function, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return f"{type(workload).__name__}.{method}"
    return f"{shown(Path(code.co_filename))}:{code.co_firstlineno}, in {method}"


def _allowed(stem: str) -> str:
    """A name like that of a file, of such signs as a name may have."""
    name = re.sub(r"[^\w .+-]", "-", stem)
    return name if re.match(r"\w", name) else f"task{name}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[\w .+-]*", value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_spaces(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and all(isinstance(space, Space) for space in value)
        and len({space.name for space in value}) == len(value)
    )


ABSENT = object()


COUNTS = ("steps", "batch_size", "evaluate_every")
"""Attributes that are whole numbers of at least 1 and have no default."""


ATTRIBUTES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text of letters, digits, spaces and . + - _", _is_name),
    **dict.fromkeys(COUNTS, ("a whole number (int) of at least 1", _is_count)),
    "title": ("a text", _is_text),
    "metric": ("a text that is not empty", lambda value: _is_text(value) and value.strip() != ""),
    "unit": ("a text, '%' or ''", _is_text),
    "difference_unit": ("a text", _is_text),
    "higher_is_better": ("True or False", lambda value: isinstance(value, bool)),
    "margin": (
        "None or a number of at least 0",
        lambda value: value is None or (_is_number(value) and value >= 0),
    ),
    "target": ("None or a number", lambda value: value is None or _is_number(value)),
    "clip_norm": (
        "None or a number above 0",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    "spaces": ("a list of thalweg.lab.spaces.Space with different names", _are_spaces),
    "facts": ("a method without arguments", lambda value: callable(value) and takes(value, 0)),
}
"""What each attribute must be, in words and as a test."""


def _is_schedule(value: Any) -> bool:
    return (callable(value) and takes(value, 1)) or (
        value is None or (isinstance(value, str) and value in ("linear", "cosine", "constant"))
    )


def _are_recipes(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and all(isinstance(recipe, Recipe) and _is_name(recipe.name) for recipe in value)
        and len({recipe.name for recipe in value}) == len(value)
    )


ALLOWED_OPTIONS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "schedule": (
        "'linear', 'cosine', 'constant', None or a method (optimizer) that makes a scheduler",
        _is_schedule,
    ),
    "accumulate": ("a whole number (int) of at least 1", _is_count),
    "until_loss": (
        "None or a number above 0",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    "autocast": (
        "None, 'bfloat16' or 'float16'",
        lambda value: value is None or (isinstance(value, str) and value in ("bfloat16", "float16")),
    ),
    "processes": ("a whole number (int) of at least 1", _is_count),
    "recipes": ("a list of thalweg.lab.Recipe with different names", _are_recipes),
    **dict.fromkeys(OWN, ("a method or None", lambda value: value is None or callable(value))),
}
"""The same of `OPTIONS`, which most workloads leave alone."""

assert ALLOWED_OPTIONS.keys() == OPTIONS.keys()
