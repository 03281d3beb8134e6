"""What products with a symmetric matrix tell of it, where it is too large to be written down."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix: takes a vector of shape (n,) to its product, of the same shape."""

ASYMMETRY = 0.02
"""The share of the largest eigenvalue by which a product may differ from a symmetric one by rounding."""


@dataclass(frozen=True)
class Eigenvalues:
    """Approximate eigenvalues (Ritz values).

    Attributes:
        values: in ascending order, (k,), float64.
        residuals: (k,): within so much of each value lies an eigenvalue, up to rounding.
        vectors: what makes them of the basis, (k, k), a column each.
        basis: orthonormal rows, (k, n).
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    basis: Tensor

    @property
    def products(self) -> int:
        """How many products it took."""
        return len(self.values)

    def vector(self, place: int = -1) -> Tensor:
        """The approximate eigenvector of one value, of length 1, (n,); by default the largest's."""
        return self.vectors[:, place].to(self.basis) @ self.basis


@dataclass(frozen=True)
class Estimate:
    """A mean of independent draws.

    Attributes:
        mean: of all.
        standard_error: of the mean; infinite for a single draw.
        count: how many.
    """

    mean: float
    standard_error: float
    count: int


def lanczos(
    product: Product,
    size: int,
    *,
    products: int = 20,
    tolerance: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Eigenvalues:
    """Eigenvalues of a symmetric matrix by Lanczos's iteration from a random start.

    Lanczos 1950; every new vector is made orthogonal to all before, twice (Parlett 1998, "The Symmetric
    Eigenvalue Problem", chapter 13), so that no eigenvalue appears again by rounding. The ends of the
    spectrum come first; the largest value is never above the largest eigenvalue. The residual bound is
    `|beta_k| |last element of the vector|` (Parlett, theorem 13.2.1 and section 4.5).

    Args:
        product: the matrix.
        size: n.
        products: at most so many, at least 1; the basis of `products * n` elements is kept.
        tolerance: ends early when the largest value's residual is at most this share of it.
        seed: of the start, which no global generator is asked for.
        dtype: of the vectors.
        device: where they lie.

    Raises:
        ValueError: an argument is not allowed, a product is not finite, or the matrix is not symmetric.
    """
    if products < 1 or size < 1:
        raise ValueError(f"products and size must be at least 1, not {products} and {size}")
    most = min(products, size)
    basis = torch.empty((most, size), dtype=dtype, device=device)
    basis[0] = _start(size, seed).to(basis)
    alphas: list[float] = []
    betas: list[float] = []
    for count in range(1, most + 1):
        new = product(basis[count - 1]).to(basis)
        along = basis[:count] @ new
        if not math.isfinite(float(along.sum())):
            raise ValueError("a product with the matrix is not finite")
        alphas.append(float(along[-1]))
        largest = max(map(abs, [*alphas, *betas]))
        if betas and abs(float(along[-2]) - betas[-1]) > ASYMMETRY * largest:
            raise ValueError("the products are not those of a symmetric matrix")
        new = new - along @ basis[:count]
        new = new - (basis[:count] @ new) @ basis[:count]
        beta = float(new.norm())
        values, vectors = _of_tridiagonal(alphas, betas)
        residuals = beta * vectors[-1].abs()
        is_whole = beta <= torch.finfo(dtype).eps * largest * math.sqrt(size)
        if is_whole or count == most or float(residuals[-1]) <= tolerance * abs(float(values[-1])):
            return Eigenvalues(values, residuals, vectors, basis[:count])
        betas.append(beta)
        basis[count] = new / beta
    raise AssertionError("the last round returns")


def hutchinson(
    product: Product,
    size: int,
    *,
    probes: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Estimate:
    """The trace of a matrix: the mean of `v' A v` over random vectors of signs.

    Hutchinson 1990, Communications in Statistics 19(2). The variance of a draw is twice the sum of squares of
    the elements off the diagonal.

    Args:
        product: the matrix.
        size: n.
        probes: how many draws, at least 1, a product each.
        seed: of the signs, which no global generator is asked for.
        dtype: of the vectors.
        device: where they lie.

    Raises:
        ValueError: an argument is not allowed, or a product is not finite.
    """
    if probes < 1 or size < 1:
        raise ValueError(f"probes and size must be at least 1, not {probes} and {size}")
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(probes):
        signs = (2 * torch.randint(0, 2, (size,), generator=generator) - 1).to(device, dtype)
        drawn.append(float((signs * product(signs).to(signs)).sum(dtype=torch.float64)))
    if not all(map(math.isfinite, drawn)):
        raise ValueError("a product with the matrix is not finite")
    return estimate(drawn)


def estimate(drawn: list[float]) -> Estimate:
    """The mean of independent draws, at least one, with its standard error."""
    values = torch.tensor(drawn, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(len(drawn)) if len(drawn) > 1 else math.inf
    return Estimate(float(values.mean()), error, len(drawn))


def _start(size: int, seed: int) -> Tensor:
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return start / start.norm()


def _of_tridiagonal(alphas: list[float], betas: list[float]) -> tuple[Tensor, Tensor]:
    diagonal = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    beside = torch.diag(torch.tensor(betas, dtype=torch.float64), 1) if betas else torch.zeros_like(diagonal)
    values, vectors = torch.linalg.eigh(diagonal + beside + beside.T)
    return values, vectors
