"""Tensors inside anything that a batch may be, moved to a device or looked at one by one."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


def moved(value: Any, device: torch.device) -> Any:
    """The same with its tensors on `device`.

    What has a method `to` moves itself, as BatchEncoding, packed sequences and graphs do; dataclasses,
    mappings and whatever torch knows as a tree are searched; all else stays as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    # What batches mostly are, without torch's search for trees.
    if type(value) in (tuple, list):
        return type(value)(moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _changed(value, {name: moved(part, device) for name, part in _parts(value).items()})
    if callable(to := getattr(value, "to", None)) and not isinstance(value, type):
        try:
            return to(device)
        except (TypeError, ValueError, RuntimeError):  # another's `to`, such as a date's
            return value
    if isinstance(value, Mapping) and not _is_tree(value):
        return _changed(value, {key: moved(part, device) for key, part in value.items()})
    if _is_tree(value):
        return tree_map(lambda leaf: moved(leaf, device), value, is_leaf=lambda part: part is not value)
    return value


def leaves(value: Any) -> Iterator[Any]:
    """The tensors, numbers and other parts of a batch that hold nothing more, in a fixed order."""
    if is_dataclass(value) and not isinstance(value, type):
        parts: Any = _parts(value).values()
    elif isinstance(value, Mapping) and not _is_tree(value):
        parts = [part for pair in value.items() for part in pair]
    elif _is_tree(value):
        parts = tree_flatten(value, is_leaf=lambda part: part is not value)[0]
    else:
        yield value
        return
    for part in parts:
        yield from leaves(part)


def numbers(gradient: Tensor) -> Tensor:
    """The numbers of a gradient: of a sparse one those that it has."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _is_tree(value: Any) -> bool:
    flat = tree_flatten(value, is_leaf=lambda part: part is not value)[0]
    return not (len(flat) == 1 and flat[0] is value)


def _parts(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}


def _changed(value: Any, parts: Mapping[Any, Any]) -> Any:
    """A copy with other parts, made without its constructor, which may check or compute."""
    new = copy.copy(value)
    for key, part in parts.items():
        if isinstance(new, Mapping):
            new[key] = part  # type: ignore[index]
        else:
            object.__setattr__(new, key, part)
    return new
