"""Cases of what has to be known of all of a tensor, or of all of them, before a step."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.distributed as dist
from pairs import Pair, assert_replicas_agree, draw, meshes, on_meshes, placed, whole
from processes import case
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

import thalweg as tw

MEASURING = (
    ("AdamW", {"max_norm": 0.5}),
    ("AdamW", {"lamb": True, "max_norm": 0.5}),
    ("SGD", {"lars": True, "momentum": 0.9}),
    ("AdamW", {"max_step_rms": 0.3}),
    ("SGD", {"dog": True, "lr": 1.0}),
    ("Prodigy", {"lr": 1.0}),
    ("AdamW", {"max_norm": 0.5, "state": "int8"}),
)


@case()
def measures_are_of_whole_tensors():
    shapes = ((130, 64), (7, 3), (3,), (1, 128), (5, 4, 3, 3))
    for (mesh, placements), (name, options) in on_meshes(MEASURING):
        if "state" in options and any(not p.is_replicate() and p.dim for p in placements):
            continue
        pair = Pair(
            lambda params, n=name, o=options: getattr(tw, n)(params, **{"lr": 0.01, **o}),
            *(mesh, placements, shapes),
        )
        pair.step(3)
        for param, plain in zip(pair.params, pair.plain, strict=True):
            # Sums over parts are other sums, in float64.
            torch.testing.assert_close(whole(param), plain.detach(), rtol=2e-6, atol=2e-7)
        assert_replicas_agree(pair.params)


@case()
def one_collective_takes_all_measures_of_a_stage():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.01, max_norm=0.5, skip_nonfinite=3), mesh, placements)
    pair.step(2)
    pair.give()
    with torch.profiler.profile() as profile:
        pair.optimizer.step()
    found = [event.name for event in profile.events() if event.name == "c10d::allgather_"]
    assert len(found) == 1, {event.name for event in profile.events()}


@case(4)
def statistics_are_of_whole_tensors():
    for mesh, placements in meshes():
        pair = Pair(lambda params: tw.AdamW(params, lr=0.01, statistics=True), mesh, placements)
        pair.step(2)
        for ours, theirs in zip(pair.optimizer.statistics(), pair.oracle.statistics(), strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=0)


@case()
def all_processes_skip_what_is_not_finite_in_one():
    mesh, placements = meshes()[0]
    pair = Pair(
        lambda params: tw.AdamW(params, lr=0.01, skip_nonfinite=5, state="bfloat16"), mesh, placements
    )
    pair.step(2)
    pair.give()
    before = [whole(param).clone() for param in pair.params]
    if dist.get_rank() == 1:
        pair.params[0].grad.to_local()[0, 0] = float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair.optimizer.step()
    assert pair.optimizer.skipped_steps == 1
    for param, value in zip(pair.params, before, strict=True):
        assert torch.equal(whole(param), value)
    for param, plain in zip(pair.params, pair.plain, strict=True):
        plain.grad = None
        param.grad = None
    pair._seeds = itertools.count(50)
    pair.step(2)
    pair.assert_alike()


@case()
def gradscaler_skips_in_all_processes():
    for fused in (False, True):
        mesh, placements = meshes()[0]
        pair = Pair(lambda params, f=fused: tw.AdamW(params, lr=0.01, fused=f), mesh, placements)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        scaler.scale(torch.ones(()))  # makes the scale
        for overflows in (False, True, False):
            pair.give()
            for param in pair.params:
                param.grad.mul_(scaler.get_scale())
            if overflows and dist.get_rank() == 1:
                pair.params[0].grad.to_local()[0, 0] = float("inf")
            scaler.step(pair.optimizer)
            scaler.update()
            if not overflows:
                pair.oracle.step()
        assert scaler.get_scale() == 4.0
        pair.assert_alike(fused)


@case(4)
def several_meshes_in_one_optimizer():
    count = dist.get_world_size()
    line = init_device_mesh("cpu", (count,))
    found = [(line, (Shard(0),)), (line, (Replicate(),))]
    if count == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        found += [(square, (Shard(0), Shard(1))), (square, (Replicate(), Shard(0)))]
    values = draw([(9, 64)] * len(found), 0)
    ours = [nn.Parameter(placed(v, *where)) for v, where in zip(values, found, strict=True)]
    plain = [nn.Parameter(value.clone()) for value in values]
    one, other = (tw.AdamW(params, lr=0.01, max_norm=0.5, lamb=True) for params in (ours, plain))
    for seed in range(1, 4):
        for a, b, grad in zip(ours, plain, draw([(9, 64)] * len(found), seed), strict=True):
            a.grad, b.grad = placed(grad, a.device_mesh, a.placements), grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(whole(a), b.detach(), rtol=2e-6, atol=2e-7)


@case(4)
def clipping_is_that_of_torch():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.SGD(params, lr=1.0, max_norm=0.5), mesh, placements)
    twin = Pair(lambda params: tw.SGD(params, lr=1.0), mesh, placements)
    for one in (pair, twin):
        one.give()
    torch.nn.utils.clip_grad_norm_(twin.params, 0.5)
    pair.optimizer.step()
    twin.optimizer.step()
    for a, b in zip(pair.params, twin.params, strict=True):
        torch.testing.assert_close(whole(a), whole(b), rtol=1e-6, atol=1e-7)


@case()
def a_limit_of_skipped_steps_ends_all_processes():
    mesh, placements = meshes()[0]
    pair = Pair(lambda params: tw.AdamW(params, lr=0.01, skip_nonfinite=1), mesh, placements)
    pair.give()
    if dist.get_rank() == 0:
        pair.params[0].grad.to_local().fill_(float("inf"))
    with pytest.raises(FloatingPointError):
        pair.optimizer.step()
