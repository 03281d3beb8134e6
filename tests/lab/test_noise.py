"""The noise scale of gradients whose mean and covariance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thalweg.lab.landscape import gradient, noise_scale, update_sizes
from thalweg.lab.landscape.noise import fieller


def drawn(mean, spread, batch_size, batches, seed):
    """Gradients of batches whose examples have this mean and standard deviation in each direction."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batches, len(mean), generator=generator, dtype=torch.float64)
    return [mean + spread * row / math.sqrt(batch_size) for row in noise]


def test_both_parts_are_without_bias():
    mean, spread = torch.linspace(-1, 1, 20).double() / 4, torch.linspace(0.5, 2, 20).double()
    found = [noise_scale(drawn(mean, spread, 16, 8, seed), 16) for seed in range(400)]
    for name, true in (("noise", float((spread**2).sum())), ("signal", float((mean**2).sum()))):
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - true) < 4 * values.std() / 20


def test_the_interval_holds_the_ratio_about_as_often_as_it_says():
    mean, spread = torch.full((50,), 0.2).double(), torch.ones(50).double()
    true, found = 50 / (50 * 0.04), 0
    for seed in range(300):
        one = noise_scale(drawn(mean, spread, 16, 8, seed), 16)
        found += one.low <= true <= one.high
    assert found / 300 > 0.9


def test_it_is_the_same_as_the_formula_of_two_batch_sizes():
    gradients = drawn(torch.ones(5).double(), torch.ones(5).double(), 4, 6, 0)
    small = float(torch.stack([(g**2).sum() for g in gradients]).mean())
    big = float((torch.stack(gradients).mean(0) ** 2).sum())
    signal = (24 * big - 4 * small) / (24 - 4)
    noise = (small - big) / (1 / 4 - 1 / 24)
    found = noise_scale(gradients, 4)
    assert (found.signal, found.noise) == pytest.approx((signal, noise))
    assert found.value == pytest.approx(noise / signal)
    assert found.low <= found.value <= found.high


def test_a_gradient_that_noise_hides_gives_a_least_value_only():
    found = noise_scale(drawn(torch.zeros(200).double(), torch.ones(200).double(), 1, 8, 5), 1)
    assert found.high == math.inf
    assert 0 < found.low < found.value


def test_equal_gradients_have_no_noise():
    found = noise_scale([torch.ones(3)] * 4, 8)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_fieller_by_simulation_of_normal_pairs():
    generator, found = np.random.default_rng(0), 0
    for _ in range(1000):
        low, high = fieller(generator.normal(3, 1, 6), generator.normal(1, 0.7, 6))
        found += low <= 3 <= high
    assert 0.93 < found / 1000 < 0.97


def test_too_few_or_unfit_gradients_are_told():
    for gradients, text in (
        ([torch.ones(2)] * 2, "at least 3"),
        ([torch.full((2,), math.nan)] * 3, "finite"),
    ):
        with pytest.raises(ValueError, match=text):
            noise_scale(gradients, 4)
    with pytest.raises(ValueError, match="batch_size"):
        noise_scale([torch.ones(2)] * 3, 0)


def test_a_gradient_of_all_parameters_sparse_ones_too():
    table = torch.nn.Embedding(4, 2, sparse=True)
    weights, unused = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    found = gradient([table.weight, weights, unused], lambda: (table(torch.tensor([1, 1])) * weights).sum())
    rows = torch.zeros(4, 2)
    rows[1] = 2
    torch.testing.assert_close(
        found, torch.cat([rows.reshape(-1), 2 * table.weight[1].detach(), torch.zeros(1)])
    )
    assert table.weight.grad is None


def test_update_sizes_by_hand():
    before, after = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    zero = torch.zeros(2)
    assert update_sizes([(before, after), (zero, zero), (zero, after)]) == pytest.approx([0.1, 0.0, math.inf])
