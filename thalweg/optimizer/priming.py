"""A first step that is taken for the sake of state alone, as `torch.distributed.checkpoint` takes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from thalweg.distributed.parts import groups_of, is_dtensor, part_of
from thalweg.distributed.sums import over_processes


def is_primed(groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any]) -> bool:
    """Say whether a step is only to make state: there is none, and learning rates and gradients are all zero.

    `torch.distributed.checkpoint.state_dict` has no other way to have an optimizer make its state. Processes
    that share a parameter give the same answer.

    Args:
        groups: torch's `param_groups`.
        state: torch's `state`.
    """
    if state or not all(_is_zero(group.get("lr")) for group in groups):
        return False
    params = [param for group in groups for param in group["params"] if param.grad is not None]
    if not params or torch._C._len_torch_dispatch_stack() or _is_captured(params):
        return False
    return not _is_any_nonzero(params)


def _is_zero(value: Any) -> bool:
    """Say whether a learning rate is zero, as far as that is known without waiting for a device."""
    is_known = not isinstance(value, Tensor) or value.device.type == "cpu"
    return is_known and isinstance(value, (Number, Tensor)) and not value


def _is_captured(params: Iterable[Tensor]) -> bool:
    return any(param.is_cuda for param in params) and torch.cuda.is_current_stream_capturing()


def _is_any_nonzero(params: Sequence[Any]) -> bool:
    found = torch.tensor([float(any(map(_is_nonzero, params)))], device="cpu")
    for groups, device in {groups_of(param): param.device for param in params if is_dtensor(param)}.items():
        found = over_processes(found, groups, device)
    return bool(found)


def _is_nonzero(param: Any) -> bool:
    grad = part_of(param.grad)
    return grad.layout != torch.strided or bool(grad.count_nonzero())
