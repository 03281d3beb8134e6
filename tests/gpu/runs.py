"""Runs on a device, and how two of them are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from support import assert_close, follow, gradients, leaf, ours, rand
from torch import Tensor

import thalweg as tw

SHAPES = ((4096,), (64, 65), (4095 + 64,), (30,), (), (0, 3))
"""Whole tiles and ends of them, ends of blocks, small ones that stay float32, one element, none."""


def start(device, dtype=torch.float32, shapes=SHAPES) -> list[Tensor]:
    """Return parameters on `device`, the same on all."""
    return [leaf(rand(*shape, seed=i).to(device, dtype)) for i, shape in enumerate(shapes)]


def with_storage(configuration, **storage):
    name, kwargs = configuration
    return name, {**kwargs, **storage}


def run(configuration, device, steps=3, dtype=torch.float32, shapes=SHAPES, **storage):
    """Return parameters and optimizer after some steps."""
    params = start(device, dtype, shapes)
    optimizer = ours(with_storage(configuration, **storage), params)
    follow(optimizer, params, gradients(params, steps))
    return params, optimizer


def several(configuration, device, dtype=torch.float32, shapes=SHAPES, steps=4):
    """Return parameters and optimizer after some steps, each with a smaller learning rate."""
    params = start(device, dtype, shapes)
    optimizer = ours(configuration, params)
    for i, grads in enumerate(gradients(params, steps)):
        optimizer.param_groups[0]["lr"] = configuration[1]["lr"] / (1 + i)
        follow(optimizer, params, [[g.to(device) for g in grads]])
    return params, optimizer


def assert_alike(a, b, rtol: float) -> None:
    """Compare two runs, wherever they lie."""
    (params, one), (others, other) = a, b
    for p, q in zip(params, others, strict=True):
        assert_close(p, q, rtol)
        assert one.state[p].keys() == other.state[q].keys()
        for name, value in other.state[q].items():
            assert_close(one.state[p][name].cpu(), value.cpu(), rtol)


def assert_equal(a, b) -> None:
    """Compare two runs bit by bit, wherever they lie."""
    (params, one), (others, other) = a, b
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p.cpu(), q.cpu())
        assert one.state[p].keys() == other.state[q].keys()
        for name, value in one.state[p].items():
            assert torch.equal(value.cpu(), other.state[q][name].cpu()), name


def everything(optimizer: tw.Optimizer) -> list[Tensor]:
    """Return copies of parameters, state and counters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [value for p in params for value in optimizer.state.get(p, {}).values()]
    return [t.detach().clone() for t in [*params, *state]]


def restore(optimizer: tw.Optimizer, copies: Sequence[Tensor]) -> None:
    """Write back what `everything` has returned."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = params + [value for p in params for value in optimizer.state.get(p, {}).values()]
    with torch.no_grad():
        for tensor, copy in zip(tensors, copies, strict=True):
            tensor.copy_(copy)
