"""Cases of training: models as FSDP2 and tensor parallel layers have them, and what a step leaves behind."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from pairs import (
    Pair,
    assert_replicas_agree,
    batches,
    dtensor,
    meshes,
    sharded,
    train,
    whole,
)
from processes import case
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

import thalweg as tw
from thalweg.stepping import plan
from thalweg.stepping.batches import ReferenceBatch

LEAK_STEPS = int(os.environ.get("THALWEG_TEST_LEAK_STEPS", "200"))
"""10,000 were tried."""


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
        assert len(ours._stepper._planner._plans) == 1


def steps_as_torchs_does(made: Callable[[], nn.Module]) -> None:
    """Train two of a module, with our AdamW by the kernels and with torch's, and see them end alike."""
    one, other = made(), made()
    ours, theirs = tw.AdamW(one.parameters(), lr=0.01), torch.optim.AdamW(other.parameters(), lr=0.01)
    train(one, ours, 5)
    train(other, theirs, 5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(a), whole(b), rtol=1e-12, atol=1e-14)
    assert batches(ours) == {"DenseBatch"}


@case(4)
def fsdp2_on_tensor_parallel_layers():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))

    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Linear(64, 3)).double()
        parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        return fully_shard(net, mesh=mesh["dp"])

    steps_as_torchs_does(made)


@case(4)
def tensor_parallel_alone():
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(7, 64), nn.Tanh(), nn.Linear(64, 3)).double()
        return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    steps_as_torchs_does(made)


@case(4)
def the_reference_steps_shards_too():
    """As it does where there is no kernel."""
    kind = plan.batch_for
    plan.batch_for = lambda sort: ReferenceBatch
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
        plan.batch_for = kind


@case(2)
def a_first_step_that_is_rounded_away_is_told_of():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.SGD(params, lr=1e-6), mesh, placements, [(130, 64)], torch.bfloat16)
    pair.give()
    with pytest.warns(UserWarning, match="rounded away"):
        pair.optimizer.step()
