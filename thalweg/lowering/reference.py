"""The torch lowering: the rule run on whole tensors, on any device, dtype and tensor subclass.

It is the oracle of the kernels, serves where there is no kernel, and is differentiable.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from thalweg.codecs import codec_of
from thalweg.rule import Rule


def step(
    rule: Rule,
    on: Mapping[str, bool],
    param: Tensor,
    grad: Tensor,
    slots: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    *,
    maximize: bool = False,
    unscale: float | None = None,
    differentiable: bool = False,
) -> None:
    """Step one tensor in place.

    Args:
        rule: the update rule.
        on: its flags.
        param: any shape, strides, device and floating or complex dtype.
        grad: of the same shape; any floating dtype.
        slots: the state by name, each of the shape of `param`.
        scalars: the values of this step by name, numbers or 0-dim tensors.
        maximize: negate the gradient.
        unscale: multiply the gradient by this first, and write it back.
        differentiable: keep the graph: read copies, so that what backward saved is not overwritten.
    """
    compute = _compute_dtype(param)
    if grad.layout == torch.sparse_coo:
        rows = grad.coalesce()
        _step_rows(rule, on, param, rows, slots, scalars, maximize=maximize, unscale=unscale)
        return
    g = _real(grad).to(compute)
    if unscale is not None:
        g = g * unscale
        grad.copy_(torch.view_as_complex(g) if grad.is_complex() else g)
    inputs = {"p": param, **slots}
    values = {name: _real(value).to(compute) for name, value in inputs.items()}
    if differentiable:
        values = {name: value.clone() for name, value in values.items()}
    p = values.pop("p")
    s, flags = SimpleNamespace(**scalars), SimpleNamespace(**on)
    new_p, new = rule.apply(p, -g if maximize else g, values, s, flags)
    for name, value in {"p": new_p, **new}.items():
        target = inputs[name]
        target.copy_(torch.view_as_complex(value) if target.is_complex() else value)


def _step_rows(
    rule: Rule,
    on: Mapping[str, bool],
    param: Tensor,
    grad: Tensor,
    slots: Mapping[str, Tensor],
    scalars: Mapping[str, Any],
    **options: Any,
) -> None:
    rows = tuple(grad.indices())
    taken = {name: tensor[rows] for name, tensor in {"p": param, **slots}.items()}
    p = taken.pop("p")
    step(rule, on, p, grad.values(), taken, scalars, **options)
    param[rows] = p
    for name, tensor in slots.items():
        tensor[rows] = taken[name]


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _compute_dtype(param: Tensor) -> torch.dtype:
    codec = codec_of(param.dtype)
    if codec is None:
        raise TypeError(f"parameters must be floating point or complex, not {param.dtype}")
    return codec.compute
