"""A parameter that is stepped, with all that belongs to its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.distributed.parts import dtensor_like, is_dtensor, part_of
from thalweg.lowering.gpu.tables import Shared
from thalweg.lowering.reference.steps import Packed
from thalweg.rule import Recipe
from thalweg.storage.choices import CORRECTION, key_of, scale_of
from thalweg.storage.codecs import BlockCodec, Codec, HalfCodec, MeanCodec
from thalweg.storage.layout import has_memory, is_plain


class Gradient(NamedTuple):
    """What a gradient is, but for its shape and where it lies.

    Args:
        dtype, layout, device: as torch has them.
        is_dense: whether it is a contiguous block of memory.
        has_memory: whether it is memory, and not a subclass around other tensors.
        sparse_dims: how many dimensions it indexes, if it names rows; 0, if it is dense.
    """

    dtype: torch.dtype
    layout: torch.layout
    device: torch.device
    is_dense: bool
    has_memory: bool
    sparse_dims: int = 0

    @classmethod
    def of(cls, grad: Tensor) -> Gradient:
        """Return what `grad` is; of a shared one, what the part of this process is."""
        grad = part_of(grad)
        memory = has_memory(grad)
        dense = memory and grad.layout == torch.strided and is_plain(grad) and grad.is_contiguous()
        dims = grad.sparse_dim() if grad.layout == torch.sparse_coo else 0
        return cls(grad.dtype, grad.layout, grad.device, dense, memory, dims)

    @property
    def is_sparse(self) -> bool:
        """Whether it names rows."""
        return self.layout == torch.sparse_coo


@dataclass(eq=False)
class Sort:
    """What parameters have in common that are alike in all but shape and place, worked out once.

    Args:
        recipe: what steps are made by.
        gradient: what their gradients are.
        group: the index of their group.
        on: the group's flags.
        options: the group, for what is not a matter of the rule (`maximize`, `differentiable` ...).
        choices: the group's hyperparameters that are flags.
        is_contiguous: whether they are contiguous, and hold what they mean, without lazy signs.
        has_memory: whether they and their state are plain memory that is known to lie there.
        codecs: how `p` and each slot are stored, by name, in the rule's order.
        dtype, device: the parameters'.
        is_shard: whether processes share them, and what is stepped is the part of this one.
        has_rows: whether each row, an index of the first dimension, is one stretch of memory.
    """

    recipe: Recipe
    gradient: Gradient
    group: int
    on: Mapping[str, bool]
    options: Mapping[str, Any]
    choices: Mapping[str, bool]
    is_contiguous: bool
    has_memory: bool
    codecs: Mapping[str, Codec]
    dtype: torch.dtype
    device: torch.device
    is_shard: bool
    has_rows: bool

    @cached_property
    def mean(self) -> MeanCodec | None:
        """How means are stored, if something is kept as means: a rule has one second moment."""
        return next((codec for codec in self.codecs.values() if isinstance(codec, MeanCodec)), None)

    @cached_property
    def slot_keys(self) -> dict[str, str]:
        """Where the state has each slot, by the slots' names in the rule's order."""
        names = [slot.name for slot in self.recipe.slots_on(self.on)]
        return {name: key_of(name, self.codecs[name]) for name in names}

    @cached_property
    def side_keys(self) -> dict[str, str]:
        """Where the state has the second tensor of what has one, by the name of the first."""
        return {
            name: CORRECTION if name == "p" else scale_of(name)
            for name, codec in self.codecs.items()
            if codec.side is not None
        }

    @cached_property
    def stored_keys(self) -> list[str]:
        """Where the state has what a kernel reads and writes, slots and then sides."""
        return [*self.slot_keys.values(), *self.side_keys.values()]

    @cached_property
    def has_state(self) -> bool:
        """Whether there is any state at all."""
        return bool(self.stored_keys or self.recipe.counters)

    @cached_property
    def is_differentiable(self) -> bool:
        """Whether the graph goes through steps."""
        return bool(self.options.get("differentiable"))

    @cached_property
    def maximizes(self) -> bool:
        """Whether gradients are negated."""
        return bool(self.options.get("maximize"))

    @cached_property
    def draws(self) -> bool:
        """Whether anything is rounded by random words."""
        return any(codec.drawn for codec in self.codecs.values())

    @cached_property
    def alike(self) -> tuple[Any, ...]:
        """What the members of a batch have in common, also across groups."""
        storage = (
            self.device,
            self.dtype,
            self.gradient,
            self.is_shard and self.draws,
            *self.codecs.values(),
        )
        return self.recipe, storage, tuple(self.on.values()), tuple(self.choices.values())


@dataclass(eq=False, slots=True)
class Member:
    """A parameter that is stepped. It does not hold the state, which its user may replace.

    Args:
        position: its index among all parameters of the optimizer, group after group.
        param: the parameter.
        sort: what it has in common with others.
        first: whether a slot of its state is new.
        shared: what all parameters of the optimizer share on devices.
    """

    position: int
    param: Tensor
    sort: Sort
    first: bool
    shared: Shared

    @property
    def memory(self) -> Tensor:
        """What is stepped: the parameter, or the part of it that lies in this process."""
        return part_of(self.param) if self.sort.is_shard else self.param

    @property
    def grad(self) -> Tensor | None:
        """The gradient of that, as it is now."""
        grad = self.param.grad
        return grad if grad is None or not self.sort.is_shard else part_of(grad)

    def exchange_gradient(self, grad: Tensor) -> None:
        """Have another gradient in the place of `grad`."""
        self.param.grad = dtensor_like(self.param.grad, grad) if self.sort.is_shard else grad

    def own(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Return the state of that, from the parameter's."""
        if not self.sort.is_shard:
            return tensors
        found = {name: part_of(value) if is_dtensor(value) else value for name, value in tensors.items()}
        # Scales of a DTensor have its dimensions, and those of plain memory lie in a row.
        scales = [key for name, key in self.sort.side_keys.items() if name != "p"]
        return {**found, **{key: found[key].view(-1) for key in scales}}


def packed(sort: Sort, param: Tensor, own: Mapping[str, Any]) -> dict[str, Packed]:
    """Return how the reference reads what is not stored as plain numbers.

    Args:
        sort: of the parameter.
        param: the parameter.
        own: its state.
    """
    tensors = {"p": param, **{name: own[at] for name, at in sort.slot_keys.items()}}
    sides = {name: own[at] for name, at in sort.side_keys.items()}
    return {
        name: Packed(codec, tensors[name], sides.get(name))
        for name, codec in sort.codecs.items()
        if isinstance(codec, (BlockCodec, HalfCodec))
    }
