"""The tensors of optimizer state: made at the first gradient, or brought into form from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.codecs import state_dtype
from thalweg.layout import home_order, is_plain, like_home, order
from thalweg.rule import Rule


def counter_dtype() -> torch.dtype:
    """Return the dtype of counters: torch's, float64 where that is the default dtype and else float32."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def prepare(
    rule: Rule,
    on: Mapping[str, bool],
    param: Tensor,
    state: dict[str, Any],
    group: Mapping[str, Any],
) -> bool:
    """Give `state` every slot and counter that `rule` needs under the flags `on`, in form.

    What is missing is made; what has another dtype, device or memory order is converted, so that state
    from a checkpoint, from torch or from the user's hand is as good as our own.

    Returns:
        Whether a slot was missing, which makes this the slot's first step.

    Raises:
        ValueError: if a slot has another shape than the parameter.
    """
    first = False
    for counter in rule.counters:
        device = param.device if group.get("capturable") and param.device.type != "cpu" else "cpu"
        state[counter.name] = to_counter(state.get(counter.name, counter.initial), device)
    for slot in rule.slots_on(on):
        value = state.get(slot.name)
        if value is None:
            first = True
            fill = float(group[slot.initial]) if slot.initial else 0.0
            value = like_home(param, state_dtype(param.dtype), fill)
        state[slot.name] = in_form(slot.name, value, param)
    return first


def to_counter(value: Any, device: Any) -> Tensor:
    """Return `value`, a number or a one-element tensor, as a counter: 0-dim, of `counter_dtype`."""
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.to(device=device, dtype=counter_dtype())
    return torch.tensor(float(value), dtype=counter_dtype(), device=device)


def in_form(name: str, value: Tensor, param: Tensor) -> Tensor:
    """Return the slot `value` of `param` in our dtype and memory order; itself, if it is so already.

    Raises:
        ValueError: if its shape is not that of `param`.
    """
    if value.shape != param.shape:
        raise ValueError(
            f"state {name!r} must have the shape of its parameter, {tuple(param.shape)}, "
            f"not {tuple(value.shape)}"
        )
    dtype = state_dtype(param.dtype)
    placed = value.device == param.device and value.dtype == dtype
    if placed and (value.requires_grad or not value.is_leaf):
        return value  # a differentiable step: the graph behind the state is the user's
    if placed and is_plain(value) and order(value) == home_order(param):
        return value
    return like_home(param, dtype).copy_(value)
