"""Checkpoints between devices, and between us and torch."""

from __future__ import annotations

import io

import pytest
import torch
from devices import host_kernels
from runs import assert_equal, run, start
from support import ONE_EACH, assert_close, follow, gradients, label, leaf, oracle, ours

one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
STORAGES = pytest.mark.parametrize(
    "storage", [{}, {"state": "int8"}, {"state": "bfloat16"}, {"state": "int8", "weight_bits": 24}], ids=str
)
SHAPES = ((4096,), (30,), ())


def saved(state_dict, device):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location=device)


@STORAGES
@one_each
def test_a_resumed_run_is_the_uninterrupted_one(configuration, storage, device):
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    straight = run(configuration, device, 4, dtype, SHAPES, **storage)
    params = start(device, dtype, SHAPES)
    first = ours((configuration[0], {**configuration[1], **storage}), params)
    steps = gradients(params, 4)
    follow(first, params, steps[:2])
    second = ours((configuration[0], {**configuration[1], **storage}), params)
    second.load_state_dict(saved(first.state_dict(), "cpu"))
    follow(second, params, steps[2:])
    assert_equal(straight, (params, second))


@pytest.mark.parametrize("to_device", [True, False])
@STORAGES
@one_each
def test_a_checkpoint_changes_devices(configuration, storage, to_device, device):
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    configuration = (configuration[0], {**configuration[1], **storage})

    def begun(place):
        params = start(place, dtype, SHAPES)
        optimizer = ours(configuration, params)
        follow(optimizer, params, steps[:2])
        return params, optimizer

    def gone_on(place, params, checkpoint):
        moved = [leaf(p.detach().to(place)) for p in params]
        optimizer = ours(configuration, moved)
        optimizer.load_state_dict(checkpoint)
        follow(optimizer, moved, steps[2:])
        assert all(v.device.type == place.type for p in moved for v in optimizer.state[p].values() if v.dim())
        return moved, optimizer

    steps = gradients(start("cpu", dtype, SHAPES), 3)
    host = torch.device("cpu")
    if to_device:
        with host_kernels():
            params, first = begun(host)
        checkpoint = saved(first.state_dict(), "cpu")
        moved, second = gone_on(device, params, checkpoint)
        with host_kernels():
            follow(first, params, steps[2:])
    else:
        params, first = begun(device)
        checkpoint = saved(first.state_dict(), device)
        with host_kernels():
            moved, second = gone_on(host, params, checkpoint)
        follow(first, params, steps[2:])
    for p, q in zip(moved, params, strict=True):
        assert_close(p, q, rtol=1e-5 if dtype == torch.float32 else 2**-7)
        for name, value in first.state[q].items():
            other = second.state[p][name]
            assert other.dtype == value.dtype
            if value.dtype in (torch.int8, torch.uint8, torch.bfloat16) and "correction" not in name:
                assert (other.cpu() != value.cpu()).float().mean() < 0.01


@one_each
def test_torchs_checkpoint_goes_on_here(configuration, device):
    theirs = [leaf(p.detach()) for p in start("cpu", torch.float64, SHAPES)]
    b = oracle(configuration, theirs)
    steps = gradients(theirs, 4)
    follow(b, theirs, steps[:2])
    mine = [leaf(p.detach().to(device)) for p in theirs]
    a = ours(configuration, mine)
    a.load_state_dict(saved(b.state_dict(), device))
    follow(a, mine, steps[2:])
    follow(b, theirs, steps[2:])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q)


@pytest.mark.parametrize("form", ["plain", "fused", "foreach", "capturable"])
@one_each
def test_our_checkpoint_goes_on_in_torch(configuration, form, device):
    name, kwargs = configuration
    if form == "fused" and name not in ("SGD", "Adam", "AdamW", "Adagrad"):
        pytest.skip("torch has no fused form")
    if form == "fused" and name == "Adagrad" and device.type == "cuda":
        pytest.skip("torch's fused Adagrad has no CUDA kernel")
    if form == "capturable" and (name in ("SGD", "Adagrad") or device.type == "cpu"):
        pytest.skip("torch has no capturable form")
    if form == "fused" and device.type == "cpu" and kwargs.get("amsgrad"):
        pytest.skip("torch's fused form on the CPU is its own business")
    mine = start(device, torch.float64, SHAPES)
    a = ours(configuration, mine)
    steps = gradients(mine, 4)
    follow(a, mine, steps[:2])
    theirs = [leaf(p.detach()) for p in mine]
    options = {"foreach": False} if form == "plain" else {form: True}
    b = getattr(torch.optim, name)(theirs, **kwargs, **options)
    b.load_state_dict(saved(a.state_dict(), device))
    b.param_groups[0].update(options)  # torch takes these from a checkpoint too
    follow(a, mine, steps[2:])
    follow(b, theirs, steps[2:])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, rtol=1e-6)
