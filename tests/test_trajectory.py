"""The numbers: every rule against torch's unfused implementation, in every dtype and size."""

from __future__ import annotations

import inspect
import re
import runpy
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from configurations import CONFIGURATIONS
from interpreter import INTERPRETED, smaller
from support import (
    COUNTERS,
    NAMES,
    ONE_EACH,
    assert_close,
    assert_same,
    follow,
    give,
    gradients,
    label,
    leaf,
    oracle,
    oracle_step,
    ours,
    rand,
    state_of,
    twins,
)
from torch import Tensor

import thalweg as tw
from thalweg.lowering.reference import steps as reference
from thalweg.lowering.reference.rows import advance
from thalweg.rule import Recipe

EPS = torch.finfo(torch.float32).eps
PLAIN = [(name, {}) for name in NAMES]
SHAPES = ((17, 3), (40,), (), (1,), (0,), (2, 3, 5))
SIZES = (0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 16383, 16384, 16385, 100003)

every = pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=label)
one_each = pytest.mark.parametrize("configuration", ONE_EACH, ids=label)


def start(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [rand(*shape, seed=i).to(dtype) for i, shape in enumerate(SHAPES)]


@every
def test_twelve_steps_in_float64_are_torchs(configuration):
    mine, theirs = twins(start())
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for grads in gradients(mine, smaller(12, 4)):
        follow(a, mine, [grads])
        follow(b, theirs, [grads])
        assert_same(a, mine, b, theirs)


def in_ulps(actual: Tensor, exact: Tensor, before: Tensor) -> Tensor:
    """Return each error in units of float32's precision at what was added up."""
    parts = [torch.view_as_real(t) if t.is_complex() else t for t in (actual, exact, before)]
    actual, exact, before = (t.detach().double() for t in parts)
    return ((actual - exact).abs() / (EPS * (exact.abs() + before.abs()) + 1e-37)).flatten()


def assert_as_exact_as_torch(configuration, params, steps):
    """Take steps, and compare each with an exact one from the same state, and with torch's."""
    optimizer, exact_dtype = ours(configuration, params), torch.float64
    if params[0].is_complex():
        exact_dtype = torch.complex128
    for grads in steps:
        olds, states = [p.detach().clone() for p in params], state_of(optimizer, params)
        exact = oracle_step(configuration, olds, grads, states, exact_dtype)
        torchs = oracle_step(configuration, olds, grads, states, params[0].dtype)
        follow(optimizer, params, [grads])
        errors, of_torch = defaultdict(list), defaultdict(list)
        for i, p in enumerate(params):
            errors["p"].append(in_ulps(p, exact[0][i], olds[i]))
            of_torch["p"].append(in_ulps(torchs[0][i], exact[0][i], olds[i]))
            for name, value in exact[1][i].items():
                if name not in COUNTERS and value is not None:
                    old = states[i].get(name, torch.zeros_like(value))
                    errors[name].append(in_ulps(optimizer.state[p][name], value, old))
                    of_torch[name].append(in_ulps(torchs[1][i][name], value, old))
        for name in errors:
            error, torchs_error = torch.cat(errors[name]), torch.cat(of_torch[name])
            assert error.mean() <= max(0.5, 1.5 * torchs_error.mean()), name
            # The single worst is where weight decay and gradient cancel, by chance.
            assert error.max() <= max(64.0, 2.0 * torchs_error.max()), name


@every
def test_a_float32_step_is_as_exact_as_torchs(configuration):
    # Started from one state, not along a trajectory: there, errors feed back into errors.
    params = [leaf(t, torch.float32) for t in start()]
    assert_as_exact_as_torch(configuration, params, gradients(params, smaller(12, 4)))


@one_each
def test_complex128_is_torchs(configuration):
    tensors = [torch.complex(rand(*s, seed=1), rand(*s, seed=2)) for s in SHAPES]
    mine, theirs = twins(tensors)
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for grads in gradients(mine, 8):
        follow(a, mine, [grads])
        follow(b, theirs, [grads])
        assert_same(a, mine, b, theirs)


@one_each
def test_a_complex64_step_is_as_exact_as_torchs(configuration):
    tensors = [torch.complex(rand(*s, seed=1), rand(*s, seed=2)) for s in SHAPES]
    params = [leaf(t, torch.complex64) for t in tensors]
    assert_as_exact_as_torch(configuration, params, gradients(params, 6))


@one_each
def test_late_and_missing_gradients(configuration):
    mine, theirs = twins(start())
    steps = gradients(mine, 10)
    for i, grads in enumerate(steps):
        if i < 3:
            grads[0] = None
        if i in (2, 5, 6):
            grads[1] = None
        if i == 7:
            steps[i] = [None] * len(grads)
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    follow(a, mine, steps[:3])
    assert mine[0] not in a.state or configuration[0] == "Adagrad"  # state comes with a gradient
    follow(a, mine, steps[3:])
    follow(b, theirs, steps)
    assert_same(a, mine, b, theirs)


@one_each
def test_groups_differ_and_the_learning_rate_moves(configuration):
    _name, kwargs = configuration
    mine, theirs = twins(start())

    def groups(params):
        return [
            {"params": params[:2]},
            {"params": params[2:3], "lr": kwargs["lr"] / 3, "weight_decay": 0.0},
            {"params": params[3:], "weight_decay": 0.3, "maximize": True},
        ]

    def schedule(optimizer, i):
        for k, group in enumerate(optimizer.param_groups):
            group["lr"] = kwargs["lr"] / (1 + i + k)

    a, b = ours(configuration, groups(mine)), oracle(configuration, groups(theirs))
    steps = gradients(mine, 8)
    steps[0][0] = None  # groups and counters differ at once
    follow(a, mine, steps, schedule)
    follow(b, theirs, steps, schedule)
    assert_same(a, mine, b, theirs)


@pytest.mark.parametrize("together", [True, False])
@one_each
def test_sizes(configuration, together):
    tensors = [*(rand(n, seed=n) for n in SIZES if together or n <= 1000), rand(seed=99)]
    mine, theirs = twins(tensors)
    if together:
        pairs = [(ours(configuration, mine), oracle(configuration, theirs), mine, theirs)]
    else:
        pairs = [
            (ours(configuration, [p]), oracle(configuration, [q]), [p], [q])
            for p, q in zip(mine, theirs, strict=True)
        ]
    for a, b, ps, qs in pairs:
        steps = gradients(ps, 2)
        follow(a, ps, steps)
        follow(b, qs, steps)
        assert_same(a, ps, b, qs)


def ulps_apart(actual: Tensor, exact: Tensor) -> Tensor:
    """Count the values of a 16-bit dtype between `actual` and `exact`, rounded."""

    def line(t: Tensor) -> Tensor:
        bits = t.view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (line(actual.detach()) - line(exact.to(actual.dtype))).abs()


HALF = (torch.bfloat16, torch.float16)


def skip_without_fused_multiply_add(configuration):
    """Centered RMSprop takes a difference of nearly equal numbers, or of infinite ones."""
    if INTERPRETED and configuration[1].get("centered"):
        pytest.skip("Triton's interpreter rounds the product that kernels fuse with the subtraction")


@pytest.mark.parametrize("dtype", HALF)
@one_each
def test_half_precision_steps_are_the_exact_ones_rounded(configuration, dtype):
    skip_without_fused_multiply_add(configuration)
    params = [leaf(rand(n, seed=n), dtype) for n in (1, 7, 16, 33, 1000, 16385)]
    optimizer = ours(configuration, params)
    for grads in gradients(params, 4):
        olds, states = [p.detach().clone() for p in params], state_of(optimizer, params)
        exact, state = oracle_step(configuration, olds, grads, states, torch.float64)
        follow(optimizer, params, [grads])
        for p, e, s, old in zip(params, exact, state, olds, strict=True):
            # Where old value and step cancel, float32's own error is many places of a tiny result.
            cancelled = (p - e).abs() <= EPS * old.abs()
            apart = ulps_apart(p, e).masked_fill(cancelled, 0)
            assert apart.max() <= 1
            # Only what lies between two values, to within float32's error, may round the other way.
            assert apart.sum() <= 1 + 0.002 * p.numel()
            for name, value in optimizer.state[p].items():
                assert value.dtype == torch.float32
                assert_close(value, s[name].to(torch.float32), rtol=2e-6)


def test_float16_adam_survives_a_small_gradient():
    # 1e-4 squared is 0 in float16, where torch divides by zero and sends the parameter to -inf.
    param = leaf(torch.ones(20), torch.float16)
    optimizer = tw.Adam([param], lr=1e-2)
    follow(optimizer, [param], [[torch.full((20,), 1e-4)]] * 3)
    assert param.isfinite().all()
    assert torch.allclose(param.float(), torch.full((20,), 0.97), atol=2e-3)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_specials_are_stored_right(dtype):
    # SGD with lr 1 from zero stores -g: every class of number passes through the encoder.
    info = torch.finfo(dtype)
    values = torch.tensor(
        [0.0, -0.0, 1.0, info.max, -info.max, info.tiny, info.tiny / 4, 1e30, -1e30]
        + [float("inf"), -float("inf"), float("nan"), 1 + info.eps / 2, 1 + 3 * info.eps / 2],
        dtype=torch.float32,
    )
    param = leaf(torch.zeros(len(values)), dtype)
    param.grad_dtype = torch.float32
    param.grad = -values
    tw.SGD([param], lr=1.0).step()
    torch.testing.assert_close(param.detach(), values.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "grad_dtype"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float64, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("configuration", ONE_EACH[:6:2], ids=label)
def test_gradients_of_another_dtype(configuration, dtype, grad_dtype):
    params = [leaf(rand(n, seed=n), dtype) for n in (1, 16, 77)]
    twin = [leaf(p, torch.float64) for p in params]
    optimizer = ours(configuration, params)
    for grads in gradients(twin, 3):
        grads = [g.to(grad_dtype) for g in grads]
        olds, states = [p.detach().clone() for p in params], state_of(optimizer, params)
        exact, _ = oracle_step(configuration, olds, grads, states, torch.float64)
        for p, g in zip(params, grads, strict=True):
            p.grad = None
            p.grad_dtype = grad_dtype
            p.grad = g.clone()
        optimizer.step()
        for p, e, g in zip(params, exact, grads, strict=True):
            assert p.grad.dtype == grad_dtype
            assert torch.equal(p.grad, g)
            if dtype in HALF:
                assert ulps_apart(p, e).max() <= 1
            else:
                assert_close(p, e.to(dtype), rtol=1e-12 if dtype == torch.float64 else 1e-6)


def test_gradients_change_dtype_between_steps():
    param, twin = leaf(rand(40), torch.float32), leaf(rand(40), torch.float32)
    a, b = tw.Adam([param], lr=0.1), tw.Adam([twin], lr=0.1)
    for i, (grad,) in enumerate(gradients([param], 4)):
        grad = grad.to(torch.bfloat16)
        param.grad = None
        param.grad_dtype = torch.bfloat16 if i % 2 else torch.float32
        param.grad = grad.to(param.grad_dtype)
        twin.grad = grad.float()
        a.step()
        b.step()
        assert torch.equal(param, twin)


def masks(t: Tensor) -> Tensor:
    """Return 2 at NaN, 1 at inf, -1 at -inf and 0 elsewhere."""
    t = t.detach()
    return torch.where(t.isnan(), 2.0, torch.where(t.isinf(), t.sign(), torch.zeros_like(t)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e25, -1e-30])
@pytest.mark.parametrize("configuration", [*ONE_EACH, *PLAIN], ids=label)
def test_what_is_not_finite_travels_as_in_torch(configuration, value):
    # 1e25 is finite, and its square is not in float32; the square of 1e-30 is zero.
    skip_without_fused_multiply_add(configuration)
    mine, theirs = twins([rand(37)], torch.float32)
    a, b = ours(configuration, mine), oracle(configuration, theirs)
    for i, (grad,) in enumerate(gradients(mine, 4)):
        if i == 1:
            grad[[0, 5, 36]] = value
        follow(a, mine, [[grad]])
        follow(b, theirs, [[grad]])
        torch.testing.assert_close(masks(mine[0]), masks(theirs[0]), msg=f"parameter, step {i + 1}")
        for name, expected in b.state[theirs[0]].items():
            if expected is not None:
                actual = a.state[mine[0]][name]
                torch.testing.assert_close(masks(actual), masks(expected), msg=f"{name}, step {i + 1}")


@pytest.mark.parametrize("name", [*NAMES])
def test_a_parameter_that_is_not_finite_stays_so_as_in_torch(name):
    values = torch.tensor([float("inf"), float("nan"), -float("inf"), 1.0])
    configuration = (name, {"lr": 0.1, "weight_decay": 0.1})
    mine, theirs = twins([values])
    follow(ours(configuration, mine), mine, [[torch.ones(4)]])
    follow(oracle(configuration, theirs), theirs, [[torch.ones(4)]])
    torch.testing.assert_close(masks(mine[0]), masks(theirs[0]))


def test_gradients_are_not_changed():
    param = leaf(rand(100))
    grad = rand(100, seed=5)
    param.grad = grad
    tw.AdamW([param], maximize=True, amsgrad=True).step()
    assert param.grad is grad
    assert torch.equal(grad, rand(100, seed=5))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.0, 0.0), (0.5, 0.9)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lion(weight_decay, betas, maximize):
    (param,) = twins([rand(50)])[0]
    p, m = rand(50), torch.zeros(50, dtype=torch.float64)
    optimizer = tw.Lion([param], lr=0.01, betas=betas, weight_decay=weight_decay, maximize=maximize)
    for grads in gradients([param], 6):
        grads[0][0] = 0.0
        follow(optimizer, [param], [grads])
        g = -grads[0] if maximize else grads[0]
        update = torch.sign(betas[0] * m + (1 - betas[0]) * g)
        p = p - 0.01 * (update + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
        assert_close(param, p)
        assert_close(optimizer.state[param]["exp_avg"], m)


def rmsprop_by_hand(p, grads, h):
    """Return the parameter after each step, written down from the docstring."""
    v = mean = b = largest = torch.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        if h.decoupled_weight_decay:
            p = p - h.lr * h.weight_decay * p
        else:
            g = g + h.weight_decay * p
        v = h.alpha * v + (1 - h.alpha) * g * g
        mean = h.alpha * mean + (1 - h.alpha) * g
        weight = 1 - h.alpha**t if h.debias else 1.0
        second = (v - mean**2 if h.centered else v).clamp(min=0.0) / weight
        largest = torch.maximum(largest, second)
        second = largest if h.amsgrad else second
        u = g / ((second + h.eps).sqrt() if h.eps_inside_sqrt else second.sqrt() + h.eps)
        gain = 1 - h.momentum if h.momentum_ema else 1.0
        b = h.momentum * b + gain * u
        step = u if h.momentum == 0 else h.momentum * b + gain * u if h.nesterov else b
        if h.debias and h.momentum_ema:
            step = step / (1 - h.momentum ** (t + 1 if h.nesterov else t))
        p = p - h.lr * step
        yield p


EXTRAS = [
    {"debias": True},
    {"debias": True, "centered": True},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "debias": True},
    {"momentum": 0.9, "momentum_ema": True},
    {"momentum": 0.9, "momentum_ema": True, "debias": True},
    {"momentum": 0.9, "momentum_ema": True, "debias": True, "nesterov": True},
    {"momentum": 0.9, "momentum_ema": True, "nesterov": True},
    {"eps_inside_sqrt": True, "eps": 1e-3},
    {"amsgrad": True},
    {"amsgrad": True, "centered": True, "debias": True},
    {"decoupled_weight_decay": True, "weight_decay": 0.1},
    {"weight_decay": 0.1, "eps_inside_sqrt": True, "momentum": 0.5, "nesterov": True},
]


@pytest.mark.parametrize("kwargs", EXTRAS, ids=lambda kw: "-".join(kw))
def test_rmsprop_extras(kwargs):
    param = leaf(rand(60))
    optimizer = tw.RMSprop([param], lr=0.01, **kwargs)
    h = Recipe.of(optimizer.rule).numbers(optimizer.param_groups[0])
    steps = [g for (g,) in gradients([param], 8)]
    for i, expected in enumerate(rmsprop_by_hand(rand(60), steps, h)):
        follow(optimizer, [param], [[steps[i]]])
        assert_close(param, expected, rtol=1e-9)


def test_rmsprop_debias_takes_a_first_step_of_the_learning_rate():
    param = leaf(torch.zeros(5))
    follow(tw.RMSprop([param], lr=0.1, debias=True), [param], [[torch.arange(1.0, 6.0)]])
    assert torch.allclose(param, torch.full((5,), -0.1))


def test_rmsprop_debias_takes_no_longer_a_first_step_where_it_is_centered():
    # The variance of one gradient about its own mean would be 0, and the step that over eps.
    param = leaf(torch.zeros(5))
    optimizer = tw.RMSprop([param], lr=0.1, alpha=0.81, debias=True, centered=True)
    follow(optimizer, [param], [[torch.arange(1.0, 6.0)]])
    assert torch.allclose(param, torch.full((5,), -0.1 / 0.9))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_decoupled_weight_decay(momentum):
    param, p = leaf(rand(30)), rand(30)
    optimizer = tw.SGD([param], lr=0.1, momentum=momentum, weight_decay=0.2, decoupled_weight_decay=True)
    b = torch.zeros_like(p)
    for (g,) in gradients([param], 5):
        follow(optimizer, [param], [[g]])
        b = momentum * b + g
        p = p - 0.1 * 0.2 * p - 0.1 * b
        assert_close(param, p)


def test_nadam_amsgrad():
    param, p = leaf(rand(30)), rand(30)
    optimizer = tw.NAdam([param], lr=0.01, amsgrad=True)
    m = v = largest = torch.zeros_like(p)
    product = 1.0
    steps = gradients([param], 8)
    for t, (g,) in enumerate(steps, start=1):
        g = g / t  # shrinking, so that the maximum is not the latest
        follow(optimizer, [param], [[g]])
        mu = 0.9 * (1 - 0.5 * 0.96 ** (t * 4e-3))
        mu_next = 0.9 * (1 - 0.5 * 0.96 ** ((t + 1) * 4e-3))
        product *= mu
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        largest = torch.maximum(largest, v)
        ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
        p = p - 0.01 * ahead / ((largest / (1 - 0.999**t)).sqrt() + 1e-8)
        assert_close(param, p, rtol=1e-6)  # the product is kept in float32, as in torch


@every
def test_the_reference_is_the_kernel(configuration):
    optimizer = ours(configuration, [leaf(rand(1))])
    recipe, group = Recipe.of(optimizer.rule), optimizer.param_groups[0]
    h = recipe.numbers(group)
    on = recipe.flags(h)
    (mine,), (theirs,) = twins([rand(50)])
    optimizer = ours(configuration, [mine])
    slots = {
        slot.name: torch.full_like(theirs, group[slot.initial] if slot.initial else 0.0)
        for slot in recipe.slots_on(on)
    }
    counters = {c.name: torch.tensor(c.initial).numpy()[()] for c in recipe.counters}
    for i, grads in enumerate(gradients([mine], 5)):
        follow(optimizer, [mine], [grads])
        scalars, counters = advance(recipe, h, counters, first=i == 0)
        with torch.no_grad():
            maximize = group["maximize"]
            reference.step(reference.Work(recipe, on, theirs, grads[0], slots, scalars, maximize=maximize))
        # Multiply-add may be one rounding in the kernel and is two in torch.
        assert_close(mine, theirs, rtol=1e-14)
        for name, value in slots.items():
            assert_close(optimizer.state[mine][name], value, rtol=1e-14)


@one_each
def test_a_differentiable_step_is_the_plain_one(configuration):
    name, kwargs = configuration
    values = [rand(20, seed=1), rand(seed=2)]
    plain, roots = twins(values)
    a = ours(configuration, plain)
    steps = gradients(plain, 3)
    follow(a, plain, steps)
    params = [root.clone() for root in roots]  # a differentiable step needs parameters it may write
    b = ours((name, {**kwargs, "differentiable": True}), params)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    for grads in steps:
        for p, g in zip(params, grads, strict=True):
            p.grad = g * scale
        b.step()
    for p, q in zip(plain, params, strict=True):
        assert_close(q, p, rtol=1e-13)
    (slope,) = torch.autograd.grad(sum(p.sum() for p in params), scale)
    assert slope.isfinite()
    if name == "SGD" and "weight_decay" not in kwargs:
        assert slope.abs() > 0


def test_a_differentiable_step_goes_through_nadams_counters():
    # torch's own suite differentiates by all tensors of the state, as who learns to optimize does.
    def slope(library):
        param = leaf(rand(5)).clone()
        param.grad = rand(5, seed=1)
        product = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
        optimizer = library.NAdam([param], lr=0.1, differentiable=True)
        slots = {"exp_avg": rand(5, seed=2), "exp_avg_sq": rand(5, seed=3).square()}
        optimizer.state[param] = {"step": torch.tensor(1.0), "mu_product": product.clone(), **slots}
        optimizer.step()
        return torch.autograd.grad(param.sum(), product)[0]

    assert_close(slope(tw), slope(torch.optim), rtol=1e-6)  # counters are float32


def test_the_code_of_the_guide_is_lion(tmp_path):
    text = (Path(__file__).parents[1] / "docs/adding-an-optimizer.md").read_text()
    file = tmp_path / "guide.py"
    file.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)))
    guide = runpy.run_path(str(file))["Lion"]
    theirs, own = (inspect.signature(cls).parameters.values() for cls in (guide, tw.Lion))
    assert [(p.name, p.kind, p.default) for p in theirs] == [(p.name, p.kind, p.default) for p in own]
    params, others = twins([rand(50), rand(3, 4)])
    steps = gradients(params, 5)
    follow(guide(params, lr=0.1, weight_decay=0.1), params, steps)
    follow(tw.Lion(others, lr=0.1, weight_decay=0.1), others, steps)
    assert all(map(torch.equal, params, others))


def test_giving_gradients_does_not_share_them():
    # The helper of these tests itself: a step must not see another run's gradients.
    param, grad = leaf(rand(3)), rand(3, seed=2)
    give([param], [grad])
    assert param.grad is not grad
