"""The torch lowering: the rule run on whole tensors, on any device, dtype and tensor subclass.

It is the oracle of the kernels, serves where there is no kernel, and is differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from thalweg.rule import Recipe
from thalweg.storage.codecs import BlockCodec, Codec, MeanCodec, RatioCodec, codec_of
from thalweg.storage.codecs.draws import numbers, word
from thalweg.storage.codecs.means import ROW
from thalweg.storage.codecs.tensors import in_memory_order, pack, unpack
from thalweg.storage.layout import like_home


@dataclass(frozen=True)
class Packed:
    """A tensor that is not stored as plain numbers.

    Args:
        codec: how it is stored.
        main: the stored tensor.
        side: its second tensor, if the codec has one.
    """

    codec: Codec
    main: Tensor
    side: Tensor | None

    def read(self) -> Tensor:
        """Return the values."""
        return unpack(self.codec, self.main, self.side)

    def write(self, values: Tensor, words: Tensor | None, rows: tuple[Tensor, ...] | None = None) -> None:
        """Store values, rounded by `words`, which lie in memory as the parameter's state does.

        Those of `rows`, if there are any; where there are blocks, each is of whole blocks.
        """
        if rows is not None:
            self._write_rows(values, words, rows)
            return
        order = self.main if words is None else words
        main, side = pack(self.codec, torch.empty_like(order, dtype=values.dtype).copy_(values), words)
        self.main.copy_(main)
        if self.side is not None and side is not None:
            self.side.copy_(side)

    def _write_rows(self, values: Tensor, words: Tensor | None, rows: tuple[Tensor, ...]) -> None:
        main, side = pack(self.codec, values.contiguous(), None if words is None else words[rows])
        self.main.index_put_(rows, main)
        if self.side is None or side is None:
            return
        if isinstance(self.codec, BlockCodec):
            self.side.view(len(self.main), -1).index_put_(rows, side.view(len(rows[0]), -1))
        else:
            self.side.index_put_(rows, side)


@dataclass(frozen=True)
class Work:
    """One tensor's step: all that it reads.

    Args:
        recipe: what steps are made by.
        on: its flags.
        param: any shape, strides, device and floating or complex dtype.
        grad: of the same shape; any floating dtype.
        slots: the state by name, each of the shape of `param`, or of one dimension if it is kept as means.
        scalars: the values of this step by name, numbers or 0-dim tensors.
        maximize: negate the gradient.
        unscale: multiply the gradient by this first; a step writes it back.
        differentiable: keep the graph: read copies, so that what backward saved is not overwritten.
        packed: how `p` and the slots are stored, by name, in the recipe's order; plainly, where absent.
        key: of the random words of this step and parameter.
        index: int32, by which the elements of `param` draw: where they lie in the whole that it is a part of;
            in its own memory, if None.
        mean: how those of the slots are stored that are kept as means; None, if there are none.
    """

    recipe: Recipe
    on: Mapping[str, bool]
    param: Tensor
    grad: Tensor
    slots: Mapping[str, Tensor]
    scalars: Mapping[str, Any]
    maximize: bool = False
    unscale: float | None = None
    differentiable: bool = False
    packed: Mapping[str, Packed] = field(default_factory=dict)
    key: int = 0
    index: Tensor | None = None
    mean: MeanCodec | None = None

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """What is stored of the parameter and of each slot, by name."""
        return {"p": self.param, **self.slots}

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The same as real numbers to compute with."""
        compute = _compute_dtype(self.param)
        values = {
            name: self.packed[name].read() if name in self.packed else _real(value).to(compute)
            for name, value in self.inputs.items()
        }
        for name, codec in self.ratios.items():
            values[name] = codec.whole(values[name], self._spread(values[codec.over]))
        return {name: value.clone() for name, value in values.items()} if self.differentiable else values

    @property
    def ratios(self) -> dict[str, RatioCodec]:
        """The codecs of the slots that are stored as ratios to others, by name."""
        codecs = {name: one.codec for name, one in self.packed.items()}
        return {name: codec for name, codec in codecs.items() if isinstance(codec, RatioCodec)}

    def _spread(self, slot: Tensor) -> Tensor:
        is_means = self.mean is not None and slot.dim() < self.param.dim()
        return self.mean.spread(slot, self.param.shape) if self.mean is not None and is_means else slot

    @cached_property
    def coalesced(self) -> Tensor:
        """The gradient, each row once if it is row-sparse."""
        return self.grad.coalesce() if self.grad.layout == torch.sparse_coo else self.grad

    @cached_property
    def rows(self) -> tuple[Tensor, ...] | None:
        """The rows that a row-sparse gradient names."""
        return tuple(self.coalesced.indices()) if self.coalesced.layout == torch.sparse_coo else None

    @cached_property
    def stepped(self) -> Tensor:
        """The gradient's values as they are stored."""
        return self.coalesced if self.rows is None else self.coalesced.values()

    @cached_property
    def unscaled(self) -> Tensor:
        """The gradient as real numbers, before it is negated."""
        g = _real(self.stepped).to(_compute_dtype(self.param))
        return g if self.unscale is None else g * self.unscale

    @cached_property
    def arguments(self) -> tuple[Tensor, Tensor, dict[str, Tensor], SimpleNamespace, SimpleNamespace]:
        """What a recipe takes: weights, gradient, slots, scalars and flags; of the rows, if there are any."""
        taken = (
            dict(self.values) if self.rows is None else {name: self._of_rows(name) for name in self.inputs}
        )
        g = -self.unscaled if self.maximize else self.unscaled
        s = _scalars(self.scalars, g.dtype)
        s.row_mean = None if self.mean is None else self.mean.mean
        if self.mean is not None:
            for name in self.means:
                taken[name] = self.mean.spread(taken[name], g.shape)
        return taken.pop("p"), g, taken, s, SimpleNamespace(**self.on)

    @cached_property
    def means(self) -> list[str]:
        """The slots that are kept as means."""
        return [name for name, value in self.slots.items() if value.dim() < self.param.dim()]

    def _of_rows(self, name: str) -> Tensor:
        """Return the numbers of a parameter or slot in the gradient's rows; others are not read."""
        rows = self.rows
        if name in self.packed or self.differentiable:
            return self.values[name][rows]
        return _real(self.inputs[name][rows]).to(_compute_dtype(self.param))


def step(work: Work) -> None:
    """Step one tensor in place."""
    arguments = work.arguments
    if work.unscale is not None:
        g = work.unscaled
        work.stepped.copy_(torch.view_as_complex(g) if work.stepped.is_complex() else g)
    p, slots = work.recipe.apply(*arguments)
    new = {"p": p, **slots}
    new |= {name: codec.part(new[name], new[codec.over]) for name, codec in work.ratios.items()}
    rows = work.rows
    if rows is None:
        # What was another's value is copied, which is written before it is read.
        origins = {id(value): name for name, value in work.values.items()}
        new = {n: v.clone() if origins.get(id(v), n) != n else v for n, v in new.items()}
    elif work.differentiable:
        new = {name: work.values[name].clone().index_put_(rows, value) for name, value in new.items()}
        rows = None
    words = _words(work)
    for name, value in new.items():
        stored = work.inputs[name]
        if name in work.packed:
            work.packed[name].write(value, words.get(name), rows)
        elif rows is None:
            stored.copy_(_as_stored(value, stored))
        else:
            stored.index_put_(rows, _as_stored(value, stored).reshape(-1, *stored.shape[len(rows) :]))


def _as_stored(value: Tensor, stored: Tensor) -> Tensor:
    """Return numbers in the dtype of the tensor that they are for, and in its shape if they are as many."""
    value = torch.view_as_complex(value) if stored.is_complex() else value
    return (value.reshape(stored.shape) if value.numel() == stored.numel() else value).to(stored.dtype)


def measure(work: Work, stage: str) -> dict[str, Tensor]:
    """Return the sums that a stage of the recipe measures of one tensor, by name, 0-dim and float64."""
    found = work.recipe.measure(stage, *work.arguments)
    squared = {one.name for one in work.recipe.measures if one.squared}
    return {name: _sum(value, work.unscaled, name in squared) for name, value in found.items()}


def _sum(value: Any, like: Tensor, squared: bool) -> Tensor:
    """Return the sum over the elements of a summand, maybe a number; in float64 where there is that."""
    exact = torch.float32 if like.device.type == "mps" else torch.float64
    whole = value.to(exact) if isinstance(value, Tensor) else torch.full_like(like, value, dtype=exact)
    return (whole * whole if squared else whole).sum()


def _scalars(scalars: Mapping[str, Any], compute: torch.dtype) -> SimpleNamespace:
    """Return scalars in the dtype of elements, as kernels have them."""
    return SimpleNamespace(
        **{name: x.to(compute) if isinstance(x, Tensor) else x for name, x in scalars.items()}
    )


def _words(work: Work) -> dict[str, Tensor]:
    """Return the random words that each of the packed values is rounded by; by rows, if there are any."""
    codecs = {name: one.codec for name, one in work.packed.items()}
    sparse = work.rows is not None and work.coalesced._nnz()
    row = work.coalesced.values()[0].numel() if sparse else None
    if work.mean is not None and work.mean.per == ROW and not sparse:
        row = max(work.param.numel() // max(len(work.param), 1), 1)
    found = {}
    for name, number in numbers(codecs).items():
        words = like_home(work.param, torch.int32)
        if work.index is not None:
            words.copy_(word(work.key, work.index.to(words.device), number, codecs[name].drawn))
            found[name] = words
            continue
        index = torch.arange(work.param.numel(), dtype=torch.int32, device=work.param.device)
        in_memory_order(words).copy_(word(work.key, index, number, codecs[name].drawn, row))
        found[name] = words
    return found


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _compute_dtype(param: Tensor) -> torch.dtype:
    codec = codec_of(param.dtype)
    if codec is None:
        raise TypeError(f"parameters must be floating point or complex, not {param.dtype}")
    return codec.compute
