"""Rows that gradients name, on a GPU: as on the host, and the others where they were."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from devices import host_kernels
from runs import assert_alike
from support import assert_close, leaf, ours, rand
from torch import nn

import thalweg as tw

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

SHAPE = (70, 64)
RUNS = [
    ("AdamW", {"lr": 0.1, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.1, "sparse": "exact"}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "sparse": "exact"}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.9, "momentum_ema": True, "debias": True, "sparse": "exact"}),
    ("Adagrad", {"lr": 0.1, "rowwise": True}),
    ("Adagrad", {"lr": 0.1, "rowwise": True, "max_norm": 1.0, "sparse": "exact"}),
    ("Adam", {"lr": 0.1, "max_norm": 0.5, "max_value": 0.4}),
]
runs = pytest.mark.parametrize("configuration", RUNS, ids=lambda one: "-".join([one[0], *one[1]]))
WAYS = pytest.mark.parametrize("sparse", ["lazy", "exact"])
BITS = pytest.mark.parametrize("state", ["int8", "bfloat16"])


def named(step, dtype, device, rows=SHAPE[0]):
    """Return a gradient that names some rows, maybe one twice, and no order; none at the third step."""
    generator = torch.Generator().manual_seed(step)
    index = torch.randint(rows, (0 if step == 2 else 9,), generator=generator)
    values = rand(len(index), *SHAPE[1:], seed=step).to(dtype)
    return torch.sparse_coo_tensor(index[None], values, (rows, *SHAPE[1:])).to(device)


def trained(configuration, device, dtype=torch.float32, steps=6):
    param = leaf(rand(*SHAPE).to(device, dtype))
    optimizer = ours(configuration, [param])
    for step in range(steps):
        param.grad = named(step, dtype, device)
        optimizer.step()
    return param, optimizer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@runs
def test_rows_are_the_hosts(configuration, dtype, device):
    with host_kernels() as host:
        q, other = trained(configuration, host, dtype)
        other.flush()
    p, one = trained(configuration, device, dtype)
    one.flush()
    assert_alike(([p], one), ([q], other), 1e-7 if dtype == torch.float64 else 1e-4)


@WAYS
def test_who_asks_for_some_rows_finds_them(sparse, device):
    def some(place):
        param, optimizer = trained(("AdamW", {"lr": 0.1, "sparse": sparse}), place)
        before = param.detach().clone()
        rows = torch.tensor([[3, 3], [5, 69]], device=place)
        optimizer.flush(param, rows)
        others = [i for i in range(70) if i not in (3, 5, 69)]
        assert torch.equal(param[others], before[others])
        return param

    with host_kernels() as host:
        expected = some(host)
    assert_close(some(device), expected, 1e-4)


@WAYS
@BITS
def test_bits_of_rows_are_those_of_a_dense_step(state, sparse, device):
    rows = torch.tensor([3, 50, 69], device=device)
    mine = leaf(rand(*SHAPE).to(device, torch.float32))
    theirs = leaf(mine)
    a = tw.AdamW([mine], lr=0.1, state=state, sparse=sparse)
    b = tw.AdamW([theirs], lr=0.1, state=state)
    for step in range(3):
        which = torch.arange(70, device=device) if step < 2 else rows
        values = rand(len(which), 64, seed=step).float().to(device)
        mine.grad = torch.sparse_coo_tensor(which[None], values, SHAPE)
        theirs.grad = mine.grad.to_dense()
        before = {key: value.clone() for key, value in a.state[mine].items()}
        a.step()
        b.step()
    others = [i for i in range(70) if i not in (3, 50, 69)]
    assert torch.equal(mine[rows], theirs[rows])
    for key in a.state[mine].keys() - {"step"}:
        values = (a.state[mine][key], b.state[theirs][key], before[key])
        value, expected, old = (x.reshape(70, -1) for x in values)
        assert torch.equal(value[rows], expected[rows]), key
        assert torch.equal(value[others], old[others]), key


@runs
def test_a_checkpoint_goes_to_the_host_and_comes_back(configuration, device):
    param, first = trained(configuration, device, steps=3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)  # which flushes
    file.seek(0)
    saved = torch.load(file, weights_only=True, map_location="cpu")
    with host_kernels():
        other = leaf(param.detach().cpu())
        second = ours(configuration, [other])
        second.load_state_dict(copy.deepcopy(saved))
        other.grad = named(7, torch.float32, "cpu")
        second.step()
        second.flush()
    back = leaf(param)
    third = ours(configuration, [back])
    third.load_state_dict(saved)
    for p, optimizer in ((param, first), (back, third)):
        p.grad = named(7, torch.float32, device)
        optimizer.step()
        optimizer.flush()
        assert_close(p, other, 1e-5)
    assert torch.equal(param, back)


@WAYS
def test_an_embedding_in_backward_and_under_autocast(sparse, device):
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(70, 64, sparse=True), nn.Linear(64, 3)).to(device)

    mine, theirs = model(), model()
    a, b = (tw.AdamW(m.parameters(), lr=0.01, sparse=sparse) for m in (mine, theirs))
    with a.in_backward(hold=0):
        for i in range(4):
            numbers = torch.randint(70, (16,), generator=torch.Generator().manual_seed(i)).to(device)
            for which in (mine, theirs):
                with torch.autocast(device.type, torch.bfloat16):
                    loss = which(numbers).float().square().mean()
                loss.backward()
            b.step()
            b.zero_grad()
    a.flush()
    b.flush()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert_close(p, q, 1e-5)


def test_streams_take_turns(cuda):
    configuration = ("AdamW", {"lr": 0.1, "sparse": "exact"})
    mine = leaf(rand(*SHAPE).to(cuda, torch.float32))
    optimizer = ours(configuration, [mine])
    side, first = torch.cuda.Stream(), torch.cuda.current_stream()
    for step in range(6):
        with torch.cuda.stream(side if step % 2 else first):
            torch.cuda.current_stream().wait_stream(first if step % 2 else side)
            mine.grad = named(step, torch.float32, cuda)
            optimizer.step()
    first.wait_stream(side)
    optimizer.flush()
    theirs, other = trained(configuration, cuda)
    other.flush()
    assert torch.equal(mine, theirs)
