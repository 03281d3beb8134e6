"""Hyperparameters that follow the batch size, and RMSprop's recipe for vision."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thalweg as tw

SIZES = st.floats(1e-3, 1e9)


@given(SIZES, SIZES)
def test_half_is_forgotten_after_so_many_samples(samples, batch_size):
    beta = tw.half_life(samples, batch_size)
    assert 0 <= beta < 1 or batch_size / samples < 1e-15
    if 1e-6 < batch_size / samples < 100:
        assert beta ** (samples / batch_size) == pytest.approx(0.5, rel=1e-6)
        assert tw.half_life_of(beta, batch_size) == pytest.approx(samples, rel=1e-6)


@given(st.floats(0.01, 0.9999), st.integers(1, 10**6), st.floats(0.01, 100))
def test_the_half_life_does_not_depend_on_the_batch_size(beta, batch_size, kappa):
    samples = tw.half_life_of(beta, batch_size)
    scaled = tw.scaled_to({"betas": (beta, beta), "alpha": beta}, kappa, rule="sqrt")
    assert tw.half_life(samples, batch_size * kappa) == pytest.approx(
        scaled["betas"][0], rel=1e-9, abs=1e-300
    )
    assert scaled["betas"][1] == scaled["alpha"] == scaled["betas"][0]


def test_figures_of_the_docs():
    assert tw.half_life(10_000_000, 512 * 1024) == pytest.approx(0.964, abs=5e-4)
    assert tw.half_life_of(0.999, 256) == pytest.approx(177_357, abs=0.5)
    assert tw.half_life_of(0.95, 512 * 1024) == pytest.approx(7.1e6, rel=5e-3)
    assert tw.half_life(100, 100) == 0.5
    assert tw.half_life(1, 1e6) == 0.0


def test_an_average_forgets_what_is_said():
    beta = tw.half_life(samples=640, batch_size=64)
    average = 1.0
    for _ in range(10):
        average = beta * average
    assert average == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tw.half_life(0, 1), ValueError, "samples must be a number above 0, not 0"),
        (lambda: tw.half_life(1, -1), ValueError, "batch_size must be a number above 0, not -1"),
        (lambda: tw.half_life(math.inf, 1), ValueError, "samples must be a number above 0, not inf"),
        (lambda: tw.half_life("1e6", 1), TypeError, "samples must be a number above 0, not '1e6'"),
        (lambda: tw.half_life_of(1.0, 1), ValueError, r"beta must be a number in \(0, 1\), not 1.0"),
        (lambda: tw.half_life_of(0.0, 1), ValueError, r"beta must be a number in \(0, 1\), not 0.0"),
        (lambda: tw.half_life_of(math.nan, 1), ValueError, r"beta must be a number in \(0, 1\), not nan"),
        (lambda: tw.scaled_to({}, 0, rule="sqrt"), ValueError, "kappa must be a number above 0, not 0"),
        (lambda: tw.scaled_to({}, 2, rule="cube"), ValueError, "rule must be 'sqrt' or 'linear', not 'cube'"),
        (lambda: tw.scaled_to([], 2, rule="sqrt"), TypeError, r"options must be a dict, not \[\]"),
        (lambda: tw.scaled_to({"lr": -1}, 2, rule="sqrt"), ValueError, "lr must be a number at least 0"),
        (lambda: tw.scaled_to({"betas": 0.9}, 2, rule="sqrt"), TypeError, "betas must be two numbers"),
    ],
)
def test_arguments_that_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_square_root_rule():
    options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": True}
    scaled = tw.scaled_to(options, 4, rule="sqrt")
    assert scaled == {
        "lr": pytest.approx(2e-3),
        "betas": pytest.approx((0.9**4, 0.999**4)),
        "eps": pytest.approx(0.5e-8),
        "weight_decay": 0.1,
        "amsgrad": True,
    }
    # Malladi et al., to first order.
    assert 1 - scaled["betas"][1] == pytest.approx(4 * (1 - 0.999), rel=2e-3)
    assert options["lr"] == 1e-3
    tw.Adam([nn.Parameter(torch.ones(1))], **scaled)
    assert tw.scaled_to({"momentum": 0.9}, 4, rule="sqrt") == {"momentum": 0.9}


def test_the_linear_rule():
    scaled = tw.scaled_to({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}, 0.5, rule="linear")
    assert scaled == {"lr": pytest.approx(0.05), "momentum": 0.9, "weight_decay": 1e-4}


@given(st.floats(1e-3, 1e3), st.floats(0.01, 100))
def test_there_and_back(lr, kappa):
    options = {"lr": lr, "betas": (0.9, 0.99), "eps": 1e-8, "alpha": 0.95}
    there = tw.scaled_to(options, kappa, rule="sqrt")
    back = tw.scaled_to(there, 1 / kappa, rule="sqrt")
    assert back == {name: pytest.approx(value, rel=1e-9) for name, value in options.items()}


@pytest.mark.parametrize("inside", [False, True])
def test_eps_keeps_its_weight_beside_noise(inside):
    """Noise of a batch kappa times as large is smaller by sqrt(kappa): steps are then longer by it."""
    kappa = 16.0
    options = {"lr": 0.1, "eps": 0.3, "alpha": 0.9, "eps_inside_sqrt": inside, "debias": True}
    moved = []
    for o, size in ((options, 1.0), (tw.scaled_to(options, kappa, rule="sqrt"), kappa**-0.5)):
        param = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        param.grad = torch.full_like(param, size)
        tw.RMSprop([param], **o).step()
        moved.append(param.item())
    assert moved[1] == pytest.approx(moved[0] * kappa**0.5)


def test_tensors_are_scaled():
    scaled = tw.scaled_to({"lr": torch.tensor(0.5), "betas": (torch.tensor(0.9),) * 2}, 4, rule="sqrt")
    assert scaled["lr"].item() == 1.0
    assert scaled["betas"][0].item() == pytest.approx(0.9**4)


def vision_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
    ).double()


def test_the_recipe_for_vision():
    optimizer = tw.rmsprop_for_vision(vision_model(), batch_size=4096)
    assert type(optimizer) is tw.RMSprop
    decays = {
        name: group["weight_decay"] for group in optimizer.param_groups for name in group["param_names"]
    }
    assert decays == {"0.weight": 1e-5, "1.weight": 0, "1.bias": 0, "3.weight": 1e-5, "3.bias": 0}
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.256)
        assert (group["alpha"], group["eps"], group["momentum"]) == (0.9, 1e-3, 0.9)
        assert (group["eps_inside_sqrt"], group["debias"]) == (True, True)
        assert not any(group.get(x) for x in ("centered", "momentum_ema", "decoupled_weight_decay"))


def test_the_recipe_steps_as_its_docstring_says():
    model = vision_model()
    optimizer = tw.rmsprop_for_vision(model, lr=0.05, weight_decay=0.1)
    decays = {"0.weight": 0.1, "1.weight": 0, "1.bias": 0, "3.weight": 0.1, "3.bias": 0}
    expected = {name: param.detach().clone() for name, param in model.named_parameters()}
    v, b = dict.fromkeys(expected, 0.0), dict.fromkeys(expected, 0.0)
    for t in range(1, 6):
        optimizer.zero_grad()
        torch.manual_seed(t)
        model(torch.randn(4, 3, 4, 4, dtype=torch.float64)).square().mean().backward()
        for name, param in model.named_parameters():
            g = param.grad + decays[name] * expected[name]
            v[name] = 0.9 * v[name] + 0.1 * g * g
            b[name] = 0.9 * b[name] + g / (v[name] / (1 - 0.9**t) + 1e-3).sqrt()
            expected[name] = expected[name] - 0.05 * b[name]
        optimizer.step()
        for name, param in model.named_parameters():
            torch.testing.assert_close(param.detach(), expected[name], rtol=1e-9, atol=1e-12)


def test_the_recipe_takes_parameters_groups_and_other_options():
    model = vision_model()
    rate = 0.016
    optimizer = tw.rmsprop_for_vision(model.parameters(), batch_size=256)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(rate, 1e-5)]
    groups = tw.param_groups(model, [("3.*", {"lr": 1.0}), ("*", {})], no_decay=False)
    optimizer = tw.rmsprop_for_vision(groups, batch_size=256, momentum=0.5, state="bfloat16")
    assert [(g["lr"], g["momentum"], g["state"]) for g in optimizer.param_groups] == [
        (rate, 0.5, "bfloat16"),
        (1.0, 0.5, "bfloat16"),
    ]


def test_its_schedule():
    optimizer = tw.rmsprop_for_vision(vision_model(), batch_size=512)
    schedule = tw.schedules.staircase(optimizer, every=2.4 * 10, warmup=5 * 10)
    assert schedule.get_last_lr() == [pytest.approx(0.032 / 51)] * 2
    factors = [tw.schedules.staircase_factor(10 * epoch, 24, warmup=50) for epoch in range(12)]
    assert factors[5:] == pytest.approx([0.97**k for k in (2, 2, 2, 3, 3, 4, 4)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "give lr, or batch_size, .* not lr=None and batch_size=None"),
        ({"lr": 0.1, "batch_size": 256}, "give lr, or batch_size, .* not lr=0.1 and batch_size=256"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1, not 0"),
        ({"batch_size": 2.5}, r"batch_size must be an int of at least 1, not 2\.5"),
        ({"lr": -1.0}, "lr must be a number at least 0, not -1.0"),
        ({"lr": 1.0, "weight_decay": -1}, "weight_decay must be a number at least 0, not -1"),
    ],
)
def test_a_recipe_that_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tw.rmsprop_for_vision(vision_model(), **kwargs)
