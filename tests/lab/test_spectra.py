"""Eigenvalues and traces from products alone, of matrices whose spectra are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.lab.landscape import hutchinson, lanczos


def symmetric(values, seed=0):
    """A matrix with these eigenvalues in a random basis, float64."""
    generator = torch.Generator().manual_seed(seed)
    size = len(values)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T


def test_all_products_give_the_whole_spectrum():
    values = [-4.0, -1.0, 0.0, 0.5, 2.0, 7.0]
    found = lanczos(symmetric(values).matmul, 6, products=50, dtype=torch.float64)
    torch.testing.assert_close(found.values, torch.tensor(values, dtype=torch.float64), atol=1e-12, rtol=0)
    assert found.products == 6
    assert found.residuals.max() < 1e-10


@pytest.mark.parametrize("products", [1, 2, 5, 10, 20])
def test_within_the_residual_of_each_value_lies_an_eigenvalue(products):
    values = torch.cat([torch.linspace(-1, 1, 80), torch.tensor([2.0, 5.0, 9.0])]).double()
    found = lanczos(symmetric(values.tolist()).matmul, 83, products=products, dtype=torch.float64)
    nearest = (found.values[:, None] - values).abs().min(1).values
    assert (nearest <= found.residuals + 1e-12).all()
    assert found.values[-1] <= 9 + 1e-12


def test_a_tolerance_ends_it_when_the_largest_is_known_so_well():
    values = [*np.linspace(-1, 1, 200), 30.0]
    found = lanczos(symmetric(values).matmul, 201, products=100, tolerance=1e-3, dtype=torch.float64)
    assert found.products < 15
    assert abs(float(found.values[-1]) - 30) <= float(found.residuals[-1]) <= 1e-3 * 30


def test_a_double_eigenvalue_does_not_come_back_by_rounding():
    """Without being made orthogonal anew, float32 vectors show the largest value several times."""
    values = [*np.geomspace(1e-3, 1, 300), 50.0]
    matrix = symmetric(values).float()
    found = lanczos(matrix.matmul, 301, products=60)
    assert float(found.values[-1]) == pytest.approx(50, rel=1e-5)
    assert float(found.values[-2]) < 1.001
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(found.products), atol=1e-5, rtol=0)


def test_the_vector_belongs_to_the_value():
    matrix = symmetric([-3.0, 1.0, 2.0, 8.0])
    found = lanczos(matrix.matmul, 4, products=4, dtype=torch.float64)
    for place in range(4):
        vector = found.vector(place)
        torch.testing.assert_close(matrix @ vector, found.values[place] * vector, atol=1e-10, rtol=0)


def test_an_exhausted_matrix_ends_it():
    ones = torch.ones(50, dtype=torch.float64)
    found = lanczos(lambda vector: 2 * ones * (ones @ vector), 50, products=20, dtype=torch.float64)
    assert found.products <= 3
    assert float(found.values[-1]) == pytest.approx(100)
    zero = lanczos(torch.zeros_like, 5, products=5)
    assert zero.values.tolist() == [0.0]


def test_what_is_no_symmetric_matrix_is_told():
    skew = torch.triu(torch.ones(30, 30, dtype=torch.float64))
    with pytest.raises(ValueError, match="symmetric"):
        lanczos(skew.matmul, 30, dtype=torch.float64)
    with pytest.raises(ValueError, match="finite"):
        lanczos(lambda vector: vector * float("nan"), 30)
    with pytest.raises(ValueError, match="at least 1"):
        lanczos(torch.zeros_like, 5, products=0)


def test_no_global_generator_is_asked():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    lanczos(symmetric([1.0, 2.0]).matmul, 2, dtype=torch.float64)
    hutchinson(symmetric([1.0, 2.0]).matmul, 2, dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_trace_lies_within_its_error():
    """The standard error is that of the known variance: twice the sum of squares off the diagonal."""
    matrix = symmetric(np.linspace(-1, 3, 40).tolist(), seed=1)
    found = hutchinson(matrix.matmul, 40, probes=1000, dtype=torch.float64)
    off = matrix - torch.diag(matrix.diag())
    error = float((2 * (off**2).sum() / 1000).sqrt())
    assert found.standard_error == pytest.approx(error, rel=0.1)
    assert abs(found.mean - 40) < 4 * error


def test_a_diagonal_matrix_has_its_trace_at_once():
    found = hutchinson(lambda vector: vector * torch.arange(5), 5, probes=1)
    assert (found.mean, found.standard_error, found.count) == (10, float("inf"), 1)
    assert hutchinson(lambda vector: vector * torch.arange(5), 5, probes=2).standard_error == 0
