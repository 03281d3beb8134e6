"""Parameters that processes share, on a GPU: one process and NCCL (gloo in the interpreter)."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import host_kernels
from interpreter import INTERPRETED
from support import assert_close, gradients, leaf, rand
from torch import nn

import thalweg as tw

if not torch.distributed.is_available():
    pytest.skip("torch was built without torch.distributed", allow_module_level=True)

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

SHAPES = ((66, 64), (30,), (8, 3, 64))
MAKERS = {
    "adamw": lambda params: tw.AdamW(params, lr=0.01, weight_decay=0.1),
    "int8": lambda params: tw.AdamW(params, lr=0.01, state="int8", seed=3),
    "clipped": lambda params: tw.SGD(params, lr=0.1, momentum=0.9, max_norm=1.0, statistics=True),
    "guarded": lambda params: tw.NAdam(params, lr=0.01, skip_nonfinite=3, average=0.9),
    "free": lambda params: tw.AdamW(params, lr=0.01, betas=(0.0, 0.99), schedule_free=0.9),
    "dog": lambda params: tw.SGD(params, lr=1.0, dog=True, dog_first=1e-2),
    "prodigy": lambda params: tw.Prodigy(params, d0=1e-3),
    "rms": lambda params: tw.RMSprop(params, lr=0.01, momentum=0.9, momentum_ema=True, debias=True),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
PLACES = pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    kind = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
    if kind == "cuda" and not torch.distributed.is_nccl_available():
        pytest.skip("torch was built without NCCL")
    store = f"file://{tmp_path_factory.mktemp('processes')}/store"
    backend = "nccl" if kind == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        yield init_device_mesh(kind, (1,))
    finally:
        torch.distributed.destroy_process_group()


def placed(tensor, mesh, placement):
    dim = getattr(placement, "dim", 0)
    return distribute_tensor(
        tensor.to(mesh.device_type), mesh, [placement if dim < tensor.dim() else Shard(0)]
    )


def shared(mesh, placement):
    return [nn.Parameter(placed(rand(*s, seed=i).float(), mesh, placement)) for i, s in enumerate(SHAPES)]


def whole(value):
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def step(optimizer, params, mesh, placement, count=3):
    plain = [torch.empty(shape) for shape in SHAPES]
    for grads in gradients(plain, count):
        for p, g in zip(params, grads, strict=True):
            p.grad = placed(g, mesh, placement) if isinstance(p, DTensor) else g.clone()
        optimizer.step()


@PLACES
@makers
def test_parts_are_stepped_as_one_process_steps_the_whole(make, placement, mesh):
    params = shared(mesh, placement)
    optimizer = make(params)
    step(optimizer, params, mesh, placement)
    with host_kernels():
        plain = [leaf(rand(*shape, seed=i).float()) for i, shape in enumerate(SHAPES)]
        oracle = make(plain)
        step(oracle, plain, mesh, placement)
    for p, q in zip(params, plain, strict=True):
        assert p.placements == placed(q, mesh, placement).placements
        assert_close(whole(p), q, 1e-4)
        assert optimizer.state[p].keys() == oracle.state[q].keys()
        for name, value in oracle.state[q].items():
            found = optimizer.state[p][name]
            assert found.device.type in ("cpu", mesh.device_type)
            if value.dtype.is_floating_point:
                assert_close(whole(found).reshape(value.shape), value, 1e-4)
    for mine, theirs in zip(optimizer.statistics(), oracle.statistics(), strict=True):
        for name, value in theirs.items():
            assert float(mine[name]) == pytest.approx(float(value), rel=1e-4)


@makers
def test_state_that_is_made_before_takes_a_state_dict(make, mesh):
    params = shared(mesh, Shard(0))
    first = make(params)
    step(first, params, mesh, Shard(0), 2)
    others = [nn.Parameter(placed(whole(p), mesh, Shard(0))) for p in params]
    second = make(others)
    second.init_state()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, own in ((first, params), (second, others)):
        step(optimizer, own, mesh, Shard(0), 1)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(whole(p), whole(q))


def test_fully_sharded_training(mesh):
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)).to(mesh.device_type)
    twin = copy.deepcopy(net)
    fully_shard(net, mesh=mesh)
    mine = tw.AdamW(net.parameters(), lr=0.01, max_norm=1.0)
    theirs = tw.AdamW(twin.parameters(), lr=0.01, max_norm=1.0)
    for i in range(3):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(i)).to(mesh.device_type)
        for model, optimizer in ((net, mine), (twin, theirs)):
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert isinstance(p, DTensor)
        assert_close(whole(p), q.detach().cpu(), 1e-3)
