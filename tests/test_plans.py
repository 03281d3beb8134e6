"""Plans that alike optimizers hand on to each other: each steps by its own tensors, whoever comes between."""

from __future__ import annotations

import collections
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import pytest
import torch
from support import ONE_EACH, assert_close, gradients, label, leaf, oracle, ours, rand

import thalweg as tw
from thalweg.stepping.pool import POOL


def made(configuration, seed, library=ours):
    params = [leaf(rand(5, seed=seed)), leaf(rand(3, 2, seed=seed + 100))]
    for p, g in zip(params, gradients(params, 1, seed)[0], strict=True):
        p.grad = g
    return params, library(configuration, params)


@pytest.fixture(autouse=True)
def empty_pool():
    POOL._plans.clear()


@pytest.mark.parametrize("order", [[0, 1, 2, 0, 1, 2, 2, 2, 1, 0], [0, 0, 1, 0, 1, 1, 0, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
def test_optimizers_that_take_turns(configuration, order):
    mine = [made(configuration, seed) for seed in range(3)]
    theirs = [made(configuration, seed, oracle) for seed in range(3)]
    for i in order:
        mine[i][1].step()
        theirs[i][1].step()
    for (params, _), (others, _) in zip(mine, theirs, strict=True):
        for p, q in zip(params, others, strict=True):
            assert_close(p, q)


def test_a_plan_is_handed_on_and_then_a_new_one_made():
    configuration = ("AdamW", {})
    (_, a), (_, b) = made(configuration, 0), made(configuration, 1)
    a.step()
    plan = a._stepper.plan
    b.step()
    assert b._stepper.plan is plan
    a.step()
    assert a._stepper.plan is not plan
    b.step()
    assert b._stepper.plan is plan


@pytest.mark.parametrize(
    "other",
    [{"lr": 0.5, "betas": (0.5, 0.5)}, {"weight_decay": 0.0}, {"amsgrad": True}, {"maximize": True}],
    ids=str,
)
def test_what_differs_is_the_other_optimizers_own(other):
    made(("AdamW", {}), 0)[1].step()
    (params, a), (others, b) = made(("AdamW", other), 1), made(("AdamW", other), 1, oracle)
    for optimizer in (a, b, a, b):
        optimizer.step()
    for p, q in zip(params, others, strict=True):
        assert_close(p, q)


def test_a_plan_keeps_nobody_alive():
    params, optimizer = made(("AdamW", {}), 0)
    optimizer.step()
    refs = [weakref.ref(p) for p in params] + [weakref.ref(v) for v in optimizer.state[params[0]].values()]
    del params, optimizer
    gc.collect()
    assert all(ref() is None for ref in refs)


def test_an_optimizer_is_freed_with_its_last_reference():
    _, optimizer = made(("AdamW", {}), 0)
    optimizer.step()
    ref = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert ref() is None
    finally:
        gc.enable()


def test_a_plan_that_does_not_fit_is_not_taken():
    made(("AdamW", {}), 0)[1].step()
    params, optimizer = made(("AdamW", {}), 1)
    params[1].grad = params[1].grad.t().contiguous().t()
    twins, twin = made(("AdamW", {}), 1, oracle)
    optimizer.step()
    twin.step()
    for p, q in zip(params, twins, strict=True):
        assert_close(p, q)


def test_another_thread_makes_its_own():
    configuration = ("SGD", {"lr": 0.1, "momentum": 0.9})
    params, optimizer = made(configuration, 0)
    twins, twin = made(configuration, 0, oracle)
    optimizer.step()
    shared = optimizer._stepper.plan
    thread = Thread(target=optimizer.step)
    thread.start()
    thread.join()
    assert optimizer._stepper.plan is not shared
    made(configuration, 1)[1].step()
    for _ in range(2):
        twin.step()
    for p, q in zip(params, twins, strict=True):
        assert_close(p, q)


def test_many_threads_with_many_optimizers():
    def train(seed):
        params, optimizer = made(("AdamW", {"lr": 0.1}), seed)
        for _ in range(5):
            optimizer.step()
        return [p.detach() for p in params]

    expected = [train(seed) for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(train, range(24)))
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))


def test_shared_memory_is_not_stepped_by_threads_at_once():
    made(("SGD", {"lr": 0.1}), 0)[1].step()
    memory = torch.ones(11, dtype=torch.float64)
    params = [memory[:5].requires_grad_(), memory[3:9].view(3, 2).detach().requires_grad_()]
    for p in params:
        p.grad = torch.ones_like(p)
    tw.SGD(params, lr=0.1).step()
    assert torch.allclose(
        memory, torch.tensor([0.9] * 3 + [0.8] * 2 + [0.9] * 4 + [1.0] * 2, dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", [list, tuple])
def test_gradients_that_come_after_steps_without_any(kind):
    # Groups whose parameters are no list cannot be looked at: nothing may pass for unchanged there.
    param = leaf(rand(5))
    before = param.detach().clone()
    optimizer = tw.SGD([param], lr=0.5)
    optimizer.param_groups[0]["params"] = kind(optimizer.param_groups[0]["params"])
    for _ in range(2):
        optimizer.step()
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert_close(param.detach(), before - 0.5)


def test_steps_are_repeated_until_a_choice_changes_in_place(monkeypatch):
    params = [leaf(rand(5000), torch.float32), leaf(rand(50), torch.float32)]
    for p in params:
        p.grad = rand(*p.shape, seed=1).float()
    optimizer = tw.AdamW(params, state={"exp_avg": "float32"})
    for _ in range(3):
        optimizer.step()
    looks = []
    plan = optimizer._stepper.plan
    monkeypatch.setattr(plan, "fits", lambda *args: looks.append(args) or type(plan).fits(plan, *args))
    optimizer.step()
    assert not looks, "what is in a dict is compared, and needs no look of its own"
    optimizer.param_groups[0]["state"]["exp_avg"] = "bfloat16"
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.bfloat16


def test_a_choice_in_a_dict_of_another_class_is_followed():
    param = leaf(rand(5000), torch.float32)
    param.grad = rand(5000, seed=1).float()
    optimizer = tw.AdamW([param], state=collections.OrderedDict(exp_avg="float32"))
    for _ in range(3):
        optimizer.step()
    optimizer.param_groups[0]["state"]["exp_avg"] = "bfloat16"
    optimizer.step()
    assert optimizer.state[param]["exp_avg"].dtype == torch.bfloat16
