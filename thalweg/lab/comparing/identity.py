"""What the records of a comparison depend on, part by part: equal parts, equal records.

A study is kept under a digest of all. By the parts it can be said why another one was begun.
"""

import hashlib
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg.lab.comparing import sources
from thalweg.lab.comparing.digests import Digests, attributes, files_named
from thalweg.lab.spaces import Space, located
from thalweg.lab.workload import Workload, switches
from thalweg.lab.workload.tasks import listed_modules

ASKED = "asked for"
"""The part that holds what was typed; whoever changes it needs not be told."""

MOST_NAMED = 4
"""Changes that are told by name."""

NUMBERS_SINCE = "0.1.0"
"""The version since which a run gives the same numbers: what was begun with it goes on in this one."""

CODES_SINCE = "0.2.0"
"""The same of runs whose optimizer's state is in int8."""


@dataclass(frozen=True)
class Identity:
    """What tells a comparison from others.

    Attributes:
        parts: a digest of each thing that the records depend on, by what it is called.
        files: files that the task's source names, and may read or write, with digests.
        unknown: of what it cannot be known whether it is the same as before.
    """

    parts: Mapping[str, str]
    files: Mapping[str, str]
    unknown: Sequence[str]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that are equal if and only if all parts are."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:12]


def identify(
    workload: Workload, file: Path | None, spaces: Sequence[Space], spent: Sequence[Any]
) -> Identity:
    """What the records of a comparison depend on, as far as it can be known.

    Args:
        workload: what is trained, before anything was done with it.
        file: the user's own that it lies in, if it does.
        spaces: the optimizers.
        spent: what was asked for beside them, as JSON's types.
    """
    digests = Digests()
    found = sources.gather([file] if file else [], _modules(workload, file, spaces))
    versions = {"thalweg": NUMBERS_SINCE, "torch": torch.__version__, "numpy": np.__version__}
    if any(_is_in_codes(space.fixed.get("state")) for space in spaces):
        versions["int8 state"] = CODES_SINCE
    parts = {
        ASKED: digests.of([workload.name, _of(spaces, digests), list(spent)], "what was asked for"),
        **{f"version of {name}": version for name, version in {**found.packages, **versions}.items()},
        **found.files,
        **_in_script(workload, spaces, found),
        **_makers(spaces, digests, found),
        "facts()": digests.of(dict(workload.facts()), "facts()"),
        "the kind of task": type(workload).__qualname__,
    }
    for name in sorted(found.variables & os.environ.keys()):
        # A digest: some are secrets, and this is kept.
        parts[f"environment variable {name}"] = digests.of(os.environ[name].encode(), name)
    parts |= {f"what is set globally ({name})": value for name, value in switches.touched().items()}
    for name in ("steps", "evaluate_every", "batch_size", "clip_norm"):
        parts[name] = repr(getattr(workload, name, None))
    for name, value in (attributes(workload) or {}).items():
        if name not in parts:
            parts[f"self.{name}"] = digests.of(value, f"self.{name}")
    for name, value in _globals(workload, file):
        parts[name] = digests.of(value, name)
    return Identity(
        parts, files_named(file) if file else {}, list(dict.fromkeys(found.unknown + digests.unknown))
    )


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between the parts of two comparisons, in words; "" if other things were asked for."""
    names = sorted({name for name in {*before, *now} if before.get(name) != now.get(name)})
    if not names or before.get(ASKED) != now.get(ASKED):
        return ""
    words = []
    for name in names:
        if name.startswith("version of ") and name in before and name in now:
            words.append(f"{name.removeprefix('version of ')} was {before[name]} and is {now[name]}")
        else:
            words.append(
                f"{name} {'is new' if name not in before else 'is gone' if name not in now else 'changed'}"
            )
    more = [f"{len(words) - MOST_NAMED} more changes"] if len(words) > MOST_NAMED else []
    return ", ".join([*words[:MOST_NAMED], *more])


def _is_in_codes(state: Any) -> bool:
    return "int8" in (state.values() if isinstance(state, Mapping) else (state,))


def _of(spaces: Sequence[Space], digests: Digests) -> list[Any]:
    return [
        [
            space.name,
            space.optimizer,
            [repr(axis) for axis in space.axes],
            digests.of(dict(space.fixed), f"fixed of {space.name}"),
            digests.of(space.arguments, f"arguments of {space.name}"),
            digests.of(dict(space.changes), f"changes of {space.name}"),
            space.closure,
        ]
        for space in spaces
    ]


def _modules(workload: Workload, file: Path | None, spaces: Sequence[Space]) -> list[str]:
    """The modules to begin with: of the task's classes, of the optimizers, and what its import brought."""
    kinds: list[Any] = [kind for kind in type(workload).__mro__ if kind is not Workload]
    kinds += _held(workload, spaces)
    for space in spaces:
        # Whoever tries the optimizers tells of one that lies nowhere.
        with suppress(ValueError):
            kinds += [] if space.maker else [located(space.optimizer)]
    own = {_module_of(kind) for kind in kinds} - {"builtins", "__main__", ""}
    names = [name for name in own if not name.startswith("_thalweg_task_")]
    return sorted({*names, *(listed_modules(file) if file else ())})


def _module_of(kind: Any) -> str:
    return str(getattr(kind, "__module__", None) or "")


def _held(workload: Workload, spaces: Sequence[Space]) -> list[Any]:
    """Functions and classes that a task and the optimizers hold: factories, schedules, whole trainings."""
    values = list((attributes(workload) or {}).values())
    for space in spaces:
        values += [space.maker, *space.fixed.values(), *space.changes.values()]
    values = [getattr(value, "__func__", value) for value in values]
    return [value for value in values if inspect.isfunction(value) or isinstance(value, type)]


def _makers(spaces: Sequence[Space], digests: Digests, found: sources.Sources) -> dict[str, str]:
    """The programs of optimizers that were given as classes or functions."""
    programs = {}
    for space in spaces:
        if isinstance(space.maker, type):
            programs[f"optimizer {space.name}"] = _source(space.maker, found)
        elif space.maker is not None:
            programs[f"optimizer {space.name}"] = digests.of(space.maker, f"optimizer {space.name}")
    return programs


def _in_script(workload: Workload, spaces: Sequence[Space], found: sources.Sources) -> dict[str, str]:
    """What lies in no module that can be read as a file: classes and functions of a notebook or a script."""
    programs = {}
    for kind in type(workload).__mro__:
        if kind in (Workload, object) or _module_of(kind) != "__main__":
            continue
        programs[f"class {kind.__name__}"] = _source(kind, found)
        programs |= _reached(kind, found)
    for value in _held(workload, spaces):
        if _module_of(value) != "__main__":
            continue
        if isinstance(value, type):
            programs[f"class {value.__name__}"] = _source(value, found)
        programs |= _reached(value, found)
    return programs


def _reached(kind: Any, found: sources.Sources) -> dict[str, str]:
    """Functions and classes of a script or a notebook that one of them uses, however far away."""
    digests, programs = Digests(), dict[str, str]()
    waiting = [kind] if inspect.isfunction(kind) else []
    waiting += [value for value in vars(kind).values() if inspect.isfunction(value)]
    while waiting:
        function = waiting.pop()
        for name in _names(function.__code__):
            value = function.__globals__.get(name)
            label = f"{name} in the script"
            if label in programs or _module_of(value) != "__main__" or value is kind:
                continue
            if inspect.isfunction(value):
                waiting.append(value)
            elif isinstance(value, type):
                waiting += [method for method in vars(value).values() if inspect.isfunction(method)]
            else:
                continue
            programs[label] = digests.of(value, label) if inspect.isfunction(value) else _source(value, found)
    return programs


def _source(kind: type, found: sources.Sources) -> str:
    try:
        return sources.program(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        found.unknown.append(f"the source of class {kind.__name__}")
        return ""


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _names(constant)


def _globals(workload: Workload, file: Path | None) -> Iterator[tuple[str, Any]]:
    """Data among the globals of a task's file: its source does not say what is in them."""
    module = sys.modules.get(_module_of(type(workload)))
    if file is None or module is None:
        return
    data = torch.Tensor | np.ndarray | Path | torch.Generator | np.random.Generator
    for name, value in sorted(vars(module).items()):
        if not name.startswith("__") and isinstance(value, data):
            yield f"{name} in {file.name}", value
