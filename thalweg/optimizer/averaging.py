"""The averages of weights: exchanged for the weights while a model is evaluated, and exported by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.rule import Slot
from thalweg.stepping.state import stored_of, values_of

SLOT, COUNTER = "average", "average_step"


def averages(slots: Sequence[Slot], state: Mapping[Any, Mapping[str, Any]], param: Tensor) -> Tensor | None:
    """Return the average of a parameter, decoded; None before its first step, or where none is kept."""
    slot = next((slot for slot in slots if slot.name == SLOT), None)
    own = state.get(param, {})
    if slot is None or stored_of(slot, own) is None:
        return None
    if not float(own.get(COUNTER, 0)):
        return None  # state that is there before a step, as after one that was skipped
    return values_of(slot, own)


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
