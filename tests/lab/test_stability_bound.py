"""Stability bounds: steps of the optimizers themselves settle just below and leave just above."""

from __future__ import annotations

import pytest
import torch

import thalweg as tw
from thalweg.lab.landscape import UnknownError, sharpness, stability_bound

torch64 = torch.float64
FAMILY = {"torch": torch.optim, "thalweg": tw}
SGDS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.4},
    {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.4, "decoupled_weight_decay": True},
]


def distance(optimizer, weights, curvature, steps):
    """How far from the minimum of a quadratic with this curvature the steps lead."""
    for _ in range(steps):
        weights.grad = curvature * weights.detach()
        optimizer.step()
    return float(weights.detach().abs().max())


@pytest.mark.parametrize("home", FAMILY)
@pytest.mark.parametrize("settings", SGDS, ids=str)
def test_sgd_is_stable_up_to_its_bound(settings, home):
    if home == "torch" and "decoupled_weight_decay" in settings:
        pytest.skip("torch's has no decoupled decay")
    found = {}
    for side in (0.98, 1.02):
        weights = torch.ones(1, dtype=torch64, requires_grad=True)
        optimizer = FAMILY[home].SGD([weights], **settings)
        stability = stability_bound(optimizer)
        assert stability.scale is None
        found[side] = distance(optimizer, weights, side * stability.bound, 1500)
    assert found[0.98] < 1e-3
    assert found[1.02] > 1e3


def test_the_papers_numbers():
    weights = torch.ones(1, requires_grad=True)

    def bound(optimizer):
        weights.grad = torch.ones(1)
        optimizer.step()
        return stability_bound(optimizer).bound

    assert bound(torch.optim.SGD([weights], lr=0.5)) == pytest.approx(4)
    assert bound(torch.optim.SGD([weights], lr=0.5, momentum=0.9)) == pytest.approx(2 * 1.9 / 0.5)
    assert bound(torch.optim.Adam([weights], lr=1e-3)) == pytest.approx(38 / 1e-3)
    assert bound(torch.optim.RMSprop([weights], lr=1e-3)) == pytest.approx(2 / 1e-3)


PRECONDITIONED = {
    "RMSprop": ({"lr": 0.01, "alpha": 1.0, "momentum": 0.5, "eps": 0.1}, "square_avg"),
    "Adam": ({"lr": 0.01, "betas": (0.9, 1 - 1e-15), "eps": 0.1}, "exp_avg_sq"),
    "AdamW": ({"lr": 0.01, "betas": (0.9, 1 - 1e-15), "eps": 0.1, "weight_decay": 5.0}, "exp_avg_sq"),
}


SMALL = 1e-9
"""Where steps that leave begin: far from there their own gradients would make them small again."""


@pytest.mark.parametrize("home", FAMILY)
@pytest.mark.parametrize("name", PRECONDITIONED)
def test_preconditioned_steps_are_stable_up_to_their_bound(name, home):
    """With averages of squares that stand still: an average that forgets nothing, after endless steps."""
    settings, slot = PRECONDITIONED[name]
    found = {}
    for side in (0.98, 1.02):
        weights = torch.ones(3, dtype=torch64, requires_grad=True)
        optimizer = getattr(FAMILY[home], name)([weights], **settings)
        weights.grad = torch.zeros(3, dtype=torch64)
        optimizer.step()
        with torch.no_grad():
            weights.fill_(SMALL)
        optimizer.state[weights][slot].copy_(torch.tensor([1.0, 4.0, 9.0]))
        optimizer.state[weights]["step"].fill_(2.0**60)
        stability = stability_bound(optimizer)
        divisor = torch.tensor([1.1, 2.1, 3.1], dtype=torch64)
        torch.testing.assert_close(stability.scale, divisor**-0.5)
        # The second direction is at the bound, the others below it.
        curvature = side * stability.bound * divisor * torch.tensor([0.1, 1.0, 0.5], dtype=torch64)
        found[side] = distance(optimizer, weights, curvature, 100)
    assert found[0.98] < 1e-2 * SMALL
    assert found[1.02] > 1e2 * SMALL


def test_groups_with_rates_and_decay_of_their_own():
    a, b = (torch.ones(1, dtype=torch64, requires_grad=True) for _ in range(2))
    found = {}
    for side in (0.98, 1.02):
        optimizer = torch.optim.SGD(
            [{"params": [a]}, {"params": [b], "lr": 0.4, "weight_decay": 0.5}], lr=0.1, momentum=0.9
        )
        stability = stability_bound(optimizer)
        # Of b alone there is curvature: its steps are four times as large.
        level = side * stability.bound / 4 - 0.5
        with torch.no_grad():
            a.fill_(1.0), b.fill_(1.0)
        for _ in range(1500):
            a.grad, b.grad = torch.zeros_like(a), level * b.detach()
            optimizer.step()
        found[side] = float(b.abs().detach())
        with torch.no_grad():
            b.fill_(1.0)
        top = sharpness([a, b], lambda level=level: level * (b**2).sum() / 2, scale=stability.scale)
        assert top.value == pytest.approx(4 * level)
    assert found[0.98] < 1e-3
    assert found[1.02] > 1e3


def test_ours_with_coded_state_has_the_bound_of_torchs():
    found = []
    for make in (torch.optim.AdamW, tw.AdamW, lambda p, **s: tw.AdamW(p, **s, state="bfloat16")):
        weights = torch.linspace(-1, 1, 64).requires_grad_()
        optimizer = make([weights], lr=1e-3, weight_decay=0.1)
        for _ in range(3):
            weights.grad = 3 * weights.detach()
            optimizer.step()
        found.append(stability_bound(optimizer))
    assert found[0].bound == found[1].bound == found[2].bound
    torch.testing.assert_close(found[1].scale, found[0].scale, rtol=1e-5, atol=0)
    torch.testing.assert_close(found[2].scale, found[0].scale, rtol=1e-2, atol=0)


def test_another_rate_and_other_parameters():
    a, b = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([a], lr=1e-6)
    assert stability_bound(optimizer, lr=0.5).bound == pytest.approx(4)
    assert stability_bound(optimizer, [b, a]).scale.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: tw.Lion(p), "Lion"),
        (lambda p: torch.optim.LBFGS(p), "LBFGS"),
        (lambda p: tw.SGD(p, lr=0.1, lookahead=5), "lookahead"),
        (lambda p: torch.optim.SGD(p, lr=0.0), "rate of zero"),
        (lambda p: tw.SAM(tw.SGD(p, lr=0.1)), "SAM"),
    ],
)
def test_where_no_bound_is_known_it_says_why(make, reason):
    with pytest.raises(UnknownError, match=reason):
        stability_bound(make([torch.ones(1, requires_grad=True)]))
