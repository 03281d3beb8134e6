"""The cases, each called in all processes. The oracle is a step of one process on whole tensors."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import case
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch

LEAK_STEPS = int(os.environ.get("THALWEG_TEST_LEAK_STEPS", "200"))
"""10,000 were tried."""

SHAPES = ((130, 64), (7, 3), (3,), (1, 128), (66, 65), (5, 4, 3, 3), ())
"""Rows of whole blocks and not, for uneven and empty parts, and a scalar."""

RULES = (
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {}),
    ("RMSprop", {"centered": True, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adagrad", {"initial_accumulator_value": 0.1}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Lion", {}),
)


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
    return {type(batch).__name__ for batch in optimizer._stepper._plan.batches}


@case()
def every_rule_has_the_bits_of_one_process():
    for (mesh, placements), (name, options) in on_meshes(RULES):
        pair = Pair(lambda params, n=name, o=options: getattr(tw, n)(params, lr=0.01, **o), mesh, placements)
        pair.step(3)
        pair.assert_alike(name)
        assert batches(pair.optimizer) == {"DenseBatch"}
        assert_replicas_agree(pair.params)


@case()
def rounded_state_and_weights_have_the_bits_of_one_process():
    shapes = [shape for shape in SHAPES if shape != (66, 65)]
    ways = [{"state": "bfloat16"}, {"state": "int8"}, {"state": {"exp_avg": "int8"}, "weight_bits": 16}]
    ways += [
        {"weight_bits": 24, "state": "bfloat16"},
        {"weight_bits": 32, "state": "int8"},
        {"weight_bits": 16},
    ]
    for (mesh, placements), options in on_meshes(ways):
        half = "weight_bits" in options
        # Cut along their columns, rows of a block are no whole ones.
        cut = any(not p.is_replicate() and p.dim for p in placements)
        own = [(64, 64 * dist.get_world_size()), *shapes[1:]] if cut else shapes
        pair = Pair(
            lambda params, o=options: tw.AdamW(params, lr=0.01, seed=3, **o),
            *(mesh, placements, own, torch.bfloat16 if half else torch.float32),
        )
        pair.step(3)
        pair.assert_alike(options)
        assert batches(pair.optimizer) == {"DenseBatch"}
        assert_replicas_agree(pair.params)


@case()
def random_words_go_by_the_place_in_the_whole():
    for mesh, placements in meshes():
        for options in ({"state": "bfloat16"}, {"weight_bits": 16}):
            dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
            pair = Pair(
                lambda params, o=options: tw.AdamW(params, lr=0.01, **o),
                *(mesh, placements, [(66, 65), (33, 7, 19), (4099,)], dtype),
            )
            pair.step(3)
            pair.assert_alike(options)


@case()
def blocks_that_would_be_cut_are_bfloat16_on_any_mesh():
    count = dist.get_world_size()
    alone = DeviceMesh("cpu", [dist.get_rank()], _init_backend=False)
    for shape in ((66, 65), (4099,), (64, 3, 7, 7)):
        for mesh in (init_device_mesh("cpu", (count,)), alone):
            for placement in (Shard(0), Replicate()):
                pair = Pair(
                    lambda params: tw.AdamW(params, lr=0.01, state="int8"), mesh, [placement], [shape]
                )
                pair.oracle = tw.AdamW(pair.plain, lr=0.01, state="bfloat16")
                pair.step(2)
                pair.assert_alike(shape)


@case()
def gradients_are_brought_to_the_placements_of_their_parameters():
    for mesh, placements in meshes():
        pair = Pair(lambda params: tw.AdamW(params, lr=0.01, max_norm=1.0), mesh, placements)
        for times in range(4):
            pair.give()
            for param in pair.params:
                last = [Replicate()] * (mesh.ndim - 1)
                # Summands that are exact, so that their sum has the bits of the whole.
                grad = param.grad.full_tensor() if times % 2 else param.grad.full_tensor() / mesh.size(-1)
                other = [*last, Replicate() if times % 2 else Partial()]
                param.grad = DTensor.from_local(grad, mesh, other, shape=grad.shape, stride=grad.stride())
            pair.optimizer.step()
            pair.oracle.step()
        for param, plain in zip(pair.params, pair.plain, strict=True):
            assert param.grad.placements == param.placements
            torch.testing.assert_close(whole(param), plain)
        assert len(pair.optimizer._stepper._plans) <= 2  # parts of what was repeated are not contiguous


@case(4)
def gradients_of_any_strides_and_dtypes():
    for mesh, placements in meshes():
        pair = Pair(
            lambda params: tw.AdamW(params, lr=0.01, weight_bits=16),
            mesh,
            placements,
            [(66, 65)],
            torch.bfloat16,
        )
        for strided in (False, True, True, False):
            pair.give()
            (param,), (plain,) = pair.params, pair.plain
            if strided:
                local = param.grad.to_local()
                param.grad = dtensor(local.t().contiguous().t(), param.grad)
            pair.optimizer.step()
            pair.oracle.step()
            pair.assert_alike(strided)
        # What backward of a sum makes: one number for many elements.
        param.grad = dtensor(torch.ones(()).bfloat16().expand(param.to_local().shape), param.grad)
        plain.grad = torch.ones((66, 65), dtype=torch.bfloat16)
        pair.optimizer.step()
        pair.oracle.step()
        pair.assert_alike("expanded")


def dtensor(local: Tensor, like: DTensor) -> DTensor:
    return DTensor.from_local(
        local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )


@case(4)
def parameters_whose_memory_has_another_order():
    line = meshes()[0][0]
    for placement in (Shard(0), Shard(1)):
        for options in ({}, {"state": "bfloat16"}):
            value, grads = draw([(96, 65)], 0)[0].t(), [grad.t() for grad in draw([(96, 65)] * 3, 1)]
            (param, plain) = (
                nn.Parameter(distribute_tensor(value, line, [placement])),
                nn.Parameter(value.clone()),
            )
            ours, oracle = (tw.AdamW([p], lr=0.01, **options) for p in (param, plain))
            for grad in grads:
                param.grad, plain.grad = distribute_tensor(grad, line, [placement]), grad.clone()
                ours.step()
                oracle.step()
            assert param.stride() == plain.stride() == ours.state[param]["exp_avg"].stride()
            # The reference steps what is drawn for here, without fused products.
            torch.testing.assert_close(whole(param), plain.detach(), rtol=1e-5, atol=1e-5)


@case()
def dtensors_and_plain_tensors_in_one_optimizer():
    mesh, placements = meshes()[0]
    pair = Pair(
        lambda params: tw.AdamW(params, lr=0.01, state="int8", max_norm=0.5), mesh, placements, [(130, 64)]
    )
    more = [nn.Parameter(value) for value in draw([(70, 64), (5,)], 9)]
    others = [nn.Parameter(value.detach().clone()) for value in more]
    for optimizer, params in ((pair.optimizer, more), (pair.oracle, others)):
        optimizer.add_param_group({"params": params, "lr": 0.02})
    for seed in range(3):
        for param, other, grad in zip(more, others, draw([(70, 64), (5,)], 20 + seed), strict=True):
            param.grad, other.grad = grad, grad.clone()
        pair.step()
    pair.assert_alike()
    for param, other in zip(more, others, strict=True):
        assert torch.equal(param, other)


@case()
def gradients_may_be_missing():
    for mesh, placements in meshes():
        pair = Pair(lambda params: tw.AdamW(params, lr=0.01, state="bfloat16"), mesh, placements)
        for missing in ((), (0, 2), (1,), (), (0, 1, 2, 3)):
            pair.give()
            for i in missing:
                pair.params[i].grad = pair.plain[i].grad = None
            pair.optimizer.step()
            pair.oracle.step()
        pair.assert_alike()


@case()
def a_step_calls_nothing_of_torchs():
    for options in ({}, {"state": "int8"}, {"weight_bits": 16}):
        mesh, placements = meshes()[0]
        pair = Pair(lambda params, o=options: tw.AdamW(params, lr=0.01, **o), mesh, placements)
        pair.step(2)
        pair.give()
        with torch.profiler.profile() as profile:
            for _ in range(3):
                pair.optimizer.step()
        called = {event.name for event in profile.events() if "::" in event.name}
        assert not called, called


@case()
def a_step_tells_autograd():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.SGD(params, lr=0.1), mesh, placements, [(8, 64)])
    (param,) = pair.params
    pair.step()
    before = param._version, param._local_tensor._version
    squares = (param * param).sum(), (param.to_local() ** 2).sum()
    pair.step()
    after = param._version, param._local_tensor._version
    assert all(map(int.__lt__, before, after))
    for loss in squares:
        with pytest.raises(RuntimeError, match=r"modified( by an)? inplace"):
            loss.backward()


@case(2)
def nothing_is_left_behind_by_steps():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.01, max_norm=1.0), mesh, placements, [(8, 3), (5,)])
    pair.give()
    locals_, counts = [param.grad.to_local() for param in pair.params], []
    for times in (20, LEAK_STEPS, LEAK_STEPS):
        for step in range(times):
            for param, local in zip(pair.params, locals_, strict=True):
                if param.grad is None:
                    param.grad = dtensor(local.clone(), param)
            pair.optimizer.step()
            pair.optimizer.zero_grad(set_to_none=bool(step % 2))
        gc.collect()
        counts.append((len(gc.get_objects()), sys.getallocatedblocks()))
    assert counts[2][0] - counts[1][0] < 50, counts
    assert counts[2][1] - counts[1][1] < 300, counts


@case()
def what_cannot_be_stepped_is_refused_before_anything_has_changed():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.01), mesh, placements, [(8, 64), (5, 3)])
    pair.give()
    before = [whole(param).clone() for param in pair.params]
    pair.params[1].grad = torch.zeros(5, 3)
    with pytest.raises(TypeError, match="cannot take a Tensor as its gradient"):
        pair.optimizer.step()
    plain = nn.Parameter(torch.zeros(8, 64))
    plain.grad = pair.params[0].grad
    with pytest.raises(TypeError, match="cannot take a DTensor as its gradient"):
        tw.AdamW([plain]).step()
    for param, value in zip(pair.params, before, strict=True):
        assert torch.equal(whole(param), value)
    assert not pair.optimizer.state


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


@case()
def fsdp2_trains_as_torch_does():
    ways: list[DeviceMesh | None] = [None]
    if dist.get_world_size() == 4:
        ways.append(init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard")))
    for mesh in ways:
        one, other = sharded(torch.float64, mesh), sharded(torch.float64, mesh)
        ours = tw.AdamW(one.parameters(), lr=0.01, weight_decay=0.1)
        theirs = torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.1)
        train(one, ours, 10)
        train(other, theirs, 10)
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(whole(a), whole(b), rtol=1e-12, atol=1e-14)
            for name in ("exp_avg", "exp_avg_sq", "step"):
                mine, other_state = ours.state[a][name], theirs.state[b][name]
                assert (type(mine), mine.shape) == (type(other_state), other_state.shape)
                torch.testing.assert_close(whole(mine), whole(other_state), rtol=1e-12, atol=1e-14)
                if name != "step":
                    assert (mine.placements, mine.device_mesh) == (a.placements, a.device_mesh)
                    assert mine.stride() == a.stride()
        assert batches(ours) == {"DenseBatch"}
        assert len(ours._stepper._plans) == 1


@case(4)
def fsdp2_on_tensor_parallel_layers():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Linear(64, 3)).double()
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        return fully_shard(net, mesh=mesh["dp"])

    one, other = made(), made()
    ours, theirs = tw.AdamW(one.parameters(), lr=0.01), torch.optim.AdamW(other.parameters(), lr=0.01)
    train(one, ours, 5)
    train(other, theirs, 5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(a), whole(b), rtol=1e-12, atol=1e-14)
    assert batches(ours) == {"DenseBatch"}


@case(4)
def tensor_parallel_alone():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Linear(64, 3)).double()
        return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    one, other = made(), made()
    ours, theirs = tw.AdamW(one.parameters(), lr=0.01), torch.optim.AdamW(other.parameters(), lr=0.01)
    train(one, ours, 5)
    train(other, theirs, 5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(a), whole(b), rtol=1e-12, atol=1e-14)
    assert batches(ours) == {"DenseBatch"}


@case(4)
def the_reference_steps_shards_too():
    """As it does where there is no kernel."""
    kind = plan._kind
    plan._kind = lambda sort: ReferenceBatch
    try:
        for mesh, placements in meshes():
            for options in ({"state": "bfloat16"}, {"weight_bits": 16}, {"state": "int8"}, {"max_norm": 0.5}):
                if "int8" in options.values() and any(not p.is_replicate() and p.dim for p in placements):
                    continue
                shapes = [(130, 64), (66, 65)] if "int8" not in options.values() else [(130, 64), (3,)]
                dtype = torch.bfloat16 if "weight_bits" in options else torch.float32
                pair = Pair(
                    lambda params, o=options: tw.AdamW(params, lr=0.01, **o), mesh, placements, shapes, dtype
                )
                pair.step(3)
                assert batches(pair.optimizer) == {"ReferenceBatch"}
                if "max_norm" in options:
                    for param, plain in zip(pair.params, pair.plain, strict=True):
                        torch.testing.assert_close(whole(param), plain.detach(), rtol=2e-6, atol=2e-7)
                else:
                    pair.assert_alike(options)
                assert_replicas_agree(pair.params)
    finally:
        plan._kind = kind


@case(2)
def a_first_step_that_is_rounded_away_is_told_of():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.SGD(params, lr=1e-6), mesh, placements, [(130, 64)], torch.bfloat16)
    pair.give()
    with pytest.warns(UserWarning, match="rounded away"):
        pair.optimizer.step()
