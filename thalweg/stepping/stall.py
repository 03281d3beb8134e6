"""A look at the first step: does the learning rate move weights of 16 bits at all?

bfloat16 has 8 significant bits and float16 has 11: a step below half a spacing, 0.2 to 0.4 % of a bfloat16
weight, is rounded away, and so is every later one. What a step is to its weight depends on the rule, the
gradients and the weights, so it is seen on the weights themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.distributed.parts import part_of
from thalweg.lowering.gpu import tables as cuda
from thalweg.storage.codecs.plain import dtype_name
from thalweg.storage.layout import has_memory

SAMPLE = 1024
"""Weights of each parameter that are looked at, the first ones in memory."""

MOST_LOST = 0.5
"""The share of steps that may be rounded away without a warning. A momentum's first steps are short."""


LOOKS = 10
"""Steps after which a group is given up whose gradients are all missing or zero."""


class _Seen(NamedTuple):
    param: Tensor
    before: Tensor
    pulled: Tensor


class FirstSteps:
    """Looks at the first step of each group that has 16-bit weights rounded to nearest."""

    def __init__(self) -> None:
        self._done: set[int] = set()
        self._looked = 0

    def before(self, groups: Sequence[Mapping[str, Any]]) -> dict[int, list[_Seen]]:
        """Remember some weights of the groups that are stepped for the first time."""
        if len(self._done) == len(groups):
            return {}
        left = [index for index in range(len(groups)) if index not in self._done]
        wanted = [index for index in left if _may_lose(groups[index])]
        self._done.update(set(left) - set(wanted))
        if not wanted or _any_is_captured(groups):
            return {}
        self._looked += 1
        found = {}
        for index in wanted:
            seen = _look(groups[index]["params"])
            if seen:
                found[index] = seen
            if seen or self._looked >= LOOKS:
                self._done.add(index)
        return found

    def is_done(self, groups: Sequence[Mapping[str, Any]]) -> bool:
        """Say whether there is nothing more to look at."""
        return len(self._done) == len(groups)

    def again(self, found: Mapping[int, list[_Seen]]) -> None:
        """Look again at the next step: this one was not taken."""
        self._done -= found.keys()

    def after(self, groups: Sequence[Mapping[str, Any]], found: Mapping[int, list[_Seen]]) -> None:
        """Warn of the groups most of whose remembered weights should have moved and have not."""
        for index, seen in found.items():
            pulled = sum(int(one.pulled.sum()) for one in seen)
            stuck = sum(int((one.pulled & (_sample(one.param) == one.before)).sum()) for one in seen)
            if stuck > MOST_LOST * pulled and groups[index]["lr"] != 0:
                _warn(index, groups[index], stuck / pulled, seen[0].before.dtype)


def _may_lose(group: Mapping[str, Any]) -> bool:
    """Say whether a group has 16-bit weights that are rounded to nearest."""
    return not group.get("weight_bits") and any(map(_is_half, group["params"]))


def _any_is_captured(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a graph is being captured: nothing can be looked at then."""
    devices = {param.device for group in groups for param in group["params"]}
    return any(map(cuda.is_capturing, devices))


def _look(params: Sequence[Tensor]) -> list[_Seen]:
    found = []
    for whole in params:
        param: Tensor = part_of(whole)
        grad = None if whole.grad is None else part_of(whole.grad)
        if not _is_half(whole) or grad is None or not (param.is_contiguous() and _is_dense(grad)):
            continue
        pulled = _sample(grad) != 0
        if pulled.any():
            found.append(_Seen(param, _sample(param).clone(), pulled))
    return found


def _is_half(param: Tensor) -> bool:
    return param.dtype in (torch.bfloat16, torch.float16) and has_memory(part_of(param))


def _is_dense(grad: Tensor) -> bool:
    return grad.layout == torch.strided and grad.is_contiguous()


def _sample(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)[:SAMPLE]


def _warn(index: int, group: Mapping[str, Any], stuck: float, dtype: torch.dtype) -> None:
    name = dtype_name(dtype)
    warnings.warn(
        f"the first step of parameter group {index}, with lr={float(group['lr']):g}, was rounded away in "
        f"{stuck:.0%} of its {name} weights; weight_bits=16, 24 or 32 keeps such steps",
        stacklevel=2,
    )
