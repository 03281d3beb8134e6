"""The contract with torch: hooks, groups, schedulers, AMP, errors, and what users do to an optimizer."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings

import pytest
import torch
from interpreter import smaller
from support import (
    FUSED,
    NAMES,
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    gradients,
    label,
    leaf,
    oracle,
    ours,
    rand,
    state_of,
    twins,
    unscaling,
)
from torch import nn
from torch.optim import lr_scheduler

import thalweg as tw

one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)
ALL = [*NAMES, "Lion"]


def stepped(optimizer, params, steps=1):
    follow(optimizer, params, gradients(params, steps))
    return optimizer


def everything(optimizer):
    """Return copies of all that a step may change, to see that it has not."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [p.detach().clone() for p in params], state_of(optimizer, params)


def assert_unchanged(optimizer, before):
    params, states = everything(optimizer)
    assert all(map(torch.equal, params, before[0]))
    for now, then in zip(states, before[1], strict=True):
        assert now.keys() == then.keys()
        assert all(torch.equal(now[key], then[key]) for key in now)


# --- step, closures, hooks ---


def test_step_returns_the_closures_loss_and_enables_gradients():
    param = leaf(torch.ones(3))
    optimizer = tw.SGD([param], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (param * 2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 6.0
    assert torch.equal(param, torch.zeros(3))
    assert optimizer.step() is None


@pytest.mark.parametrize("name", ALL)
def test_no_gradient_no_step(name):
    param = leaf(torch.ones(3))
    optimizer = getattr(tw, name)([param])
    before = everything(optimizer)
    optimizer.step()
    assert_unchanged(optimizer, before)


def test_step_hooks_run_around_the_step():
    param, seen = leaf(torch.ones(3)), []
    optimizer = tw.SGD([param], lr=1.0)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(param[0].item()))
    handle = optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(param[0].item()))
    follow(optimizer, [param], [[torch.ones(3)]])
    handle.remove()
    follow(optimizer, [param], [[torch.ones(3)]])
    assert seen == [1.0, 0.0, 0.0]


def test_a_pre_hook_may_change_the_gradients():
    param = leaf(torch.ones(3))
    optimizer = tw.SGD([param], lr=1.0)

    def clip(optimizer, args, kwargs):
        nn.utils.clip_grad_value_([param], 0.5)

    optimizer.register_step_pre_hook(clip)
    follow(optimizer, [param], [[torch.full((3,), 8.0)]])
    assert torch.equal(param, torch.full((3,), 0.5))


def test_the_profiler_sees_the_step_under_torchs_name():
    param = leaf(torch.ones(3))
    optimizer = tw.AdamW([param])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        stepped(optimizer, [param])
        optimizer.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert "Optimizer.step#AdamW.step" in names
    assert "Optimizer.zero_grad#AdamW.zero_grad" in names


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none):
    param = leaf(torch.ones(3))
    optimizer = stepped(tw.Adam([param]), [param])
    optimizer.zero_grad(set_to_none=set_to_none)
    assert param.grad is None if set_to_none else not param.grad.any()
    optimizer.step()


@pytest.mark.parametrize("name", ALL)
def test_repr_is_made_like_torchs(name):
    text = repr(getattr(tw, name)([leaf(torch.ones(3))], lr=0.125))
    assert text.startswith(f"{name} (\nParameter Group 0\n")
    assert "    lr: 0.125\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_torchs(name):
    mine = getattr(tw, name)([leaf(torch.ones(3))]).defaults
    theirs = getattr(torch.optim, name)([leaf(torch.ones(3))]).defaults
    assert {key: mine[key] for key in theirs} == theirs


def test_backward_through_stale_values_fails():
    # A step changes what backward has saved; without a new version that would be silently wrong.
    for shape, dims in (((3, 3), (0, 1)), ((4, 3), (1, 0))):
        weight = rand(*shape).permute(*dims).requires_grad_()
        optimizer = tw.SGD([weight], lr=0.1)
        x = rand(2, weight.shape[0]).requires_grad_()
        y = (x @ weight).sum()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


@one_each
def test_each_step_is_one_new_version(configuration):
    param = leaf(rand(5))
    optimizer = ours(configuration, [param])
    before = param._version
    stepped(optimizer, [param], 3)
    assert param._version >= before + 3


# --- schedulers and hyperparameters that move ---

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 3),
}


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(scheduler, kind, tensor_lr):
    mine, theirs = twins([rand(20)])
    kwargs = {"momentum": 0.9} if kind == "SGD" else {}
    steps = gradients(mine, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "The epoch parameter")
        for optimizer_of, params in ((ours, mine), (oracle, theirs)):
            # float64, as a float32 rate would round differently in torch's tensor arithmetic
            lr = torch.tensor(0.1, dtype=torch.float64) if tensor_lr else 0.1
            optimizer = optimizer_of((kind, {"lr": lr, **kwargs}), params)
            schedule = SCHEDULERS[scheduler](optimizer)
            for grads in steps:
                follow(optimizer, params, [grads])
                schedule.step(*[1.0] * (scheduler == "ReduceLROnPlateau"))
    assert_close(mine[0], theirs[0])


def test_schedulers_warn_when_they_come_first():
    optimizer = tw.SGD([leaf(rand(3))], lr=0.1)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)"):
        scheduler.step()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(), (1,)])
def test_learning_rate_as_tensor(name, shape):
    mine, theirs = twins([rand(20)])
    lr = torch.full(shape, 0.25)
    a, b = getattr(tw, name)(mine, lr=lr), getattr(tw, name)(theirs, lr=0.25)
    steps = gradients(mine, 4)
    follow(a, mine, steps[:2])
    follow(b, theirs, steps[:2])
    lr.fill_(0.125)  # the user's tensor is the learning rate, not a copy of it
    b.param_groups[0]["lr"] = 0.125
    follow(a, mine, steps[2:])
    follow(b, theirs, steps[2:])
    assert torch.equal(mine[0], theirs[0])


def test_betas_as_tensors():
    mine, theirs = twins([rand(20)])
    betas = (torch.tensor(0.5), torch.tensor(0.75))
    stepped(tw.Adam(mine, betas=betas), mine, 3)
    stepped(tw.Adam(theirs, betas=(0.5, 0.75)), theirs, 3)
    assert torch.equal(mine[0], theirs[0])


SWITCHES = [
    ("SGD", {"lr": 0.1}, {"momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"momentum": 0.0}),
    ("SGD", {"lr": 0.1}, {"weight_decay": 0.5}),
    ("SGD", {"lr": 0.1}, {"maximize": True}),
    ("Adam", {"lr": 0.1}, {"betas": (0.5, 0.6)}),
    ("Adam", {"lr": 0.1}, {"weight_decay": 0.5, "eps": 0.1}),
    ("Adagrad", {"lr": 0.1}, {"lr_decay": 0.5}),
]


@pytest.mark.parametrize(("name", "kwargs", "change"), SWITCHES)
def test_hyperparameters_change_between_steps_as_in_torch(name, kwargs, change):
    mine, theirs = twins([rand(20), rand(3)])
    a, b = ours((name, kwargs), mine), oracle((name, kwargs), theirs)

    def switch(optimizer, i):
        optimizer.param_groups[0].update(change if i in (2, 3, 4) else kwargs)

    steps = gradients(mine, 5)
    follow(a, mine, steps, switch)
    follow(b, theirs, steps, switch)
    for p, q in zip(mine, theirs, strict=True):
        assert_close(p, q)


@pytest.mark.parametrize(
    ("name", "change", "slot"),
    [
        ("Adam", {"amsgrad": True}, "max_exp_avg_sq"),
        ("AdamW", {"amsgrad": True}, "max_exp_avg_sq"),
        ("NAdam", {"amsgrad": True}, "max_exp_avg_sq"),
        ("RMSprop", {"centered": True}, "grad_avg"),
        ("RMSprop", {"momentum": 0.9}, "momentum_buffer"),
        ("RMSprop", {"amsgrad": True}, "max_square_avg"),
        ("SGD", {"momentum": 0.9}, "momentum_buffer"),
    ],
)
def test_state_that_a_flag_needs_appears_when_it_is_switched_on(name, change, slot):
    # In torch most of these are a KeyError.
    param = leaf(rand(20))
    optimizer = stepped(getattr(tw, name)([param], lr=0.01), [param], 2)
    assert slot not in optimizer.state[param]
    before = state_of(optimizer, [param])[0]
    optimizer.param_groups[0].update(change)
    stepped(optimizer, [param], 2)
    assert optimizer.state[param][slot].any()
    for key in before:
        assert not torch.equal(optimizer.state[param][key], before[key])
    assert param.isfinite().all()


def test_the_first_gradient_enters_the_momentum_undampened_whenever_it_comes():
    param = leaf(torch.zeros(2))
    optimizer = tw.SGD([param], lr=1.0, dampening=0.5)
    g = torch.ones(2)
    follow(optimizer, [param], [[g]])
    optimizer.param_groups[0]["momentum"] = 0.5
    follow(optimizer, [param], [[g]])
    assert torch.equal(optimizer.state[param]["momentum_buffer"], g)
    follow(optimizer, [param], [[g]])
    assert torch.equal(optimizer.state[param]["momentum_buffer"], g)  # 0.5 * 1 + 0.5 * 1


def test_the_users_momentum_is_not_a_first_one():
    mine, theirs = twins([torch.zeros(4, dtype=torch.float64)])
    configuration = ("SGD", {"lr": 1.0, "momentum": 0.5, "dampening": 0.5})
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for optimizer, (param,) in ((a, mine), (b, theirs)):
        optimizer.state[param]["momentum_buffer"] = torch.full_like(param, 3.0)
        stepped(optimizer, [param], 2)
    assert_same(a, mine, b, theirs)


# --- groups and parameters ---


def test_add_param_group():
    mine, theirs = twins([rand(5), rand(6)])
    a, b = tw.Adam(mine[:1], lr=0.1), torch.optim.Adam(theirs[:1], lr=0.1, foreach=False)
    steps = gradients(mine, 4)
    for optimizer, params in ((a, mine), (b, theirs)):
        follow(optimizer, params, steps[:2])
        optimizer.add_param_group({"params": params[1], "lr": 0.5})
        follow(optimizer, params, steps[2:])
    assert_same(a, mine, b, theirs)


def test_groups_are_refused_as_in_torch():
    param, other = leaf(rand(3)), leaf(rand(3))
    refused = [
        (ValueError, "non-leaf", {"params": [param * 2]}),
        (ValueError, "more than one parameter group", {"params": [param]}),
        (TypeError, "ordered collections", {"params": {other}}),
        (TypeError, "Tensor", {"params": [3.0]}),
        (TypeError, "dict", [other]),
        (ValueError, "with/without names", {"params": [("other", other)]}),
    ]
    for error, match, group in refused:
        for module in (tw, torch.optim):
            optimizer = module.SGD([param], lr=0.1)
            with pytest.raises(error, match=match):
                optimizer.add_param_group(group)
            assert len(optimizer.param_groups) == 1


def test_a_group_with_a_wrong_hyperparameter_is_not_added():
    param = leaf(rand(3))
    optimizer = tw.Adam([param])
    with pytest.raises(ValueError, match=r"lr must be .*at least 0, not -1"):
        optimizer.add_param_group({"params": [leaf(rand(3))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    stepped(optimizer, [param])


@pytest.mark.parametrize("name", ALL)
def test_an_empty_list_is_refused_and_an_empty_group_is_not(name):
    with pytest.raises(ValueError, match="empty parameter list"):
        getattr(tw, name)([])
    optimizer = getattr(tw, name)([{"params": []}])
    optimizer.step()


@one_each
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_listed_twice_is_stepped_once(configuration):
    mine, theirs = twins([rand(7)])
    a, b = ours(configuration, [mine[0], mine[0]]), oracle(configuration, theirs)
    steps = gradients(mine, 3)
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


def test_a_parameter_listed_twice_is_warned_about():
    param = leaf(rand(7))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        tw.SGD([param, param], lr=0.1)


def test_tied_parameters():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    twin = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    twin[1].weight = twin[0].weight
    twin.load_state_dict(model.state_dict())
    for net, optimizer in (
        (model, tw.AdamW(model.parameters())),
        (twin, torch.optim.AdamW(twin.parameters(), foreach=False)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(2, 4)).square().sum().backward()
            optimizer.step()
    assert_close(model[0].weight, twin[0].weight, rtol=1e-5)


def test_frozen_parameters_stay():
    frozen, param = rand(4), leaf(rand(4))
    optimizer = tw.AdamW([frozen, param], lr=0.1)
    before = frozen.clone()
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert torch.equal(frozen, before)
    # A tensor that does not require a gradient and was given one is stepped, as in torch.
    frozen.grad = torch.ones_like(frozen)
    optimizer.step()
    assert not torch.equal(frozen, before)


def test_meta_parameters_beside_others():
    real, meta = leaf(rand(4)), torch.empty(4, device="meta", requires_grad=True)
    twin = leaf(rand(4))
    a, b = tw.AdamW([real, meta], lr=0.1), tw.AdamW([twin], lr=0.1)
    for _ in range(2):
        meta.grad = torch.empty(4, device="meta")
        real.grad, twin.grad = torch.ones(4).double(), torch.ones(4).double()
        a.step()
        b.step()
    assert torch.equal(real, twin)
    assert a.state[meta]["exp_avg"].device.type == "meta"


# --- what users do to state and parameters ---


@one_each
@pytest.mark.parametrize("edit", ["replace", "in place", "step", "data", "clear", "delete slot"])
def test_edits_between_steps(configuration, edit):
    mine, theirs = twins([rand(20), rand(5)])
    a, b = ours(configuration, mine), oracle(configuration, theirs)

    def change(optimizer, params, i):
        if i not in (2, 3):
            return
        state = optimizer.state[params[0]]
        slots = [k for k, v in state.items() if v is not None and v.dim()]
        if edit == "replace":
            state.update({k: state[k] * 0.5 for k in slots})
        elif edit == "in place":
            for k in slots:
                state[k].mul_(0.25)
        elif edit == "step" and "step" in state:
            state["step"].fill_(10.0)
        elif edit == "data":
            params[0].data = params[0].data * 2
        elif edit == "clear" and configuration[0] != "Adagrad":
            optimizer.state.clear()
        elif edit == "delete slot" and configuration[0] == "SGD" and slots:
            del state["momentum_buffer"]

    steps = gradients(mine, 5)
    for optimizer, params in ((a, mine), (b, theirs)):
        follow(optimizer, params, steps, lambda o, i, params=params: change(o, params, i))
    assert_same(a, mine, b, theirs)


def test_a_replaced_slot_is_the_one_that_moves():
    param = leaf(rand(20))
    optimizer = stepped(tw.Adam([param]), [param], 2)
    fresh = torch.zeros(20, dtype=torch.float64)
    optimizer.state[param]["exp_avg"] = fresh
    stepped(optimizer, [param])
    assert optimizer.state[param]["exp_avg"] is fresh
    assert fresh.any()


def test_a_replaced_step_counts_on():
    param = leaf(rand(20))
    optimizer = stepped(tw.Adam([param]), [param], 2)
    optimizer.state[param]["step"] = torch.tensor(40.0)
    stepped(optimizer, [param])
    assert optimizer.state[param]["step"] == 41
    optimizer.state[param]["step"] = 7  # torch once kept Python numbers
    stepped(optimizer, [param])
    assert optimizer.state[param]["step"] == 8


def test_an_equal_step_in_its_place_is_still_noticed():
    # Lists of state are compared by value where they are not the same objects.
    param = leaf(rand(20))
    optimizer = stepped(tw.Adam([param]), [param], 2)
    fresh = torch.tensor(2.0)
    optimizer.state[param]["step"] = fresh
    stepped(optimizer, [param])
    assert fresh == 3
    assert optimizer.state[param]["step"] is fresh


def test_an_equal_one_element_slot_in_its_place_is_still_noticed():
    param = leaf(rand(1))
    optimizer = stepped(tw.SGD([param], momentum=0.9), [param], 2)
    fresh = optimizer.state[param]["momentum_buffer"].clone()
    before = fresh.clone()
    optimizer.state[param]["momentum_buffer"] = fresh
    stepped(optimizer, [param])
    assert not torch.equal(optimizer.state[param]["momentum_buffer"], before)


@pytest.mark.parametrize("name", ["exp_avg", "step"])
@pytest.mark.parametrize("swap", ["data", "set_"])
def test_state_whose_memory_is_swapped_is_followed(name, swap):
    # Offloading to the host and sharing between processes do this: the tensor stays, its memory moves.
    param, twin = leaf(rand(20)), leaf(rand(20))
    a, b = tw.Adam([param]), tw.Adam([twin])
    stepped(a, [param])
    stepped(b, [twin])
    tensor = a.state[param][name]
    old = tensor.data[...]  # kept, so that a write to it does no harm here
    if swap == "data":
        tensor.data = old.clone()
    else:
        tensor.set_(old.clone())
    before = old.clone()
    stepped(a, [param])
    stepped(b, [twin])
    assert torch.equal(old, before)
    assert torch.equal(param, twin)
    assert torch.equal(tensor, b.state[twin][name])


def test_state_that_has_a_wrong_shape_is_refused():
    param = leaf(rand(20))
    optimizer = stepped(tw.Adam([param]), [param])
    optimizer.state[param]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"'exp_avg'.*\(20,\).*\(7,\)"):
        stepped(optimizer, [param])


@pytest.mark.parametrize("module", [tw, torch.optim])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_state_of_another_shape_is_no_trouble_to_a_parameter_without_a_gradient(module, name):
    pruned, other = leaf(torch.ones(6, 4)), leaf(torch.ones(3))
    optimizer = getattr(module, name)([pruned, other], lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
    stepped(optimizer, [pruned, other])
    pruned.data = pruned.data[:3].clone()
    kept, before = pruned.detach().clone(), other.detach().clone()
    for _ in range(2):
        pruned.grad, other.grad = None, torch.ones(3)
        optimizer.step()
    assert (other != before).all()
    assert torch.equal(pruned, kept)
    pruned.grad = torch.ones(3, 4)
    with pytest.raises((ValueError, RuntimeError)):
        optimizer.step()
    for key, value in optimizer.state[pruned].items():
        if value.dim():
            optimizer.state[pruned][key] = value[:3].clone()
    optimizer.step()
    assert (pruned != kept).all()


def test_swap_tensors():
    param, twin, new = leaf(rand(20)), leaf(rand(20)), leaf(rand(20, seed=4))
    a, b = tw.SGD([param], lr=0.1), tw.SGD([twin], lr=0.1)
    stepped(a, [param])
    torch.utils.swap_tensors(param, new)
    stepped(a, [param])
    assert torch.equal(new, stepped(b, [twin]) and twin)
    follow(tw.SGD([expected := leaf(rand(20, seed=4))], lr=0.1), [expected], gradients([twin], 1))
    assert torch.equal(param, expected)


def test_parameter_takes_another_dtype_between_steps():
    layer, twin = nn.Linear(5, 3), nn.Linear(5, 3)
    twin.load_state_dict(layer.state_dict())
    optimizer = stepped(tw.AdamW(layer.parameters()), list(layer.parameters()))
    layer.double()
    stepped(optimizer, list(layer.parameters()))
    assert all(optimizer.state[p]["exp_avg"].dtype == torch.float64 for p in layer.parameters())
    layer.to(torch.bfloat16)
    stepped(optimizer, list(layer.parameters()))
    assert all(p.isfinite().all() for p in layer.parameters())


def test_many_patterns_of_gradients():
    # More than the plans that are kept; each must still find its own state.
    mine, theirs = twins([rand(3, seed=i) for i in range(6)])
    a, b = tw.Adam(mine, lr=0.1), torch.optim.Adam(theirs, lr=0.1, foreach=False)
    steps = gradients(mine, 60)
    for i, grads in enumerate(steps):
        for k in range(6):
            if (i * 7 + 3) >> k & 1:
                grads[k] = None
    follow(a, mine, steps)
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


def test_a_step_from_another_thread():
    mine, theirs = twins([rand(100_000), rand(5)])
    a, b = tw.Adam(mine), tw.Adam(theirs)
    stepped(a, mine)
    thread = threading.Thread(target=stepped, args=(a, mine, 2))
    thread.start()
    thread.join()
    stepped(b, theirs)
    stepped(b, theirs, 2)
    assert all(map(torch.equal, mine, theirs))


@one_each
def test_the_number_of_threads_does_not_change_a_bit(configuration):
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            params = [leaf(rand(n, seed=n), torch.float32) for n in (100_003, 50_000, 17)]
            optimizer = stepped(ours(configuration, params), params, 2)
            results.append((params, state_of(optimizer, params)))
    finally:
        torch.set_num_threads(before)
    (one, one_state), (two, two_state) = results
    assert all(map(torch.equal, one, two))
    for x, y in zip(one_state, two_state, strict=True):
        assert all(torch.equal(x[key], y[key]) for key in x)


@pytest.mark.filterwarnings("ignore")
def test_a_step_inside_a_compiled_function():
    param, twin = leaf(rand(20)), leaf(rand(20))
    a, b = tw.Adam([param], lr=0.1), tw.Adam([twin], lr=0.1)

    def train(p, optimizer):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()

    try:
        compiled = torch.compile(train, backend="eager")
        for _ in range(2):
            compiled(param, a)
    except (torch._dynamo.exc.InternalTorchDynamoError, RuntimeError) as error:
        if "not supported" not in str(error):
            raise
        pytest.skip(f"torch.compile does not work here: {error}")
    finally:
        torch._dynamo.reset()
    for _ in range(2):
        train(twin, b)
    assert torch.equal(param, twin)


def test_a_step_in_inference_mode_and_in_backward():
    # Stepping inside backward is one parameter at a time, each with an optimizer of its own.
    layer, twin = nn.Linear(6, 4), nn.Linear(6, 4)
    twin.load_state_dict(layer.state_dict())
    optimizers = {p: tw.AdamW([p]) for p in layer.parameters()}

    def step(p):
        optimizers[p].step()
        p.grad = None

    for p in layer.parameters():
        p.register_post_accumulate_grad_hook(step)
    plain = tw.AdamW(twin.parameters())
    for _ in range(3):
        layer(torch.ones(2, 6)).square().sum().backward()
        plain.zero_grad()
        twin(torch.ones(2, 6)).square().sum().backward()
        plain.step()
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(layer.bias, twin.bias)


# --- AMP ---


def scaled(optimizer, params, grads, scaler, unscale=False):
    """Take one step through the scaler, with gradients that backward would have left."""
    for p, g in zip(params, grads, strict=True):
        p.grad = (g * scaler.get_scale()).to(p.dtype)
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()


def new_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    scaler.scale(torch.ones(()))  # creates the scale, as the first loss does
    return scaler


@pytest.mark.parametrize("name", ALL)
def test_a_step_claims_to_unscale_only_where_it_is_asked_to(name):
    # Trainers refuse to clip, and do not see skipped steps, where it is claimed.
    assert not hasattr(getattr(tw, name)([leaf(rand(3))]), "_step_supports_amp_scaling")
    if name in FUSED:
        assert not hasattr(getattr(tw, name)([leaf(rand(3))], fused=False), "_step_supports_amp_scaling")
        assert getattr(tw, name)([leaf(rand(3))], fused=True)._step_supports_amp_scaling


@pytest.mark.parametrize("module", [tw, torch.optim])
def test_a_fused_group_alone_claims_nothing(module):
    optimizer = module.AdamW([{"params": [leaf(rand(3))], "fused": True}])
    assert not hasattr(optimizer, "_step_supports_amp_scaling")


def copied(optimizer, how):
    if how == "load_state_dict":
        optimizer.load_state_dict(tw.Adam([leaf(rand(3))]).state_dict())
        return optimizer
    return copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "load_state_dict"])
def test_the_claim_survives(how):
    # torch's fused optimizers lose it when they are copied.
    assert copied(tw.Adam([leaf(rand(3))], fused=True), how)._step_supports_amp_scaling
    assert not hasattr(copied(tw.Adam([leaf(rand(3))]), how), "_step_supports_amp_scaling")


def test_what_a_user_claims_stays():
    optimizer = tw.Adam([leaf(rand(3))], fused=True)
    optimizer._step_supports_amp_scaling = False  # so that a trainer clips
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer._step_supports_amp_scaling


@pytest.mark.parametrize("how", ["subclass", "pre-hook"])
def test_who_comes_before_a_step_sees_unscaled_gradients(how):
    def clip(optimizer, *ignored):
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)

    class Clipped(tw.SGD):
        def step(self, closure=None):
            clip(self)
            return super().step(closure)

    param, scaler = leaf(torch.zeros(1)), new_scaler()
    optimizer = (Clipped if how == "subclass" else tw.SGD)([param], lr=1.0)
    if how == "pre-hook":
        optimizer.register_step_pre_hook(clip)
    scaled(optimizer, [param], [torch.full((1,), 5.0)], scaler)
    assert_close(param, torch.full((1,), -1.0), rtol=1e-5)


def test_no_step_is_called_on_an_overflow():
    # accelerate learns from it that a step was skipped.
    param, scaler, called = leaf(torch.zeros(1)), new_scaler(), []
    optimizer = tw.SGD([param], lr=1.0)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: called.append(o))
    scaled(optimizer, [param], [torch.full((1,), float("inf"))], scaler)
    assert not called
    scaled(optimizer, [param], [torch.ones(1)], scaler)
    assert called


WAYS = pytest.mark.parametrize("new", [unscaling, ours], ids=["in the step", "before the step"])
"""Who unscales and skips: the step, or GradScaler for it."""


def assert_nearly_equal(a, params, b, others):
    """Compare to a few ulp: another kernel may fuse another multiplication with an addition."""
    for p, q in zip(params, others, strict=True):
        assert_close(p, q, rtol=2 * torch.finfo(p.dtype).eps)
        assert a.state.get(p, {}).keys() == b.state.get(q, {}).keys()
        for key, value in b.state.get(q, {}).items():
            assert_close(a.state[p][key], value, rtol=4 * torch.finfo(value.dtype).eps)


def make_equal(params, models):
    """Even out what half precision has rounded to different sides, which L2 would feed into the state."""
    with torch.no_grad():
        for param, model in zip(params, models, strict=True):
            param.copy_(model)


HALF_OR_NOT = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("dtype", HALF_OR_NOT)
@WAYS
@one_each
def test_a_scaled_step_is_a_step(configuration, new, dtype, unscale):
    if (unscale or new is ours) and dtype == torch.float16:
        pytest.skip("torch's scaler does not unscale float16 gradients")
    mine, theirs = twins([rand(20), rand(smaller(40_000, 5000))], dtype)
    a, b, scaler = new(configuration, mine), ours(configuration, theirs), new_scaler()
    for grads in gradients(mine, 3):
        scaled(a, mine, grads, scaler, unscale)
        follow(b, theirs, [grads])
        assert_nearly_equal(a, mine, b, theirs)
        # Whoever looks at the gradients afterwards finds them as if no scale had been.
        assert all(torch.equal(p.grad, q.grad) for p, q in zip(mine, theirs, strict=True))
        make_equal(mine, theirs)
    assert scaler.get_scale() == 1024.0


@pytest.mark.parametrize("dtype", HALF_OR_NOT)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@WAYS
@one_each
def test_an_overflow_at_the_first_step_changes_nothing(configuration, new, bad, dtype):
    if new is ours and dtype == torch.float16:
        pytest.skip("torch's scaler does not unscale float16 gradients")
    mine, theirs = twins([rand(20), rand(7)], dtype)
    a, b, scaler = new(configuration, mine), ours(configuration, theirs), new_scaler()
    before = everything(a)
    first, *rest = gradients(mine, 3)
    first[1][3] = bad
    scaled(a, mine, first, scaler)
    assert_unchanged(a, before)
    assert scaler.get_scale() == 512.0
    for grads in rest:
        scaled(a, mine, grads, scaler)
        follow(b, theirs, [grads])
        assert_nearly_equal(a, mine, b, theirs)
        make_equal(mine, theirs)


@WAYS
def test_an_overflow_in_the_middle_changes_nothing(new):
    mine, scaler = [leaf(rand(20)), leaf(rand(7))], new_scaler()
    optimizer = new(("AdamW", {}), [{"params": mine[:1]}, {"params": mine[1:], "lr": 1.0}])
    good, bad = gradients(mine, 2)
    scaled(optimizer, mine, good, scaler)
    before = everything(optimizer)
    bad[0][0] = float("inf")
    scaled(optimizer, mine, bad, scaler)
    assert_unchanged(optimizer, before)


@WAYS
def test_unscaling_and_clipping(new):
    mine, theirs = twins([rand(20), rand(7)])
    a, b, scaler = new(("SGD", {"lr": 1.0}), mine), tw.SGD(theirs, lr=1.0), new_scaler()
    for p, q, g in zip(mine, theirs, gradients(mine, 1)[0], strict=True):
        p.grad, q.grad = g * 1024, g.clone()
    scaler.unscale_(a)
    nn.utils.clip_grad_norm_(mine, 0.5)
    nn.utils.clip_grad_norm_(theirs, 0.5)
    scaler.step(a)
    scaler.update()
    b.step()
    assert all(map(torch.equal, mine, theirs))


@WAYS
def test_scaled_and_plain_steps_in_turn(new):
    mine, theirs = twins([rand(20)])
    a, b, scaler = new(("Adam", {}), mine), tw.Adam(theirs), new_scaler()
    for i, grads in enumerate(gradients(mine, 6)):
        if i % 2:
            follow(a, mine, [grads])
        else:
            scaled(a, mine, grads, scaler)
        follow(b, theirs, [grads])
        assert torch.equal(mine[0], theirs[0])


@WAYS
def test_a_scaled_step_of_a_strided_gradient_unscales_what_the_user_sees(new):
    param = leaf(rand(4, 6))
    optimizer, scaler = new(("SGD", {"lr": 1.0}), [param]), new_scaler()
    expected = rand(6, 4, seed=3)
    param.grad = (expected * 1024).t()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(param.grad, expected.t())
    assert_close(param, rand(4, 6) - expected.t())


# --- errors ---


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -0.1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", torch.tensor(-1.0)),
        ("lr", torch.ones(2)),
        ("weight_decay", -1.0),
        ("eps", -1e-8),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (0.9,)),
        ("momentum", -0.5),
        ("alpha", 1.5),
        ("rho", -0.1),
        ("momentum_decay", -1.0),
        ("lr_decay", -1.0),
        ("initial_accumulator_value", -1.0),
    ],
)
def test_wrong_values_are_refused(name, argument, value):
    defaults = getattr(tw, name)([leaf(rand(2))]).defaults
    if argument not in defaults:
        with pytest.raises(TypeError, match=argument):
            getattr(tw, name)([leaf(rand(2))], **{argument: value})
        return
    with pytest.raises(ValueError, match=f"{argument}.*must be"):
        getattr(tw, name)([leaf(rand(2))], **{argument: value})


def test_a_number_of_any_sign_is_to_be_finite():
    with pytest.raises(ValueError, match="dampening must be a number that is finite, not nan"):
        tw.SGD([leaf(rand(2))], dampening=float("nan"))


@pytest.mark.parametrize(
    ("name", "kwargs", "match"),
    [
        ("SGD", {"nesterov": True}, "Nesterov momentum requires a momentum"),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "zero dampening"),
        ("RMSprop", {"nesterov": True}, "nesterov=True requires a momentum"),
        ("RMSprop", {"momentum_ema": True}, "momentum_ema=True requires a momentum"),
        ("RMSprop", {"momentum_ema": True, "momentum": 1.5}, "in \\(0, 1\\)"),
        ("RMSprop", {"debias": True, "alpha": 1.0}, "debias=True requires an alpha"),
    ],
)
def test_what_does_not_go_together_is_refused(name, kwargs, match):
    with pytest.raises(ValueError, match=match):
        getattr(tw, name)([leaf(rand(2))], **kwargs)


def refused_parameters():
    integer = torch.zeros(3, dtype=torch.int64)
    integer.grad = torch.zeros(3, dtype=torch.int64)
    expanded = torch.zeros(1, 3).expand(4, 3).requires_grad_()
    expanded.grad = torch.ones(4, 3)
    compressed = nn.Parameter(torch.eye(3).to_sparse_csr())
    compressed.grad = torch.eye(3).to_sparse_csr()
    return {
        "integer": (TypeError, "int64", integer),
        "expanded": (ValueError, "expand", expanded),
        "compressed": (ValueError, "sparse_csr", compressed),
    }


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", ["integer", "expanded", "compressed"])
@pytest.mark.parametrize("name", ALL)
def test_what_cannot_be_stepped_is_refused_before_anything_moves(name, kind):
    error, match, wrong = refused_parameters()[kind]
    good = leaf(rand(5))
    optimizer = getattr(tw, name)([{"params": [good]}, {"params": [wrong]}])
    good.grad = torch.ones_like(good)
    had_state = good in optimizer.state  # Adagrad's is there from the start
    with pytest.raises(error, match=match):
        optimizer.step()
    assert torch.equal(good, rand(5))
    assert had_state or good not in optimizer.state
    assert not had_state or not optimizer.state[good]["sum"].any()
    wrong.grad = None
    optimizer.step()
    assert not torch.equal(good, rand(5))


def test_state_that_has_been_stepped_may_be_swapped_away():
    param, twin = leaf(rand(20)), leaf(rand(20))
    a, b = (stepped(tw.Adam([p]), [p], 2) for p in (param, twin))
    for optimizer, p in ((a, param), (b, twin)):
        torch.utils.swap_tensors(optimizer.state[p]["exp_avg"], torch.full((20,), 0.5, dtype=p.dtype))
    c = torch.optim.Adam([copied := leaf(param)], foreach=False)
    c.load_state_dict(copy.deepcopy(a.state_dict()))
    stepped(a, [param])
    stepped(c, [copied])
    assert_close(param, copied)
