"""Digests of values: equal for equal values, on every machine and in every process."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.lab.comparing.sources import program

MOST_BYTES = 1 << 28
"""Files up to this size are read as a whole; of larger ones size and time of the last change count."""

MOST_FILES = 10_000
"""Of a folder with more files, nothing is known."""

MOST_DEPTH = 40


class Digests:
    """Digests of values, with a list of those of which nothing can be known."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self._within: list[int] = []

    def of(self, value: Any, name: str) -> str:
        """A digest; `name` is what the value is called should nothing be known of it."""
        return hashlib.sha256(self._text(value, name).encode()).hexdigest()[:16]

    def _text(self, value: Any, name: str) -> str:
        if value is None or isinstance(value, bool | int | float | complex | bytes | np.generic):
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, str | PurePath):
            return f"{value!r}{_file(value, self.unknown)}"
        if id(value) in self._within:
            return f"what is {len(self._within) - self._within.index(id(value))} above"
        if len(self._within) > MOST_DEPTH:
            self.unknown.append(name)
            return "deep"
        self._within.append(id(value))
        try:
            return self._made_of(value, name)
        finally:
            self._within.pop()

    def _made_of(self, value: Any, name: str) -> str:
        if isinstance(value, Tensor | np.ndarray) and (data := _data(value)) is not None:
            return data
        if isinstance(value, Mapping):
            pairs = [f"{self._text(key, name)}: {self._text(item, name)}" for key, item in value.items()]
            return f"{type(value).__name__} {pairs}"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__} {[self._text(item, name) for item in value]}"
        if isinstance(value, set | frozenset):
            return f"{type(value).__name__} {sorted(self._text(item, name) for item in value)}"
        if isinstance(value, torch.Generator):
            return f"generator {_data(value.get_state())}"
        if isinstance(value, type | ModuleType):
            return f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', value.__name__)}"
        if isinstance(value, FunctionType | MethodType):
            return self._function(value, name)
        return self._object(value, name)

    def _function(self, value: Any, name: str) -> str:
        function = getattr(value, "__func__", value)
        held = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        owner = getattr(value, "__self__", None)
        code = function.__code__
        # Of two lambdas on a line the source is the same.
        constants = [c for c in code.co_consts if isinstance(c, str | int | float) and c != function.__doc__]
        text = f"{code.co_names} {constants}"
        try:
            text += program(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            text += code.co_code.hex()
        return f"{function.__qualname__} {text} {self._text([function.__defaults__, held, owner], name)}"

    def _object(self, value: Any, name: str) -> str:
        """What pickle would keep of an object."""
        kind = type(value)
        if kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__:
            state = attributes(value)
            if state is not None:
                pairs = [f"{key}: {self._text(item, f'{name}.{key}')}" for key, item in state.items()]
                return f"{kind.__qualname__} {pairs} {self._items(value, name)}"
        try:
            parts = value.__reduce_ex__(4)
        except Exception:
            self.unknown.append(name)
            return kind.__qualname__
        if isinstance(parts, str):
            return f"{kind.__qualname__} {parts}"
        held = [list(part) if hasattr(part, "__next__") else part for part in parts]
        return f"{kind.__qualname__} {[self._text(part, name) for part in held]}"

    def _items(self, value: Any, name: str) -> str:
        if isinstance(value, dict):
            return self._text(dict(value), name)
        return self._text(list(value), name) if isinstance(value, list | tuple) else ""


def attributes(value: Any) -> dict[str, Any] | None:
    """The attributes of an object by name, without those that are computed when they are first asked for."""
    held: dict[str, Any] = getattr(value, "__dict__", {})
    slots = [s for kind in type(value).__mro__ for s in _slots(kind) if hasattr(value, s)]
    if not hasattr(value, "__dict__") and not slots:
        return None
    lazy = {name for name in held if isinstance(getattr(type(value), name, None), cached_property)}
    return {
        **{name: item for name, item in sorted(held.items()) if name not in lazy},
        **{name: getattr(value, name) for name in slots},
    }


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    named = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in named if not name.startswith("__")]


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _data(value: Any) -> str | None:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return None
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        data: Any = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    if value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {value.tolist()!r}" if value.size < 10_000 else None
    return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"


def _file(value: Any, unknown: list[str]) -> str:
    """What lies where a text or a path points to, if something does."""
    text = str(value)
    if len(text) > 1000 or "\n" in text or "\0" in text or not ("/" in text or "." in text or "\\" in text):
        return ""
    path = Path(text)
    try:
        if path.is_file():
            return f" {content(path)}"
        if path.is_dir() and isinstance(value, PurePath):
            return f" {_folder(path, unknown)}"
    except OSError:
        unknown.append(f"what is in {text}")
    return ""


def content(path: Path) -> str:
    """What is in a file, or its size and when it was last changed where it is large."""
    stat = path.stat()
    if stat.st_size > MOST_BYTES:
        return f"{stat.st_size} bytes of {stat.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _folder(path: Path, unknown: list[str]) -> str:
    found = []
    for place, file in enumerate(path.rglob("*")):
        if place >= MOST_FILES:
            unknown.append(f"what is in {path}")
            return ""
        if file.is_file() and "__pycache__" not in file.parts:
            found.append(f"{file.relative_to(path)} {file.stat().st_size}")
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()[:16]


def files_named(source: Path) -> dict[str, str]:
    """The files that a program names in its texts, with what is in them: it may read them.

    They are looked for where it runs and beside it. It may as well write them, so that they are no part of
    what tells comparisons apart.
    """
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    texts = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    found = {}
    for text in sorted(texts):
        if not text.strip() or len(text) > 300 or "\n" in text or "\0" in text:
            continue
        for path in (Path(text), source.parent / text):
            try:
                if path.is_file() and path.suffix != ".py":
                    found[text] = content(path)
                    break
            except OSError:
                continue
    return found
