"""Steps in backward on a GPU, where autograd has a thread of its own: the plain steps, in less memory."""

from __future__ import annotations

import copy
import io
import math
from contextlib import nullcontext

import pytest
import torch
from devices import aside, capture, host_kernels, no_waiting
from interpreter import smaller
from support import assert_close
from torch import nn
from torch.utils.checkpoint import checkpoint

import thalweg as tw

MAKERS = {
    "plain": lambda params: tw.AdamW(params, lr=0.01),
    "int8": lambda params: tw.AdamW(params, lr=0.01, state="int8", seed=3),
    "clipped": lambda params: tw.SGD(params, lr=0.1, momentum=0.9, max_value=0.01, lars=True),
    "free": lambda params: tw.AdamW(params, lr=0.01, betas=(0.0, 0.99), schedule_free=0.9),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def stack(device, width=64, layers=3):
    torch.manual_seed(0)
    made = [one for _ in range(layers) for one in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*made).to(device)


def batch(i, device, width=64):
    return torch.randn(16, width, generator=torch.Generator().manual_seed(i)).to(device)


def backward(model, x):
    (model(x) - x.flip(0)).square().mean().backward()


def assert_same(a, b):
    """Assert that two models with their optimizers are alike, bit for bit, wherever they lie."""
    (model, one), (twin, other) = a, b
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.cpu(), q.cpu())
    mine, theirs = (optimizer.state_dict()["state"] for optimizer in (one, other))
    assert mine.keys() == theirs.keys()
    for i, own in mine.items():
        assert own.keys() == theirs[i].keys()
        assert all(torch.equal(value.cpu(), theirs[i][name].cpu()) for name, value in own.items()), i


def pair(device, make):
    model = stack(device)
    twin = copy.deepcopy(model)
    return (model, make(model.parameters())), (twin, make(twin.parameters()))


def plain_step(model, optimizer, x):
    optimizer.zero_grad()
    backward(model, x)
    optimizer.step()


@pytest.mark.parametrize("hold", [0, None])
@makers
def test_parts_are_the_whole_step_and_nothing_is_waited_for(make, hold, device):
    (model, optimizer), (twin, other) = pair(device, make)
    optimizer.in_backward(hold=hold)
    batches = [batch(i, device) for i in range(4)]
    for i, x in enumerate(batches):
        plain_step(twin, other, x)
        if i < 2:
            backward(model, x)
            continue
        with no_waiting(device):
            backward(model, x)
    assert all(p.grad is None for p in model.parameters())
    assert_same((model, optimizer), (twin, other))


def test_clipping_by_the_last_norm_waits_for_nothing_and_is_the_hosts(device):
    def trained(place, quietly):
        model = stack(place)
        optimizer = tw.SGD(model.parameters(), lr=0.1, max_norm=0.05)
        optimizer.in_backward(hold=0, clip_by_last_norm=True)
        for i, x in enumerate([batch(i, place) for i in range(4)]):
            if i >= 2 and quietly:
                with no_waiting(place):
                    backward(model, x)
            else:
                backward(model, x)
        return model

    with host_kernels() as host:
        expected = trained(host, False)
    for p, q in zip(trained(device, True).parameters(), expected.parameters(), strict=True):
        assert_close(p, q, 1e-4)


def test_accumulation(device):
    (model, optimizer), (twin, other) = pair(device, MAKERS["plain"])
    optimizer.in_backward(every=2)
    for i in range(4):
        backward(model, batch(i, device))
        backward(twin, batch(i, device))
        if i % 2:
            other.step()
            other.zero_grad()
    with optimizer.accumulating():
        backward(model, batch(4, device))
    assert all(p.grad is not None for p in model.parameters())
    optimizer.zero_grad()
    assert_same((model, optimizer), (twin, other))


def test_scaled_parts_are_the_whole_step_and_an_overflow_is_not_waited_for(device):
    (model, optimizer), (twin, other) = pair(device, MAKERS["int8"])
    scaler = torch.amp.GradScaler(device.type, init_scale=8.0)
    optimizer.in_backward(hold=0, scaler=scaler)
    for i, x in enumerate([batch(i, device) for i in range(4)]):
        plain_step(twin, other, x)
        with nullcontext() if i < 2 else no_waiting(device):
            scaler.scale((model(x) - x.flip(0)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same((model, optimizer), (twin, other))
    first, last = model[0].weight, model[-2].weight  # the last is stepped first
    before = [p.detach().clone() for p in (first, last)]
    model[2].weight.register_hook(lambda grad: grad * math.inf)
    x = batch(4, device)
    with no_waiting(device):
        scaler.scale((model(x) - x.flip(0)).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(first, before[0])
    assert not torch.equal(last, before[1])
    assert scaler.get_scale() == 4.0


def test_a_checkpoint_between_passes_goes_to_the_host_and_comes_back(device):
    (model, optimizer), (twin, other) = pair(device, MAKERS["int8"])
    optimizer.in_backward(hold=0)
    for i in range(2):
        backward(model, batch(i, device))
        plain_step(twin, other, batch(i, device))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True, map_location="cpu")
    with host_kernels() as host:
        moved = copy.deepcopy(twin).to(host)
        theirs = MAKERS["int8"](moved.parameters())
        theirs.load_state_dict(copy.deepcopy(saved))
        assert_same((moved, theirs), (twin, other))
    optimizer.load_state_dict(saved)
    backward(model, batch(2, device))
    plain_step(twin, other, batch(2, device))
    assert_same((model, optimizer), (twin, other))


# --- graphs and streams ---


CAPTURED = {
    **MAKERS,
    "last norm": lambda params: tw.SGD(params, lr=0.1, momentum=0.9, max_norm=0.05),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_pass_is_captured(name, device):
    (model, optimizer), (twin, other) = pair(device, CAPTURED[name])
    by_last = name == "last norm"
    optimizer.in_backward(hold=0, clip_by_last_norm=by_last)
    if by_last:
        other.in_backward(hold=0, clip_by_last_norm=True)
    x = batch(0, device)
    graph = None
    for i in range(6):
        backward(twin, batch(i, device))
        if not by_last:
            other.step()
            other.zero_grad()
        x.copy_(batch(i, device))
        if i == 3:
            graph = capture(device, lambda: backward(model, x))
        if graph is None:
            aside(device, lambda: backward(model, x))
        else:
            graph.replay()
    assert_same((model, optimizer), (twin, other))


def test_streams_take_turns(cuda):
    (model, optimizer), (twin, other) = pair(cuda, MAKERS["int8"])
    optimizer.in_backward(hold=0)
    side, first = torch.cuda.Stream(), torch.cuda.current_stream()
    for i in range(6):
        with torch.cuda.stream(side if i % 2 else first):
            torch.cuda.current_stream().wait_stream(first if i % 2 else side)
            backward(model, batch(i, cuda))
        first.wait_stream(side)
        plain_step(twin, other, batch(i, cuda))
    torch.cuda.synchronize()
    assert_same((model, optimizer), (twin, other))


# --- a transformer, and what it takes ---


WIDTH, BLOCKS = smaller((64, 2), (16, 1))


class Block(nn.Module):
    """Attention and a feed-forward layer, both after a norm."""

    def __init__(self, width):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        x = x + self.out((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v)
        return x + self.inner(self.norms[1](x))


class Transformer(nn.Module):
    """Words to words, tied; blocks are checkpointed."""

    def __init__(self, width=WIDTH, blocks=BLOCKS, words=96, reentrant=False):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.reentrant = reentrant

    def forward(self, numbers):
        x = self.words(numbers)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x @ self.words.weight.t()


def transformer(device, **options):
    torch.manual_seed(0)
    return Transformer(**options).to(device)


def words(i, device):
    return torch.randint(96, (4, 16), generator=torch.Generator().manual_seed(i)).to(device)


def loss_of(model, numbers):
    logits = model(numbers[:, :-1])
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), numbers[:, 1:].flatten())


@pytest.mark.parametrize("cast", [False, True], ids=["float32", "autocast"])
def test_a_transformer_with_checkpointed_blocks(cast, device):
    model = transformer(device)
    twin = copy.deepcopy(model)
    optimizer, other = (tw.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin))
    with optimizer.in_backward(hold=smaller(0, 1 << 14)):
        for i in range(smaller(4, 2)):
            for which in (model, twin):
                with torch.autocast(device.type, torch.bfloat16, enabled=cast):
                    loss = loss_of(which, words(i, device))
                loss.backward()
            other.step()
            other.zero_grad()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(p, q, 1e-2 if cast else 1e-4)


def test_a_pass_within_a_pass_is_refused(device):
    model = transformer(device, reentrant=True)
    optimizer = tw.AdamW(model.parameters())
    before = [p.detach().clone() for p in model.blocks.parameters()]
    with optimizer.in_backward(hold=0), pytest.raises(RuntimeError, match="use_reentrant=False"):
        loss_of(model, words(0, device)).backward()
    assert all(map(torch.equal, before, model.blocks.parameters()))


def test_gradients_never_lie_in_memory_together(cuda):
    peaks = {}
    for way in ("plain", "in backward"):
        model = stack(cuda, width=1024, layers=16)
        optimizer = tw.AdamW(model.parameters())
        if way == "in backward":
            optimizer.in_backward()
        x = batch(0, cuda, width=1024)
        for i in range(3):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            begun = torch.cuda.memory_allocated()
            backward(model, x)
            optimizer.step()
            optimizer.zero_grad()
            if i == 0:
                continue
            torch.cuda.synchronize()
            peaks[way] = torch.cuda.max_memory_allocated() - begun
    gradients = 16 * 4 * (1024 * 1024 + 1024)
    assert peaks["plain"] >= gradients
    assert peaks["in backward"] < gradients / 2
