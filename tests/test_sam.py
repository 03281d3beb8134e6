"""Sharpness-aware minimization, against the arithmetic by hand."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import thalweg as tw


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9), torch.nn.Tanh(), torch.nn.Linear(9, 2)
    ).to(dtype)


def batch(i, dtype=torch.float64):
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64).to(dtype)


def loss_of(model, x):
    return (model(x) - x[:, :2]).square().mean()


def by_hand(model, optimizer, x, rho, adaptive=False, eta=0.01, clip=None):
    params = list(model.parameters())
    optimizer.zero_grad()
    loss_of(model, x).backward()
    grads = [p.grad.clone() for p in params]
    before = [p.detach().clone() for p in params]
    scales = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in params]
    norm = sum((t * g).square().sum() for t, g in zip(scales, grads, strict=True)).sqrt()
    with torch.no_grad():
        for p, g, t in zip(params, grads, scales, strict=True):
            p += rho * t * t * g / norm
    optimizer.zero_grad()
    loss_of(model, x).backward()
    with torch.no_grad():
        for p, value in zip(params, before, strict=True):
            p.copy_(value)
    if clip:
        torch.nn.utils.clip_grad_norm_(params, clip)
    optimizer.step()


def closure_of(model, optimizer, x):
    def closure():
        loss = loss_of(model, x)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_closure_is_the_paper(adaptive):
    ours, theirs = net(), net()
    optimizer = tw.SAM(tw.SGD(ours.parameters(), lr=0.1, momentum=0.9), 0.1, adaptive=adaptive)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    for i in range(5):
        optimizer.step(closure_of(ours, optimizer, batch(i)))
        by_hand(theirs, other, batch(i), 0.1, adaptive)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_two_calls_with_accumulation_and_clipping():
    ours, theirs = net(), net()
    optimizer = tw.SAM(tw.AdamW(ours.parameters(), lr=0.01, max_norm=0.05), 0.1)
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, foreach=False)
    ours.eval(), theirs.eval()
    for i in range(4):
        optimizer.zero_grad()
        for half in batch(i).chunk(2):
            (loss_of(ours, half) / 2).backward()
        if optimizer.ascend():
            for half in batch(i).chunk(2):
                (loss_of(ours, half) / 2).backward()
        optimizer.step()
        by_hand(theirs, other, batch(i), 0.1, clip=0.05)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_a_scaler_changes_nothing_and_an_overflow_leaves_the_weights_where_they_were():
    ours, plain = net(torch.float32), net(torch.float32)
    optimizer = tw.SAM(tw.SGD(ours.parameters(), lr=0.1), 0.1)
    other = tw.SAM(tw.SGD(plain.parameters(), lr=0.1), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for i in range(4):
        x = batch(i, torch.float32)
        for which, opt, factor in ((ours, optimizer, scaler.scale), (plain, other, lambda loss: loss)):
            opt.zero_grad()
            factor(loss_of(which, x)).backward()
            assert opt.ascend()
            factor(loss_of(which, x)).backward()
        before = [p.detach().clone() for p in ours.parameters()]
        if i == 2:
            ours[0].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        if i != 2:
            other.step()
        else:
            other.descend()
            assert any(not torch.equal(p, q) for p, q in zip(ours.parameters(), before, strict=True))
    for p, q in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_gradients_that_are_not_finite_move_nothing():
    model = net()
    optimizer = tw.SAM(tw.SGD(model.parameters(), lr=0.1), 0.1)
    before = copy.deepcopy(model.state_dict())
    loss_of(model.eval(), batch(0)).backward()
    model[0].bias.grad[1] = torch.nan
    assert optimizer.ascend()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_weights_come_back(stored):
    model = net(torch.float32)
    optimizer = tw.SAM(tw.SGD(model.parameters(), lr=0.0), 0.05, stored=stored)
    before = [p.detach().clone() for p in model.parameters()]
    for i in range(5):
        optimizer.step(closure_of(model, optimizer, batch(i, torch.float32)))
    for p, q in zip(model.parameters(), before, strict=True):
        tolerance = 0 if stored == "float32" else 1e-6
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


def test_a_closure_that_raises_leaves_the_weights_where_they_were():
    model = net()
    optimizer = tw.SAM(tw.SGD(model.parameters(), lr=0.1), 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    calls = []

    def closure():
        calls.append(0)
        if len(calls) == 2:
            raise KeyError
        return closure_of(model, optimizer, batch(0))()

    with pytest.raises(KeyError):
        optimizer.step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_batch_norms_count_the_first_pass_only_where_asked():
    alone, with_model = net(), net()
    first = net()
    for model, given in ((alone, None), (with_model, with_model)):
        optimizer = tw.SAM(tw.SGD(model.parameters(), lr=0.1), 0.1, model=given)
        optimizer.step(closure_of(model, optimizer, batch(0)))
    first(batch(0))
    assert torch.equal(with_model[1].running_mean, first[1].running_mean)
    assert not torch.equal(alone[1].running_mean, first[1].running_mean)
    assert with_model[1].momentum == 0.1


def test_every_other_step_is_the_bases():
    ours, theirs = net(), net()
    optimizer = tw.SAM(tw.SGD(ours.parameters(), lr=0.1), 0.1, every=2)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for i in range(4):
        optimizer.step(closure_of(ours, optimizer, batch(i)))
        if i % 2 == 0:
            by_hand(theirs, other, batch(i), 0.1)
        else:
            other.zero_grad()
            loss_of(theirs, batch(i)).backward()
            other.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)


def test_schedulers_checkpoints_and_groups_are_the_bases():
    model = net()
    optimizer = tw.SAM(tw.AdamW(model.parameters(), lr=0.1, state="int8"), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step(closure_of(model, optimizer, batch(0)))
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.05
    saved = copy.deepcopy(optimizer.state_dict())
    again = tw.SAM(tw.AdamW(model.parameters(), lr=0.3, state="int8"), 0.1)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == 0.05
    assert again.state is again.base.state
    extra = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    again.add_param_group({"params": [extra]})
    assert len(again.base.param_groups) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_step_like_the_original(copied):
    model = net()
    optimizer = tw.SAM(tw.SGD(model.parameters(), lr=0.1, momentum=0.9), 0.1)
    optimizer.step(closure_of(model, optimizer, batch(0)))
    other_model, other = copied((model, optimizer))
    assert other.param_groups is other.base.param_groups
    for which, opt in ((model, optimizer), (other_model, other)):
        opt.step(closure_of(which, opt, batch(1)))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other_model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rho": -1.0}, ValueError, "rho must be a number at least 0"),
        ({"every": 0}, ValueError, "every must be an integer at least 1"),
        ({"stored": "int4"}, ValueError, "stored must be"),
    ],
)
def test_what_is_not_allowed_is_said(options, error, said):
    with pytest.raises(error, match=said):
        tw.SAM(tw.SGD(net().parameters()), **options)
    with pytest.raises(TypeError, match=r"thalweg\.Optimizer"):
        tw.SAM(torch.optim.SGD(net().parameters(), lr=0.1))
