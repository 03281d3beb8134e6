"""The averages of weights: exchanged for the weights while a model is evaluated, and exported by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.optimizer.weights import full_weights
from thalweg.rule import Slot
from thalweg.stepping.slots import stored_of, values_of

_AVERAGE, _FAST = "average", "z"
_COUNTERS = {_AVERAGE: "average_step", _FAST: "schedule_free_sum"}


def averages(
    slots: Sequence[Slot], own: Mapping[str, Any], param: Tensor, group: Mapping[str, Any]
) -> Tensor | None:
    """Return the average of a parameter, decoded; None before its first step, or where none is kept.

    Args:
        slots: of its group's recipe.
        own: its state.
        param: the parameter.
        group: its group.
    """
    slot = next((slot for slot in slots if slot.name in _COUNTERS), None)
    if slot is None or stored_of(slot, own) is None:
        return None
    if not float(own.get(_COUNTERS[slot.name], 0)):
        return None  # state that is there before a step, as after one that was skipped
    values = values_of(slot, own, param)
    if slot.name == _AVERAGE:
        return values
    # The parameter is beta of the way from the fast weights to their average.
    now = full_weights(param, own, group)
    return now + (1 - 1 / float(group["schedule_free"])) * (values.to(now.dtype) - now)


@contextmanager
def exchanged(values: Mapping[Tensor, Tensor], model: nn.Module | None) -> Iterator[None]:
    """Give parameters other values, and the model's buffers back, until the end, however it comes.

    Args:
        values: by parameter, what it is to be; its dtype is the parameter's then.
        model: whose buffers are put back too; None, if they stay as they are by then.
    """
    buffers = [] if model is None else list(model.buffers())
    kept = [tensor.detach().clone() for tensor in (*values, *buffers)]
    try:
        with torch.no_grad():
            for param, value in values.items():
                param.copy_(value)
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip((*values, *buffers), kept, strict=True):
                tensor.copy_(before)
