"""GradScaler on a GPU: what overflowed is known there only, and must not have been stepped."""

from __future__ import annotations

import math

import pytest
import torch
from devices import no_waiting
from runs import assert_equal, everything, start
from support import ONE_EACH, assert_close, follow, give, gradients, label, leaf, ours, rand, unscaling
from torch import nn

import thalweg as tw

one_each = pytest.mark.parametrize("configuration", [*ONE_EACH, ("Lion", {"lr": 0.01})], ids=label)
STORAGES = pytest.mark.parametrize(
    "storage", [{}, {"state": "int8"}, {"state": "bfloat16"}, {"state": "int8", "weight_bits": 24}], ids=str
)
WAYS = pytest.mark.parametrize(
    ("new", "unscale"),
    [(unscaling, False), (unscaling, True), (ours, False)],
    ids=["unscaled in the step", "skipped in the step", "left to the scaler"],
)
"""Where gradients are unscaled and an overflow is skipped."""


def new_scaler(device):
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones((), device=device))  # creates the scale, as the first loss does
    return scaler


def scaled(optimizer, params, grads, scaler, unscale=False):
    """Take one step through the scaler, with gradients that backward would have left."""
    give(params, [g * scaler.get_scale() for g in grads])
    if any(p.is_cuda and p.dtype == torch.bfloat16 for p in params):
        _step_by_hand(optimizer, params, scaler, unscale)
        return
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def _step_by_hand(optimizer, params, scaler, unscale):
    """Do what a GradScaler does for a step that unscales: on CUDA it cannot look at bfloat16 gradients."""
    assert optimizer._step_supports_amp_scaling
    finite = torch.stack([p.grad.isfinite().all() for p in params]).all()
    scale = scaler.get_scale()
    if unscale:
        give(params, [p.grad / scale for p in params])
    optimizer.found_inf = 1.0 - finite.float()
    optimizer.grad_scale = None if unscale else torch.full((), scale, device=params[0].device)
    optimizer.step()
    del optimizer.found_inf, optimizer.grad_scale
    scaler.update(scale if finite else scale * scaler.get_backoff_factor())


@WAYS
@one_each
def test_a_scaled_step_is_a_step(configuration, new, unscale, device):
    mine, theirs = (start(device, shapes=((1030,), (7, 5), ())) for _ in range(2))
    a, b, scaler = new(configuration, mine), ours(configuration, theirs), new_scaler(device)
    for grads in gradients(mine, 3):
        scaled(a, mine, grads, scaler, unscale)
        follow(b, theirs, [grads])
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(mine, theirs, strict=True))
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, rtol=1e-6)


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("bad", [math.inf, math.nan])
@STORAGES
@one_each
def test_an_overflow_in_the_step_changes_nothing(configuration, storage, bad, unscale, device):
    name, kwargs = configuration
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    params = start(device, dtype, ((4096,), (30,)))
    optimizer, scaler = unscaling((name, {**kwargs, **storage}), params), new_scaler(device)
    good, wrong = gradients(params, 2)
    scaled(optimizer, params, good, scaler, unscale)
    before = everything(optimizer)
    wrong[1][3] = bad
    scaled(optimizer, params, wrong, scaler, unscale)
    assert all(map(torch.equal, everything(optimizer), before))
    assert scaler.get_scale() == 512.0


@WAYS
@one_each
def test_a_run_that_begins_with_an_overflow_is_the_run_without_it(configuration, new, unscale, device):
    mine, theirs = (start(device, shapes=((30,), (1030,))) for _ in range(2))
    a, b, scaler = new(configuration, mine), ours(configuration, theirs), new_scaler(device)
    first, *rest = gradients(mine, 3)
    first[1][3] = math.inf
    scaled(a, mine, first, scaler)
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
    for grads in rest:
        scaled(a, mine, grads, scaler, unscale)
        follow(b, theirs, [grads])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, rtol=1e-6)
        assert all(torch.equal(a.state[p][k], v) for k, v in b.state[q].items() if k == "step")


@pytest.mark.parametrize("then", ["unscaled first", "another gradient is missing", "a new group"])
def test_the_first_momentum_is_undampened_also_after_an_overflow(then, device):
    # What comes next is another plan, which must know that no step has been taken yet.
    mine, theirs = (start(device, shapes=((30,), (50,))) for _ in range(2))
    configuration = ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5})
    a, b, scaler = unscaling(configuration, mine), ours(configuration, theirs), new_scaler(device)
    first, second = gradients(mine, 2)
    scaled(a, mine, [first[0] * math.inf, first[1]], scaler)
    if then == "another gradient is missing":
        second[1] = None
    if then == "a new group":
        a.add_param_group({"params": [leaf(torch.ones(3, device=device))]})
    give(mine, [None if g is None else g * scaler.get_scale() for g in second])
    if then == "unscaled first":
        scaler.unscale_(a)
    scaler.step(a)
    scaler.update()
    follow(b, theirs, [second])
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q, rtol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("state", ["int8", "bfloat16"])
def test_an_overflow_draws_no_random_words(state, count, fused, device):
    mine, theirs = (start(device, shapes=((4096,), (4100,))) for _ in range(2))
    a, b = (
        tw.AdamW([{"params": ps[i::count]} for i in range(count)], state=state, fused=fused)
        for ps in (mine, theirs)
    )
    scaler = new_scaler(device)
    for i, grads in enumerate(gradients(mine, 4)):
        if i == 1:
            grads[0][5] = math.inf
        else:
            follow(b, theirs, [grads])
        give(mine, [g * 1024 for g in grads])
        scaler.step(a)
        scaler.update(1024.0)
    assert_equal((mine, a), (theirs, b))
    assert [group["rounding_step"] for group in a.state_dict()["param_groups"]] == [3] * count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_overflow_at_the_first_step_is_no_lost_step(dtype, device, recwarn):
    params = start(device, dtype, ((300,),))
    optimizer, scaler = tw.SGD(params, lr=1.0, fused=True), new_scaler(device)
    (grads,) = gradients(params, 1)
    grads[0][3] = math.inf
    scaled(optimizer, params, grads, scaler)
    assert not [w for w in recwarn.list if "rounded away" in str(w.message)]


@pytest.mark.parametrize("fused", [True, False])
def test_strided_gradients_are_unscaled_where_the_user_sees_them(fused, device):
    param = leaf(rand(4, 6).to(device))
    optimizer, scaler = tw.SGD([param], lr=1.0, fused=fused), new_scaler(device)
    expected = rand(6, 4, seed=3).to(device)
    param.grad = (expected * 1024).t()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(param.grad, expected.t())
    assert_close(param, rand(4, 6).to(device) - expected.t())


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("overflows", [False, True])
def test_sparse_gradients_are_unscaled(overflows, fused, device):
    param = leaf(rand(10, 4).to(device))
    optimizer, scaler = tw.SGD([param], lr=1.0, fused=fused), new_scaler(device)
    values = torch.ones(2, 4, dtype=torch.float64, device=device) * 1024
    values[0, 0] = math.inf if overflows else 1024
    index = torch.tensor([[2, 7]], device=device)
    param.grad = torch.sparse_coo_tensor(index, values, (10, 4))
    scaler.step(optimizer)
    expected = rand(10, 4).to(device)
    if not overflows:
        expected[[2, 7]] -= 1
    assert_close(param, expected)


def test_a_step_that_unscales_waits_for_nothing(device):
    params = start(device, shapes=((1030,), (30,)))
    optimizer, scaler = tw.AdamW(params, fused=True), new_scaler(device)
    for i, grads in enumerate(gradients(params, 3)):
        give(params, [g.to(device) * 1024 for g in grads])
        if i:
            with no_waiting(device):
                scaler.step(optimizer)
        else:
            scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("fused", [True, False])
def test_training_under_autocast_and_a_scaler(fused, device):
    # Both sides see the same overflow, from a scale that is too large to begin with.
    torch.manual_seed(0)
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
    twin = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
    twin.load_state_dict(net.state_dict())
    x, y = torch.randn(64, 16, device=device), torch.randn(64, 1, device=device)
    finals = []
    for model, make in ((net, tw.AdamW), (twin, torch.optim.AdamW)):
        optimizer = make(model.parameters(), lr=1e-3, fused=fused)
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**24)
        for _ in range(8):
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype):
                loss = nn.functional.mse_loss(model(x).float(), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        finals.append((loss.item(), scaler.get_scale()))
    assert finals[0][1] == finals[1][1]
    assert finals[0][0] == pytest.approx(finals[1][0], rel=1e-2)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)
