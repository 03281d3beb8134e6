"""Steps on a GPU: how many launches, waiting for nothing, streams, and what changes on the way."""

from __future__ import annotations

import copy

import pytest
import torch
from devices import host_kernels, launches, no_waiting
from runs import assert_equal, everything, run, start
from support import (
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    give,
    gradients,
    label,
    leaf,
    oracle,
    ours,
    rand,
)
from torch import nn

import thalweg as tw
from thalweg.lowering.gpu import shapes

one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)


def test_many_small_tensors_are_two_launches(device):
    # One for the rows of scalars, one for all elements.
    count = 4000 if device.type == "cuda" else 300  # the interpreter has its price
    params = [leaf(torch.full((64,), 1.0, device=device)) for _ in range(count)]
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.25}]
    optimizer = tw.SGD(groups, lr=0.5)
    give(params, [torch.ones(64, device=device)] * count)
    with launches() as found:
        optimizer.step()
    assert found == [-(-count // 128), count]
    assert all((p == (0.75 if i % 2 else 0.5)).all() for i, p in enumerate(params))


def test_a_large_tensor_is_two_launches(device):
    param = leaf(torch.zeros(10_000, device=device))
    give([param], [torch.ones(10_000)])
    optimizer = tw.AdamW([param])
    with launches() as found:
        optimizer.step()
    assert found == [1, -(-10_000 // shapes.PLAIN.chunk)]


@pytest.mark.parametrize(
    "storage", [{}, {"state": "int8"}, {"state": "bfloat16"}, {"weight_bits": 24}], ids=str
)
@one_each
def test_nothing_is_waited_for(configuration, storage, device):
    name, kwargs = configuration
    dtype = torch.bfloat16 if "weight_bits" in storage else torch.float32
    params = start(device, dtype, ((4096,), (30,), ()))
    optimizer = ours((name, {**kwargs, **storage}), params)
    steps = [[g.to(device) for g in grads] for grads in gradients(params, 3)]
    follow(optimizer, params, steps[:1])
    for grads in steps[1:]:
        give(params, grads)
        with no_waiting(device):
            optimizer.step()
        # A new rate is a number that is sent, not a reason to wait.
        optimizer.param_groups[0]["lr"] *= 0.5


@one_each
def test_nothing_is_waited_for_with_the_learning_rate_on_the_device(configuration, device):
    name, kwargs = configuration
    mine, theirs = start(device, shapes=((50,),)), start(device, shapes=((50,),))
    lr = torch.tensor(kwargs["lr"], device=device)
    a, b = ours((name, {**kwargs, "lr": lr}), mine), ours((name, {**kwargs, "lr": lr.item()}), theirs)
    for i, grads in enumerate(gradients(mine, 3)):
        give(mine, [g.to(device) for g in grads])
        if i:
            with no_waiting(device):
                lr.mul_(0.5)
                a.step()
            b.param_groups[0]["lr"] *= 0.5
        else:
            a.step()
        follow(b, theirs, [grads])
    assert_equal((mine, a), (theirs, b))


@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("state", ["float32", "int8"])
def test_nothing_is_waited_for_under_a_scaler(unscaled, state, device):
    # GradScaler's own `unscale_` and `update` may wait; the step it asks for must not.
    params = start(device, shapes=((4096,), (30,)))
    optimizer = tw.AdamW(params, state=state)
    steps = [[g.to(device) for g in grads] for grads in gradients(params, 3)]
    for i, grads in enumerate(steps):
        give(params, grads)
        optimizer.found_inf = torch.zeros((), device=device)
        optimizer.grad_scale = None if unscaled else torch.full((), 4.0, device=device)
        if i:
            with no_waiting(device):
                optimizer.step()
        else:
            optimizer.step()
    assert all(p.isfinite().all() for p in params)


def test_nothing_is_waited_for_after_gradients_moved(device):
    params = start(device, shapes=((50,), (70,)))
    optimizer = tw.AdamW(params)
    for i in range(3):
        kept = [p.grad for p in params]  # so that the new ones lie elsewhere
        give(params, [torch.ones_like(p) for p in params])
        if i:
            with no_waiting(device):
                optimizer.step()
        else:
            optimizer.step()
    assert kept[0] is not params[0].grad


@one_each
def test_hyperparameters_change_on_the_way(configuration, device):
    mine = start(device, torch.float64, ((50,), (3,)))
    theirs = [leaf(p.detach().cpu()) for p in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)

    def change(optimizer, i):
        optimizer.param_groups[0].update([{}, {"lr": 0.05}, {"weight_decay": 0.3}, {"weight_decay": 0}][i])

    steps = gradients(theirs, 4)
    follow(a, mine, steps, change)
    follow(b, theirs, steps, change)
    assert_same(a, mine, b, theirs)


@one_each
def test_groups_have_their_own(configuration, device):
    mine = start(device, torch.float64, ((50,), (3,), (7, 5)))
    theirs = [leaf(p.detach().cpu()) for p in mine]
    rates = ({}, {"lr": 0.02}, {"lr": 0.3})
    a, b = (
        make(configuration, [{"params": [p], **rate} for p, rate in zip(params, rates, strict=True)])
        for make, params in ((ours, mine), (oracle, theirs))
    )
    steps = gradients(theirs, 3)
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs, rtol=1e-8)  # NAdam's product is kept in float32


@one_each
def test_late_gradients_count_their_own_steps(configuration, device):
    mine = start(device, torch.float64, ((50,), (3,), (7, 5)))
    theirs = [leaf(p.detach().cpu()) for p in mine]
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    steps = gradients(theirs, 5)
    for i, grads in enumerate(steps):
        grads[1] = grads[1] if i >= 2 else None
        grads[2] = grads[2] if i % 2 else None
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


@pytest.mark.parametrize("state", ["float32", "int8"])
def test_counters_are_on_the_device_and_count(state, device):
    params, optimizer = run(("AdamW", {}), device, steps=3, state=state)
    counters = [optimizer.state[p]["step"] for p in params]
    assert all(c.device.type == device.type and c.item() == 3 for c in counters)


def test_a_closure_and_hooks(device):
    param = leaf(torch.ones(3, device=device))
    optimizer, seen = tw.SGD([param], lr=0.5), []
    optimizer.register_step_post_hook(lambda *args: seen.append(param.sum().item()))

    def closure():
        optimizer.zero_grad()
        loss = (2 * param).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6.0
    assert seen == [0.0]


def test_backward_through_stale_values_fails(device):
    weight = leaf(rand(3, 3).to(device))
    x = leaf(rand(2, 3).to(device))
    y = (x @ weight).sum()
    weight.grad = torch.ones_like(weight)
    tw.SGD([weight], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_deepcopy_goes_on(device):
    params, optimizer = run(("AdamW", {}), device, steps=2, state="int8")
    other = copy.deepcopy(optimizer)
    others = other.param_groups[0]["params"]
    for one, these in ((optimizer, params), (other, others)):
        follow(one, these, gradients([p.cpu() for p in these], 1))
    assert_equal((params, optimizer), (others, other))


def test_optimizers_do_not_disturb_each_other(device):
    alone = run(("AdamW", {}), device, steps=4)
    params, others = start(device), start(device)
    one, other = tw.AdamW(params), tw.RMSprop(others, momentum=0.9)
    for grads in gradients(params, 4):
        follow(one, params, [grads])
        follow(other, others, [grads])
    assert_equal(alone, (params, one))


def test_state_that_is_edited_is_followed(device):
    mine = start(device, torch.float64, ((50,), (3,)))
    theirs = [leaf(p.detach().cpu()) for p in mine]
    configuration = ("AdamW", {"lr": 0.1})
    a, b = ours(configuration, mine), oracle(configuration, theirs)

    def edit(optimizer, i):
        if i != 2:
            return
        param = optimizer.param_groups[0]["params"][0]
        state = optimizer.state[param]
        state["exp_avg"] = state["exp_avg"] * 0.5
        state["step"].fill_(10.0)
        param.data = param.data * 2

    steps = gradients(theirs, 4)
    follow(a, mine, steps, edit)
    follow(b, theirs, steps, edit)
    assert_same(a, mine, b, theirs)


def test_the_first_step_of_half_precision_warns_of_lost_steps_only(device, recwarn):
    param = leaf(torch.full((64,), 100.0, device=device, dtype=torch.bfloat16))
    optimizer = tw.SGD([param], lr=1.0)
    follow(optimizer, [param], [torch.ones(1, 64)])
    assert not recwarn.list  # 100 - 1 is another bfloat16
    tiny = leaf(torch.full((64,), 100.0, device=device, dtype=torch.bfloat16))
    with pytest.warns(UserWarning, match="rounded away"):
        follow(tw.SGD([tiny], lr=1e-6), [tiny], [torch.ones(1, 64)])


# --- streams and devices ---


def test_a_step_on_another_stream(cuda):
    expected = run(("AdamW", {}), cuda, steps=4, state="int8")
    params = start(cuda)
    optimizer = tw.AdamW(params, state="int8")
    side = torch.cuda.Stream()
    for i, grads in enumerate(gradients(params, 4)):
        give(params, grads)
        with torch.cuda.stream(side if i % 2 else torch.cuda.default_stream()):
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            optimizer.step()
        torch.cuda.default_stream().wait_stream(side)
    assert_equal(expected, (params, optimizer))


def test_the_step_is_queued_on_the_current_stream(cuda):
    param = leaf(torch.ones(1000, device=cuda))
    param.grad = torch.zeros_like(param)
    optimizer = tw.SGD([param], lr=1.0)
    optimizer.step()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)
        param.grad.fill_(1.0)  # seen only by who waits its turn on this stream
        optimizer.step()
    torch.cuda.synchronize()
    assert not param.any()


def test_two_devices_in_one_process(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    expected = run(("AdamW", {}), torch.device("cuda:0"), state="int8")
    for current in (0, 1):
        with torch.cuda.device(current):
            there = run(("AdamW", {}), torch.device("cuda:1"), state="int8")
        assert_equal(expected, there)
    params = start(torch.device("cuda:0")) + start(torch.device("cuda:1"))
    optimizer = tw.AdamW(params, state="int8", seed=1)
    follow(optimizer, params, gradients(params, 2))
    assert all(p.isfinite().all() for p in params)


def test_parameters_on_host_and_device(device):
    if device.type == "cpu":
        pytest.skip("both are the CPU")
    mine = [leaf(rand(50)), leaf(rand(50).to(device))]
    theirs = [leaf(rand(50)), leaf(rand(50))]
    a, b = tw.AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    steps = gradients(theirs, 3)
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


def test_a_parameter_moves_to_the_device(device):
    layer = nn.Linear(5, 3).double()
    twin = copy.deepcopy(layer)
    mine, theirs = list(layer.parameters()), list(twin.parameters())
    a, b = tw.AdamW(mine, lr=0.1), torch.optim.AdamW(theirs, lr=0.1, foreach=False)
    steps = gradients(theirs, 4)
    with host_kernels():
        follow(a, mine, steps[:2])
    layer.to(device)
    mine = list(layer.parameters())
    follow(a, mine, steps[2:])
    follow(b, theirs, steps)
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q)
        assert a.state[p]["exp_avg"].device == p.device


def test_a_steady_step_is_looked_at_in_one_compiled_pass(device):
    # The slow way plans anew; parameters of a device must not end there.
    params, optimizer = run(("AdamW", {}), device, steps=2)
    plan = optimizer._stepper.plan
    assert plan.seen is not None
    follow(optimizer, params, gradients(params, 2))
    assert optimizer._stepper.plan is plan


def test_nothing_changes_without_gradients(device):
    params, optimizer = run(("AdamW", {}), device, steps=1)
    before = everything(optimizer)
    give(params, [None] * len(params))
    with launches() as found:
        optimizer.step()
    assert not found
    assert all(map(torch.equal, everything(optimizer), before))
