"""A user's own workload: found in a plain Python file, checked, tried out, its errors told in its own terms.

`load` finds it, `check` looks at its attributes, `smoke` trains it for one batch, so that a mistake costs
seconds and not the hour after which it would show. `explain` says where in the user's file an error arose.
"""

import copyreg
import functools
import importlib.util
import inspect
import math
import os
import pickle
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.lab.spaces import Space
from thalweg.lab.workload import Evaluation, Split, Workload

METHODS: Mapping[str, tuple[str, ...]] = {
    "model": ("seed",),
    "batches": ("seed",),
    "loss": ("model", "batch"),
    "evaluate": ("model", "split"),
}
"""What a workload must be able to do, and what it is given."""

COUNTING_SECONDS = 1.0
"""How long `smoke` goes on drawing batches to see whether there are enough."""

SEED = 0


class TaskError(ValueError):
    """A user's file, or the workload in it, is not what it must be; the message says where and why."""


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
    module = _imported(file)
    found = _named(module, name, file) if name is not None else _only(module, file)
    if _is_workload(found) and not isinstance(found, type):
        return check(found, file)
    if not callable(found):
        lacking = ", ".join(_lacking(found))
        raise TaskError(f"{shown(file)}: {name} is {_brief(found)}, not a workload: it lacks {lacking}")
    return check(_made(found, file), file)


def make_importable(file: Path) -> None:
    """Lets the file import its neighbours, as it can when Python runs it."""
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)


def check(workload: Any, file: Path | None = None) -> Workload:
    """The same object, once all of its attributes are found to be what they must be.

    Optional attributes that it lacks are set to their defaults; `name` defaults to that of the file or class.

    Args:
        workload: an object with the attributes and methods of `thalweg.lab.workload.Workload`.
        file: the user's file that it comes from, if one.

    Raises:
        TaskError: one of them is missing or has a value that is not allowed.
    """
    where = shown(file) if file else type(workload).__name__
    if isinstance(workload, type):
        raise TaskError(
            f"{where}: {workload.__name__} is a class; give an object of it: {workload.__name__}()"
        )
    if missing := _lacking(workload):
        raise TaskError(f"{where}: {type(workload).__name__} lacks {', '.join(missing)}")
    for method, arguments in METHODS.items():
        if not _takes(getattr(workload, method), len(arguments)):
            raise TaskError(f"{_place(workload, method)}: it must take ({', '.join(arguments)})")
    _complete(workload, file.stem if file else type(workload).__name__.lower())
    for name, (allowed, is_allowed) in _ATTRIBUTES.items():
        value = getattr(workload, name, _ABSENT)
        if value is _ABSENT:
            raise TaskError(f"{where}: {type(workload).__name__} lacks {name}: {allowed}")
        if not is_allowed(value):
            raise TaskError(f"{where}: {name} must be {allowed}, not {_brief(value)}")
    checked: Workload = workload
    return checked


def smoke(workload: Workload, file: Path | None = None, device: torch.device | str = "cpu") -> None:
    """Tries a copy of the workload, as a worker process would get it: one batch, and both evaluations.

    Nothing is learned, so no result of the test split is used.

    Args:
        workload: one that has passed `check`.
        file: the user's file that it comes from, if one; its errors are then explained.
        device: where to try it.

    Raises:
        TaskError: training could not work; the message says where and why.
    """
    try:
        _dry_run(_sent(workload, file), torch.device(device))
    except TaskError:
        raise
    except Exception as error:
        if file is None:
            raise
        raise TaskError(explain(error, file)) from error


def explain(error: BaseException, file: Path) -> str:
    """One line: the last place in the user's file that an error went through, and the error.

    For example ``my_task.py:42, in loss: RuntimeError: ...``. An error that did not go through the file is
    placed where it arose.
    """
    text = f"{type(error).__name__}: {_message(error)}".removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename and _same(error.filename, file):
        return f"{shown(file)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return f"{shown(file)}: {text}"
    own = [(code, line) for code, line in frames if _same(code.co_filename, file)]
    code, line = (own or frames)[-1]
    path = shown(file) if own else code.co_filename
    function = "" if code.co_name == "<module>" else f", in {code.co_name}"
    return f"{path}:{line}{function}: {text}"


def shown(file: Path) -> str:
    """The file as a user would type it: relative where it lies below the current folder."""
    resolved = file.resolve()
    return str(resolved.relative_to(Path.cwd()) if resolved.is_relative_to(Path.cwd()) else resolved)


def _message(error: BaseException) -> str:
    return " ".join(str(error).split())


def _same(filename: str, file: Path) -> bool:
    return os.path.realpath(filename) == str(file.resolve())


# Finding


def _imported(file: Path) -> ModuleType:
    """The file as a module of a private name, whose content travels to worker processes by value."""
    if not file.is_file():
        raise TaskError(f"no file {str(file)!r}; thalweg new-task {file} writes one to start from")
    name = f"_thalweg_task_{re.sub(r'[^0-9A-Za-z_]', '_', file.stem)}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    if spec is None or spec.loader is None:
        raise TaskError(f"{shown(file)} is not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    make_importable(file)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(explain(error, file)) from error
    cloudpickle.register_pickle_by_value(module)
    copyreg.pickle(_Cached, _reduce_cached)
    return module


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
        f"class {name} lacks {', '.join(_lacking(value))}"
        for name, value in _classes(module).items()
        if len(_lacking(value)) < len(METHODS)
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
    return not _lacking(value)


def _lacking(value: Any) -> list[str]:
    """The methods that an object or class does not have, or only as the contract's empty ones."""
    return [
        name
        for name in METHODS
        if not callable(method := getattr(value, name, None))
        or getattr(method, "__func__", method) is getattr(Workload, name)
    ]


def _made(maker: Callable[..., Any], file: Path) -> Any:
    """What a class or a function gives when it is called."""
    name = getattr(maker, "__name__", repr(maker))
    if not _takes(maker, 0):
        raise TaskError(f"{shown(file)}: {name} needs arguments; name a function without any that makes it")
    try:
        made = maker()
    except (Exception, SystemExit) as error:
        raise TaskError(explain(error, file)) from error
    if made is None:
        raise TaskError(f"{shown(file)}: {name}() returned None, not a workload")
    return made


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it does not say
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


# Checking


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


_ABSENT = object()

_ATTRIBUTES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text of letters, digits, spaces and . + - _", _is_name),
    "steps": ("a whole number (int) of at least 1", _is_count),
    "evaluate_every": ("a whole number (int) of at least 1", _is_count),
    "batch_size": ("a whole number (int) of at least 1", _is_count),
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
    "facts": ("a method without arguments", lambda value: callable(value) and _takes(value, 0)),
}
"""What each attribute must be, in words and as a test."""


def _complete(workload: Any, name: str) -> None:
    """Sets the optional attributes that an object lacks, as deriving from `Workload` would."""
    defaults = {key: getattr(Workload, key) for key in _ATTRIBUTES if hasattr(Workload, key)}
    for key, value in {**defaults, "name": name, "facts": dict}.items():
        if not hasattr(workload, key):
            try:
                setattr(workload, key, value)
            except AttributeError:
                kind = type(workload).__name__
                raise TaskError(f"{kind} lacks {key}; derive it from thalweg.lab.workload.Workload") from None


def _brief(value: Any) -> str:
    """A value and its type, short."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _place(workload: Any, method: str) -> str:
    """Where a method of the workload is written: ``my_task.py:42, in loss``."""
    function = inspect.unwrap(getattr(workload, method))
    code = getattr(function, "__code__", None)
    if code is None or not Path(code.co_filename).is_file():
        return f"{type(workload).__name__}.{method}"
    return f"{shown(Path(code.co_filename))}:{code.co_firstlineno}, in {method}"


# Trying


def _sent(workload: Workload, file: Path | None) -> Workload:
    """A copy that has gone the way to a worker process, where the user's file is not imported."""
    where = shown(file) if file else type(workload).__name__
    try:
        content = cloudpickle.dumps(workload)
    except Exception as error:
        raise TaskError(
            f"{where}: the workload cannot be sent to worker processes: {_message(error)}"
        ) from error
    hidden = {name: module for name, module in sys.modules.items() if name.startswith("_thalweg_task_")}
    for name in hidden:
        del sys.modules[name]
    try:
        copy: Workload = pickle.loads(content)
    except Exception as error:
        reason = f"{type(error).__name__}: {_message(error)}"
        raise TaskError(f"{where}: worker processes cannot rebuild the workload: {reason}") from error
    finally:
        sys.modules.update(hidden)
    return copy


def _dry_run(workload: Workload, device: torch.device) -> None:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = _model(workload).to(device)
        batch = _first_batch(workload)
        _backward(workload, model, tree_map(lambda value: _moved(value, device), batch))
        for split in ("validation", "test"):
            _evaluate(workload, model, split)
        _count(workload)


def _model(workload: Workload) -> nn.Module:
    first, second = (_seeded(workload.model) for _ in range(2))
    place = _place(workload, "model")
    if not isinstance(first, nn.Module):
        raise TaskError(f"{place}: it returned {_brief(first)}, not a torch.nn.Module")
    if not any(parameter.requires_grad for parameter in first.parameters()):
        raise TaskError(f"{place}: the model has no parameters to train")
    if not _equal(list(first.state_dict().values()), list(second.state_dict().values())):
        raise TaskError(f"{place}: equal seeds gave different weights; draw them from torch or from `seed`")
    return first


def _first_batch(workload: Workload) -> Any:
    first, second = (next(_iterate(workload), _ABSENT) for _ in range(2))
    place = _place(workload, "batches")
    if first is _ABSENT:
        raise TaskError(f"{place}: it gave no batch")
    if not _equal(first, second):
        raise TaskError(f"{place}: equal seeds gave different first batches; draw their order from `seed`")
    return first


def _backward(workload: Workload, model: nn.Module, batch: Any) -> None:
    torch.manual_seed(SEED)
    loss = workload.loss(model.train(), batch)
    place = _place(workload, "loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else _brief(loss)
        raise TaskError(f"{place}: it returned {what}, not a scalar tensor")
    if not loss.requires_grad:
        raise TaskError(f"{place}: the loss cannot be differentiated: it was detached or made anew")
    if not math.isfinite(loss.item()):
        raise TaskError(f"{place}: the loss before training is {loss.item()}")
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if not gradients:
        raise TaskError(f"{place}: the loss does not depend on the model's parameters")
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise TaskError(f"{place}: a gradient before training is not finite")


def _evaluate(workload: Workload, model: nn.Module, split: Split) -> None:
    with torch.no_grad():
        evaluation = workload.evaluate(model.eval(), split)
    place = f"{_place(workload, 'evaluate')} on {split}"
    if not isinstance(evaluation, Evaluation):
        raise TaskError(f"{place}: it returned {_brief(evaluation)}; return Evaluation(metric=..., loss=...)")
    for name, value in evaluation._asdict().items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TaskError(f"{place}: {name} is {_brief(value)}, not a float")
        if not math.isfinite(value):
            raise TaskError(f"{place}: {name} is {value} before training")


def _count(workload: Workload) -> None:
    """Draws batches until there are enough or a second is over."""
    deadline = time.monotonic() + COUNTING_SECONDS
    drawn = 0
    for _ in islice(_iterate(workload), workload.steps):
        drawn += 1
        if time.monotonic() > deadline:
            return
    if drawn < workload.steps:
        raise TaskError(
            f"{_place(workload, 'batches')}: it gave {drawn} batches, but steps is {workload.steps}; "
            "begin anew when the data are used up"
        )


def _iterate(workload: Workload) -> Iterator[Any]:
    batches = _seeded(workload.batches)
    try:
        return iter(batches)
    except TypeError:
        place = _place(workload, "batches")
        raise TaskError(f"{place}: it returned {_brief(batches)}, which gives no batches") from None


def _seeded(function: Callable[[int], Any]) -> Any:
    torch.manual_seed(SEED)
    return function(SEED)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _equal(first: Any, second: Any) -> bool:
    """Whether two batches hold the same numbers; what is neither number nor text is not compared."""
    ours, theirs = tree_flatten(first)[0], tree_flatten(second)[0]
    return len(ours) == len(theirs) and all(map(_same_leaf, ours, theirs))


def _same_leaf(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.is_sparse or first.is_nested or first.is_quantized:
            return True
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        return bool(((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, np.ndarray) and first.dtype.kind in "biufc":
        return np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")
    if isinstance(first, int | float | str | bytes):
        return first == second or first != first
    return True


# Functions in a user's file that are cached by functools. Pickle sends them as a name to be imported, which
# worker processes cannot do. They are sent as an empty cache that is then given its function, in two steps
# because a recursive function refers to its own cache.

_Cached = type(functools.cache(lambda: None))


def _reduce_cached(cached: Any) -> Any:
    if not cached.__module__.startswith("_thalweg_task_"):
        return cached.__qualname__
    parameters = cached.cache_parameters()
    return (
        _empty_cache,
        (parameters["maxsize"], parameters["typed"]),
        cached.__wrapped__,
        None,
        None,
        _fill_cache,
    )


def _empty_cache(maxsize: int | None, typed: bool) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return forward.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    return functools.lru_cache(maxsize, typed)(forward)


def _fill_cache(cached: Any, function: Callable[..., Any]) -> None:
    functools.update_wrapper(cached.__wrapped__, function)
