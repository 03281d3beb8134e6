"""The state of a `DTensor`: brought in as this process holds it, and given out as the parameter is placed.

Inside, a part is a plain tensor with plain state. Outside, in `optimizer.state`, slots are DTensors with the
mesh and placements of their parameter, which is what torch's distributed checkpoints go by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.distributed.parts import (
    blocks_shape,
    brought,
    cut,
    dtensor_like,
    is_cut_alike,
    is_dtensor,
    part_of,
)
from thalweg.rule import Slot
from thalweg.storage.choices import CORRECTION, keys_of, scale_of
from thalweg.storage.codecs import BLOCK
from thalweg.storage.layout import has_shard


def is_stepped_in_shards(param: Tensor, group: Mapping[str, Any]) -> bool:
    """Say whether a step works on the part of this process; else on the DTensor, by torch's operations."""
    return has_shard(param) and not group.get("differentiable")


class Inside:
    """A parameter and its state, as this process holds them.

    Args:
        param: a DTensor.
        state: its state. A plain tensor is the whole, and cut; what is placed otherwise is brought.
        slots: of its recipe. Entries that are none, and lie beside none, stay as they are.

    Attributes:
        param: the part.
        state: the same entries, of the part.

    Raises:
        ValueError: if an entry has another shape than the parameter, or lies on another mesh.
    """

    def __init__(self, param: Tensor, state: Mapping[str, Any], slots: Sequence[Slot]) -> None:
        self._whole, self.param = param, part_of(param)
        self._blocks = blocks_shape(param, BLOCK)
        self._given: dict[int, tuple[Tensor, Any]] = {}
        self._scales = {scale_of(slot.name) for slot in slots}
        self._names = {CORRECTION, *self._scales}
        self._names |= {name for slot in slots for name in keys_of(slot.name)}
        self.state = {name: self._entered(name, value) for name, value in state.items()}

    def _entered(self, name: str, value: Any) -> Any:
        if name not in self._names or not isinstance(value, Tensor):
            return value
        is_scale, shape = False, tuple(self._whole.shape)
        if name in self._scales and self._blocks is not None:
            is_scale, shape = True, self._blocks
            if not is_dtensor(value) and value.numel() == math.prod(shape):
                value = value.reshape(shape)  # of a plain parameter they lie in a row
        if tuple(value.shape) != shape:
            raise ValueError(
                f"state {name!r} must have the shape of its parameter, {shape}, not {tuple(value.shape)}"
            )
        part = part_of(self._brought(name, value)) if is_dtensor(value) else cut(value, self._whole)
        part = part.reshape(-1) if is_scale else part
        if is_dtensor(value) and is_cut_alike(value, self._whole):
            self._given[id(part)] = (part, value)
        return part

    def _brought(self, name: str, value: Tensor) -> Any:
        try:
            return brought(value, self._whole)
        except ValueError as error:
            raise ValueError(f"state {name!r}: {error}") from None

    def outside(self) -> dict[str, Any]:
        """Return the state as `optimizer.state` has it; what is as it was given is the same tensor."""
        return {name: self._outside(name, value) for name, value in self.state.items()}

    def _outside(self, name: str, value: Any) -> Any:
        if name not in self._names or not isinstance(value, Tensor):
            return value
        if id(value) in self._given:
            return self._given[id(value)][1]
        if name not in self._scales or self._blocks is None:
            return dtensor_like(self._whole, value)
        last = len(self._blocks) - 1
        inside = (*self.param.shape[:last], math.prod(self.param.shape[last:]) // BLOCK)
        return dtensor_like(self._whole, value.view(inside), self._blocks)
