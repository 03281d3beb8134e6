"""Parameters whose options are the same are one group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from thalweg.optimizer.groups.params import Param


@dataclass(frozen=True)
class Assigned:
    """A parameter with the options of its group, and why it has them."""

    param: Param
    options: dict[str, Any]
    reason: str


@dataclass
class Group:
    """Parameters with the options that they have in common."""

    options: dict[str, Any]
    members: list[Assigned] = field(default_factory=list)


def put(groups: list[Group], assigned: Assigned) -> None:
    """Put a parameter into the group with its options, which may be a new one at the end."""
    for group in groups:
        if _alike(group.options, assigned.options):
            group.members.append(assigned)
            return
    groups.append(Group(assigned.options, [assigned]))


def _alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(_is_same(value, b[key]) for key, value in a.items())


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    # Tensors are changed in place, so equal ones are one group's only if they are one tensor.
    if any(isinstance(value, Tensor) for side in (a, b) for value in _flat(side)):
        return isinstance(a, (tuple, list)) and type(a) is type(b) and _all_same(a, b)
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False


def _flat(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _all_same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(_is_same(x, y) for x, y in zip(a, b, strict=True))
