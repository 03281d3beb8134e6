"""Whole training steps on a GPU: compiled, under autocast, distributed."""

from __future__ import annotations

import copy

import pytest
import torch
from support import assert_close
from torch import nn

import thalweg as tw


def network(device):
    torch.manual_seed(0)
    return nn.Sequential(
        # Without a bias, whose gradient before a normalization is rounding noise, and Adam scales noise up.
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 10),
    ).to(device)


def data(device):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 3, 8, 8, generator=generator)
    return x.to(device), torch.randint(10, (16,), generator=generator).to(device)


def train(model, optimizer, x, y, steps=5):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def assert_trained_alike(net, twin, rtol=1e-3):
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, rtol)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_training_is_torchs(name, device):
    net = network(device)
    twin, (x, y) = copy.deepcopy(net), data(device)
    kwargs = {"lr": 1e-3} if name != "SGD" else {"lr": 1e-3, "momentum": 0.9}
    train(net, getattr(tw, name)(net.parameters(), **kwargs), x, y)
    train(twin, getattr(torch.optim, name)(twin.parameters(), foreach=False, **kwargs), x, y)
    assert_trained_alike(net, twin)


@pytest.mark.parametrize("state", ["int8", "bfloat16"])
def test_training_with_state_in_fewer_bytes_comes_as_far(state, device):
    net = network(device)
    twin, (x, y) = copy.deepcopy(net), data(device)
    begun = nn.functional.cross_entropy(net(x), y).item()
    packed = train(net, tw.AdamW(net.parameters(), state=state), x, y)
    plain = train(twin, tw.AdamW(twin.parameters()), x, y)
    assert abs(packed - plain) < 0.05 * (begun - plain)


def test_channels_last_training(device):
    net = network(device)
    twin, (x, y) = copy.deepcopy(net), data(device)
    net = net.to(memory_format=torch.channels_last)
    train(net, tw.AdamW(net.parameters()), x.contiguous(memory_format=torch.channels_last), y)
    train(twin, torch.optim.AdamW(twin.parameters(), foreach=False), x, y)
    assert_trained_alike(net, twin, rtol=1e-2)


def test_autocast(device):
    net = network(device)
    twin, (x, y) = copy.deepcopy(net), data(device)
    with torch.autocast(device.type, torch.bfloat16):
        # The step is taken inside too, where nothing of it may be cast.
        train(net, tw.AdamW(net.parameters()), x, y)
        train(twin, torch.optim.AdamW(twin.parameters(), foreach=False), x, y)
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert_trained_alike(net, twin, rtol=1e-2)


def test_compiled_forward_and_backward(cuda):
    net = network(cuda)
    twin, (x, y) = copy.deepcopy(net), data(cuda)
    train(torch.compile(net), tw.AdamW(net.parameters()), x, y)
    train(torch.compile(twin), torch.optim.AdamW(twin.parameters(), foreach=False), x, y)
    assert_trained_alike(net, twin)


def test_a_compiled_training_step(cuda):
    net = network(cuda)
    twin, (x, y) = copy.deepcopy(net), data(cuda)
    optimizer = tw.AdamW(net.parameters())

    @torch.compile
    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    for _ in range(5):
        step()
    train(twin, torch.optim.AdamW(twin.parameters(), foreach=False), x, y)
    assert_trained_alike(net, twin)


def test_reduced_overhead(cuda):
    # Forward and backward as graphs of torch's own, gradients in their memory.
    net = network(cuda)
    twin, (x, y) = copy.deepcopy(net), data(cuda)
    train(torch.compile(net, mode="reduce-overhead"), tw.AdamW(net.parameters(), state="int8"), x, y, steps=8)
    train(twin, tw.AdamW(twin.parameters(), state="int8"), x, y, steps=8)
    assert_trained_alike(net, twin, rtol=5e-2)


@pytest.mark.parametrize("as_view", [False, True])
def test_distributed_data_parallel(as_view, device, tmp_path):
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
    try:
        net = network(device)
        twin, (x, y) = copy.deepcopy(net), data(device)
        wrapped = nn.parallel.DistributedDataParallel(
            net, device_ids=[0] if device.type == "cuda" else None, gradient_as_bucket_view=as_view
        )
        train(wrapped, tw.AdamW(wrapped.parameters()), x, y)
        train(twin, tw.AdamW(twin.parameters()), x, y)
        assert_trained_alike(net, twin)
    finally:
        torch.distributed.destroy_process_group()


def test_the_step_in_a_hook_of_backward(device):
    # Autograd's own thread takes these steps, on the stream of the forward pass.
    net = network(device)
    twin, (x, y) = copy.deepcopy(net), data(device)
    optimizers = {p: tw.AdamW([p]) for p in net.parameters()}

    def step(p):
        optimizers[p].step()
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        nn.functional.cross_entropy(net(x), y).backward()
    train(twin, tw.AdamW(twin.parameters()), x, y, steps=3)
    assert_trained_alike(net, twin)
