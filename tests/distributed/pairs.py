"""Optimizers of DTensors beside optimizers of whole tensors, and models that are sharded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import thalweg as tw

SHAPES = ((130, 64), (7, 3), (3,), (1, 128), (66, 65), (5, 4, 3, 3), ())
"""Rows of whole blocks and not, for uneven and empty parts, and a scalar."""


def meshes() -> list[tuple[DeviceMesh, tuple[Any, ...]]]:
    """Meshes of all processes, and ways to place tensors of two dimensions or more on them."""
    count = dist.get_world_size()
    line = init_device_mesh("cpu", (count,), mesh_dim_names=("all",))
    found = [(line, (Shard(0),)), (line, (Shard(1),)), (line, (Replicate(),))]
    if count == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        found += [
            (square, (Replicate(), Shard(0))),
            (square, (Shard(0), Shard(1))),
            (square, (_StridedShard(0, split_factor=2), Shard(0))),
        ]
    return found


def on_meshes(ways: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Every way on a mesh, and every mesh with a way; `THALWEG_TEST_DISTRIBUTED=all`: all with all."""
    found = meshes()
    if os.environ.get("THALWEG_TEST_DISTRIBUTED") == "all":
        yield from itertools.product(found, ways)
        return
    for i in range(max(len(found), len(ways))):
        yield found[i % len(found)], ways[i % len(ways)]


def placed(value: Tensor, mesh: DeviceMesh, placements: Sequence[Any]) -> DTensor:
    """Place a tensor that all processes have; of too few dimensions it is cut along the first, or not."""
    fitting = [_fitting(placement, value.dim()) for placement in placements]
    return distribute_tensor(value.clone(), mesh, fitting, src_data_rank=None)


def _fitting(placement: Any, dims: int) -> Any:
    if placement.is_replicate() or placement.dim < dims:
        return placement
    return Shard(0) if dims and placement.dim else Replicate()


def draw(shapes: Sequence[tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def whole(tensor: Any) -> Any:
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.device_mesh.size() == 1:
        return tensor.to_local()
    wide = tensor.to(torch.int32) if tensor.dtype == torch.int16 else tensor  # which gloo does not know
    return wide.full_tensor().to(tensor.dtype)


def assert_same(one: Any, other: Any, said: Any) -> None:
    one, other = whole(one).detach(), whole(other).detach()
    if one.shape != other.shape:  # scales, which of a whole parameter lie in a row
        one, other = one.reshape(-1), other.reshape(-1)
    assert one.dtype == other.dtype, said
    assert torch.equal(one, other), (said, (one != other).sum())


def assert_replicas_agree(params: Sequence[DTensor]) -> None:
    for param in params:
        local = param.to_local().detach().float()
        for dim, placement in enumerate(param.placements):
            if placement.is_replicate():
                group = param.device_mesh.get_group(dim)
                found = [torch.empty_like(local) for _ in range(group.size())]
                dist.all_gather(found, local.contiguous(), group=group)
                assert all(torch.equal(one, local) for one in found)


class Pair:
    """An optimizer of DTensors and one of whole tensors, with the same weights and gradients."""

    def __init__(
        self,
        make: Callable[[Any], tw.Optimizer],
        mesh: DeviceMesh,
        placements: Sequence[Any],
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shapes, self.dtype, self.where = shapes, dtype, (mesh, placements)
        values = draw(shapes, 0, dtype)
        self.params = [nn.Parameter(placed(value, *self.where)) for value in values]
        self.plain = [nn.Parameter(value.clone()) for value in values]
        self.optimizer, self.oracle = make(self.params), make(self.plain)
        self._seeds = itertools.count(1)

    def give(self) -> None:
        """Give both sides the same gradients, new ones."""
        grads = draw(self.shapes, next(self._seeds), self.dtype)
        for param, plain, grad in zip(self.params, self.plain, grads, strict=True):
            plain.grad, param.grad = grad, placed(grad, param.device_mesh, param.placements)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.give()
            self.optimizer.step()
            self.oracle.step()

    def assert_alike(self, said: Any = None) -> None:
        for i, (param, plain) in enumerate(zip(self.params, self.plain, strict=True)):
            assert_same(param, plain, (said, self.where, i))
            own, other = self.optimizer.state[param], self.oracle.state[plain]
            assert own.keys() == other.keys(), (said, own.keys(), other.keys())
            for name in own:
                assert_same(own[name], other[name], (said, self.where, i, name))


def batches(optimizer: tw.Optimizer) -> set[str]:
    return {type(batch).__name__ for batch in optimizer._stepper.plan.batches}


def dtensor(local: Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(7, 65), nn.Tanh(), nn.Linear(65, 65), nn.Tanh(), nn.Linear(65, 3)]
    return nn.Sequential(*layers).to(dtype)


def sharded(dtype: torch.dtype = torch.float32, mesh: DeviceMesh | None = None) -> nn.Sequential:
    net = model(dtype)
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0, parts: int = 2
) -> None:
    """Train by gradients that are the sum over parts, the same in all processes."""
    dtype = next(net.parameters()).dtype
    for step in range(start, start + steps):
        for part in range(parts):
            (inputs,) = draw([(6, 7)], 100 * step + part, dtype)
            net(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=bool(step % 2))
