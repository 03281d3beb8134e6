"""Steps on the host for parameters of a GPU, beside the host's own steps on the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.optimizer import offload

SETTINGS = [
    (torch.float32, {"state": "int8"}),
    (torch.bfloat16, {"weight_bits": 32}),
    (torch.bfloat16, {"state": "int8", "weight_bits": 24, "max_norm": 0.1}),
]


def twins(cuda, dtype, settings):
    """Return a model of the GPU with steps on the host, and its copy on the host."""
    torch.manual_seed(0)
    there = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6))).to(cuda, dtype)
    here = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6))).to(dtype)
    here.load_state_dict(there.state_dict())
    optimizers = [tw.AdamW(model.parameters(), lr=0.01, **settings) for model in (there, here)]
    optimizers[0].offload()
    return (there, optimizers[0]), (here, optimizers[1])


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    param = next(model.parameters())
    inputs = torch.randn(64, 256, generator=generator).to(param.device, param.dtype)
    model(inputs).float().square().mean().backward()


def take(model, gradients):
    """Have the gradients of another model, as they are before a step."""
    for param, grad in zip(model.parameters(), gradients, strict=True):
        param.grad = grad.cpu()


def train(away, plain, begin, end):
    for step in range(begin, end):
        away[1].zero_grad()
        backward(away[0], step)
        take(plain[0], [param.grad for param in away[0].parameters()])
        away[1].step()
        plain[1].step()


def same(away, plain):
    for one, other in zip(away[0].parameters(), plain[0].parameters(), strict=True):
        assert torch.equal(one.cpu(), other)
    for one, other in zip(*(o.state_dict()["state"].values() for o in (away[1], plain[1])), strict=True):
        for name, value in one.items():
            assert value.device.type == "cpu"
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("least", [1, 1 << 30], ids=["chunks", "whole"])
@pytest.mark.parametrize(("dtype", "settings"), SETTINGS, ids=str)
def test_steps_are_the_hosts_own(cuda, dtype, settings, least, monkeypatch):
    monkeypatch.setattr(offload, "LEAST_CHUNK", least)
    away, plain = twins(cuda, dtype, settings)
    train(away, plain, 0, 5)
    same(away, plain)
    with torch.no_grad():
        for model in (away[0], plain[0]):
            model[0].bias.add_(1)
    train(away, plain, 5, 7)
    same(away, plain)


def test_steps_of_streams_and_backward(cuda):
    away, plain = twins(cuda, torch.float32, {})
    with torch.cuda.stream(torch.cuda.Stream()):
        train(away, plain, 0, 3)
        torch.cuda.synchronize()
    same(away, plain)
    away[1].in_backward(hold=0)
    gradients: dict[nn.Parameter, torch.Tensor] = {}
    handles = [
        param.register_post_accumulate_grad_hook(lambda p: gradients.update({p: p.grad.cpu()}))
        for param in away[0].parameters()
    ]
    backward(away[0], 3)
    for handle in handles:
        handle.remove()
    take(plain[0], [gradients[param] for param in away[0].parameters()])
    plain[1].step()
    same(away, plain)


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_skips_and_goes_on(cuda, fused):
    away, plain = twins(cuda, torch.float32, {"fused": fused})
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8)
    for step in range(4):
        away[1].zero_grad()
        inputs = torch.randn(64, 256, generator=torch.Generator().manual_seed(step)).to(cuda)
        loss = away[0](inputs).square().mean()
        scaler.scale(loss * float("inf") if step == 2 else loss).backward()
        take(plain[0], [param.grad / scaler.get_scale() for param in away[0].parameters()])
        scaler.step(away[1])
        scaler.update()
        if step != 2:
            plain[1].step()
    same(away, plain)


def test_state_moves_to_the_host_and_back(cuda):
    away, plain = twins(cuda, torch.float32, {"state": "int8"})
    train(away, plain, 0, 2)
    away[1].load_state_dict(copy.deepcopy(plain[1].state_dict()))
    train(away, plain, 2, 3)
    same(away, plain)
    away[1]._offload.remove()
    train(away, plain, 3, 4)
    own = next(iter(away[1].state.values()))
    assert all(value.device.type == "cuda" for value in own.values())
    away[1].offload()
    train(away, plain, 4, 5)
    assert all(value.device.type == "cpu" for value in next(iter(away[1].state.values())).values())


def test_a_graph_is_refused(cuda):
    away, plain = twins(cuda, torch.float32, {})
    train(away, plain, 0, 1)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="cannot capture"), torch.cuda.graph(graph):
        away[1].step()
