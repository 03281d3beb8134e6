"""Lines and planes in the space of weights, on losses whose values are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.lab.landscape import barrier, evaluated_at, plane

torch64 = torch.float64


def two_wells(weights):
    """Minima of 0 at x = 1 and x = -1, a pass of height 1 at 0."""
    return (weights[0] ** 2 - 1) ** 2 + weights[1:].square().sum()


def test_the_barrier_between_two_wells():
    found = barrier(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]), two_wells, points=21)
    assert (found.height, found.place) == pytest.approx((1, 0.5))
    torch.testing.assert_close(found.losses[10], torch.tensor(1.0, dtype=torch64))
    assert found.losses[[0, -1]].tolist() == [0, 0]
    assert math.isnan(found.height_error)


def test_a_barrier_stands_on_the_line_between_the_ends():
    """On a quadratic there is none, however different the ends are."""
    found = barrier([torch.tensor([3.0]), torch.tensor([[1.0]])], torch.zeros(2), lambda w: (w**2).sum())
    assert found.height == 0
    assert found.losses[0] == 10


def test_its_error_is_that_of_paired_batches():
    def losses(weights):
        bump = torch.exp(-(weights[0] ** 2) * 50)
        return torch.stack([level + height * bump for level, height in ((10, 1.0), (0, 2.0), (-10, 3.0))])

    found = barrier(torch.tensor([-1.0]), torch.tensor([1.0]), losses)
    assert found.height == pytest.approx(2)
    assert found.height_error == pytest.approx(1 / math.sqrt(3))  # not that of levels that differ by ten
    assert found.errors[5] > 5


def test_weights_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match="must have 2 elements"):
        barrier(torch.zeros(2), torch.zeros(3), two_wells)
    with pytest.raises(ValueError, match="at least 3"):
        barrier(torch.zeros(2), torch.zeros(2), two_wells, points=2)
    with pytest.raises(ValueError, match="two, not 3"):
        plane(torch.zeros(2), [torch.ones(2)] * 3)
    with pytest.raises(ValueError, match="one line"):
        plane(torch.zeros(3), [torch.ones(3), 2 * torch.ones(3)])
    with pytest.raises(ValueError, match="differ from origin"):
        plane(torch.zeros(3), [torch.zeros(3), torch.ones(3)])


def test_a_plane_keeps_lengths_and_angles():
    generator = torch.Generator().manual_seed(0)
    origin, first, second = (torch.randn(30, generator=generator) for _ in range(3))
    found = plane(origin, [first, second])
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(2, dtype=torch64))
    seen = found.project([origin, first, second, (first + second) / 2])
    assert seen.distances.max() < 1e-6
    points = seen.coordinates
    assert points[0].tolist() == [0, 0]
    assert float(points[1, 1]) == pytest.approx(0, abs=1e-12)
    assert float((points[1] - points[2]).norm()) == pytest.approx(float((first - second).norm()), rel=1e-6)
    torch.testing.assert_close(found.at(*points[2].tolist()), second.double())


def test_a_path_off_the_plane_says_by_how_much():
    found = plane(torch.zeros(4), [torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 1.0, 0, 0])])
    seen = found.project([[torch.tensor([3.0, 0.0]), torch.tensor([4.0, 0.0])]])
    assert seen.coordinates.tolist() == [[3, 0]]
    assert (float(seen.distances), float(seen.shares)) == pytest.approx((4, 0.8))


def test_the_loss_on_a_grid_with_its_error_over_batches():
    found = plane(torch.zeros(3), [torch.tensor([2.0, 0, 0]), torch.tensor([0, 0, 5.0])])
    losses = lambda w: torch.stack([w[0] - w[2], w[0] - w[2] + 2])  # noqa: E731
    grid = found.losses(losses, xs=[0.0, 1.0, 2.0], ys=[0.0, 3.0])
    assert grid.losses.tolist() == [[1, 2, 3], [-2, -1, 0]]
    torch.testing.assert_close(grid.errors, torch.ones(2, 3, dtype=torch64))


def test_a_model_as_a_function_of_its_weights():
    model = nn.Linear(2, 1, bias=True)
    params = list(model.parameters())
    kept = [p.detach().clone() for p in params]
    xs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    losses = evaluated_at(params, [lambda x=x: model(x).square().sum() for x in xs])
    assert losses(torch.tensor([2.0, 3.0, 1.0])).tolist() == [9, 16]
    assert losses([torch.tensor([[2.0, 3.0]]), torch.tensor([0.0])]).tolist() == [4, 9]
    assert all(torch.equal(p, before) for p, before in zip(params, kept, strict=True))
    with pytest.raises(ValueError, match="3 elements"):
        losses(torch.zeros(4))
