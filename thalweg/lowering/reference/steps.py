"""The torch lowering: the rule run on whole tensors, on any device, dtype and tensor subclass.

It is the oracle of the kernels, serves where there is no kernel, and is differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from thalweg.rule import Recipe
from thalweg.storage.codecs import Codec, codec_of
from thalweg.storage.codecs.draws import numbers, word
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

    def write(self, values: Tensor, words: Tensor | None) -> None:
        """Store values, rounded by `words`, which lie in memory as the parameter's state does."""
        order = self.main if words is None else words
        main, side = pack(self.codec, torch.empty_like(order, dtype=values.dtype).copy_(values), words)
        self.main.copy_(main)
        if self.side is not None and side is not None:
            self.side.copy_(side)


def step(
    recipe: Recipe,
    on: Mapping[str, bool],
    param: Tensor,
    grad: Tensor,
    slots: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    *,
    maximize: bool = False,
    unscale: float | None = None,
    differentiable: bool = False,
    packed: Mapping[str, Packed] | None = None,
    key: int = 0,
) -> None:
    """Step one tensor in place.

    Args:
        recipe: what steps are made by.
        on: its flags.
        param: any shape, strides, device and floating or complex dtype.
        grad: of the same shape; any floating dtype.
        slots: the state by name, each of the shape of `param`.
        scalars: the values of this step by name, numbers or 0-dim tensors.
        maximize: negate the gradient.
        unscale: multiply the gradient by this first, and write it back.
        differentiable: keep the graph: read copies, so that what backward saved is not overwritten.
        packed: how `p` and the slots are stored, by name, in the rule's order; plainly, where absent.
        key: of the random words of this step and parameter.
    """
    packed = packed or {}
    compute = _compute_dtype(param)
    inputs = {"p": param, **slots}
    values = _values(inputs, packed, compute, differentiable)
    sparse = grad.layout == torch.sparse_coo
    if sparse:
        grad = grad.coalesce()
    stepped = grad.values() if sparse else grad
    g = _real(stepped).to(compute)
    if unscale is not None:
        g = g * unscale
        stepped.copy_(torch.view_as_complex(g) if stepped.is_complex() else g)
    where = tuple(grad.indices()) if sparse else None
    new = _apply(recipe, on, values, -g if maximize else g, scalars, where)
    words = _words(param, packed, key, grad.values()[0].numel() if sparse and grad._nnz() else None)
    for name, value in new.items():
        if name in packed:
            packed[name].write(value, words.get(name))
        else:
            inputs[name].copy_(torch.view_as_complex(value) if inputs[name].is_complex() else value)


def measure(
    recipe: Recipe,
    stage: str,
    on: Mapping[str, bool],
    param: Tensor,
    grad: Tensor,
    slots: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    *,
    maximize: bool = False,
    unscale: float | None = None,
    differentiable: bool = False,
    packed: Mapping[str, Packed] | None = None,
) -> dict[str, Tensor]:
    """Return the sums that a stage measures of one tensor, by name, 0-dim and float64.

    The arguments are those of `step`, and `stage` is one of the recipe's.
    """
    compute = _compute_dtype(param)
    values = _values({"p": param, **slots}, packed or {}, compute, differentiable)
    grad = grad.coalesce() if grad.layout == torch.sparse_coo else grad
    where = tuple(grad.indices()) if grad.layout == torch.sparse_coo else None
    g = _real(grad if where is None else grad.values()).to(compute)
    g = g if unscale is None else g * unscale
    taken = {name: value if where is None else value[where] for name, value in values.items()}
    p = taken.pop("p")
    s, flags = _scalars(scalars, compute), SimpleNamespace(**on)
    found = recipe.measure(stage, p, -g if maximize else g, taken, s, flags)
    squared = {one.name for one in recipe.measures if one.squared}
    return {name: _sum(value, g, name in squared) for name, value in found.items()}


def _sum(value: Any, like: Tensor, squared: bool) -> Tensor:
    """Return the sum over the elements of a summand, maybe a number; in float64 where there is that."""
    exact = torch.float32 if like.device.type == "mps" else torch.float64
    whole = value.to(exact) if isinstance(value, Tensor) else torch.full_like(like, value, dtype=exact)
    return (whole * whole if squared else whole).sum()


def _values(
    inputs: Mapping[str, Tensor], packed: Mapping[str, Packed], compute: torch.dtype, copies: bool
) -> dict[str, Tensor]:
    values = {
        name: packed[name].read() if name in packed else _real(value).to(compute)
        for name, value in inputs.items()
    }
    return {name: value.clone() for name, value in values.items()} if copies else values


def _apply(
    recipe: Recipe,
    on: Mapping[str, bool],
    values: Mapping[str, Tensor],
    g: Tensor,
    scalars: Mapping[str, Any],
    where: tuple[Tensor, ...] | None,
) -> dict[str, Tensor]:
    """Return the new values of `p` and the slots; only of the rows `where`, if they are given."""
    taken = {name: value if where is None else value[where] for name, value in values.items()}
    p = taken.pop("p")
    new_p, new = recipe.apply(p, g, taken, _scalars(scalars, g.dtype), SimpleNamespace(**on))
    new = {"p": new_p, **new}
    if where is None:
        # What was another's value is copied, which is written before it is read.
        origins = {id(value): name for name, value in values.items()}
        return {n: v.clone() if origins.get(id(v), n) != n else v for n, v in new.items()}
    return {name: values[name].clone().index_put_(where, value) for name, value in new.items()}


def _scalars(scalars: Mapping[str, Any], compute: torch.dtype) -> SimpleNamespace:
    """Return scalars in the dtype of elements, as kernels have them: one of no dimension would take theirs."""
    return SimpleNamespace(
        **{name: x.to(compute) if isinstance(x, Tensor) else x for name, x in scalars.items()}
    )


def _words(param: Tensor, packed: Mapping[str, Packed], key: int, row: int | None) -> dict[str, Tensor]:
    """Return the random words that each of the packed values is rounded by, in rows of a length if given."""
    codecs = {name: one.codec for name, one in packed.items()}
    found = {}
    for name, number in numbers(codecs).items():
        words = like_home(param, torch.int32)
        index = torch.arange(param.numel(), dtype=torch.int32, device=param.device)
        in_memory_order(words).copy_(word(key, index, number, codecs[name].drawn, row))
        found[name] = words
    return found


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _compute_dtype(param: Tensor) -> torch.dtype:
    codec = codec_of(param.dtype)
    if codec is None:
        raise TypeError(f"parameters must be floating point or complex, not {param.dtype}")
    return codec.compute
