"""How comparisons were told apart before what a record depends on was looked at as a whole.

Studies of that time go on under the names that they have; a changed module beside a task was not seen.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lab.spaces import Space
from thalweg.lab.workload import Workload


def fingerprint(workload: Workload, file: Path | None, spaces: Sequence[Space], spent: Sequence[Any]) -> str:
    """Twelve hexadecimal digits, in part of a study's name."""
    parts = {
        "thalweg": "0.1.0",
        "torch": torch.__version__,
        "workload": workload.name,
        "source": [_source(workload, file), dict(workload.facts())],
        "object": [type(workload).__qualname__, _state(workload)],
        "steps": [workload.steps, workload.evaluate_every, workload.batch_size, workload.clip_norm],
        "spaces": [
            [
                space.name,
                space.optimizer,
                [repr(axis) for axis in space.axes],
                repr(space.fixed),
                *_more(space),
            ]
            for space in spaces
        ],
        "spent": list(spent),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _more(space: Space) -> list[Any]:
    """What a recipe or a class from a notebook adds; nothing for spaces as they mostly are."""
    changes = [f"{key}={_digest(value)}" for key, value in sorted(space.changes.items())]
    source = []
    with suppress(OSError, TypeError):
        source = [inspect.getsource(space.maker)] if space.maker is not None else []
    return [*changes, *source, *([space.closure] if space.closure is not None else [])]


def _state(workload: Workload) -> dict[str, str]:
    """What tells an object from others of its class, by attribute.

    What is computed when it is first asked for is left out, and so is what has no value to compare.
    """
    attributes: dict[str, Any] = getattr(workload, "__dict__", {})
    return {
        name: _digest(value)
        for name, value in sorted(attributes.items())
        if not isinstance(getattr(type(workload), name, None), cached_property)
    }


def _digest(value: Any) -> str:
    """Equal for equal values, on every machine: of numbers, texts, arrays, and of what holds them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.numpy() if value.dtype != torch.bfloat16 else value.float().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_digest(key)}: {_digest(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_digest, value))}]"
    if isinstance(value, set | frozenset):
        return f"set {sorted(map(_digest, value))}"
    if value is None or isinstance(value, str | bytes | int | float | complex | PurePath | np.generic):
        return repr(value)
    return type(value).__qualname__


def _source(workload: Workload, file: Path | None) -> str:
    """The text that a workload comes from or, where there is none to be found, nothing."""
    if file is not None:
        return file.read_text(encoding="utf-8")
    text = ""
    for kind in type(workload).__mro__:
        with suppress(OSError, TypeError):
            text += inspect.getsource(kind) if kind is not Workload else ""
    return text
