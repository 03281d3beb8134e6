"""Noisy quadratics with a known spectrum, optimum and noise.

The loss is L(x) = (x - x*)^T H (x - x*) / 2. The eigenvalues of H are spaced evenly on a log scale from
1 / `condition` to 1; its eigenvectors are the axes or, with `rotated`, an orthogonal matrix drawn once. A
batch of B examples gives the gradient H (x - x*) + xi with xi of mean 0 and covariance `noise`^2 H / B: as
large as the curvature along each eigenvector, which is the noisy quadratic model of Zhang et al. (2019, arXiv
1907.04164, section 3). x - x* begins as a standard normal vector; x* is not zero, so decay has nothing to
gain.

The metric is L itself, without noise and therefore the same for validation and test: nothing can be
overfitted. With `rotated`, start and noise turn with the eigenvectors. That changes nothing for gradient
descent: equal seeds give equal losses, but for rounding. What scales each coordinate by itself, as Adam does,
finds the eigenvectors in the coordinates only where these are the axes.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.lab.workload.contract import Evaluation, Split, Workload
from thalweg.lab.workload.shipped import options

PROBLEM_SEED = 0
"""Of the optimum and of the rotation: the same in all runs."""

OWN = ("dimension", "condition", "noise", "rotated")


class Quadratic(NamedTuple):
    """One problem of d dimensions.

    Attributes:
        values: its eigenvalues from small to large, (d,).
        vectors: its eigenvectors as columns, (d, d); None for the axes.
        hessian: (d, d), or its diagonal, (d,).
        optimum: (d,).
    """

    values: Tensor
    vectors: Tensor | None
    hessian: Tensor
    optimum: Tensor

    def turned(self, vector: Tensor) -> Tensor:
        """A vector that is given by its coordinates along the eigenvectors."""
        return vector if self.vectors is None else self.vectors @ vector


class Quad(Workload):
    """A noisy quadratic; see `thalweg.lab.workload.Workload`.

    Args:
        given: options: `dimension`, at least 2; `condition`, the largest eigenvalue over the smallest, at
            least 1; `noise`, of a single example, at least 0; `rotated`; and those of
            `thalweg.lab.workload.shipped.options`, such as `batch_size`.

    Raises:
        ValueError: an option has a value that is not allowed.
    """

    name = "quad"
    title = "a noisy quadratic with a known spectrum"
    metric = "loss"
    batch_size = 16
    steps = 1000
    evaluate_every = 20
    dimension: int = 128
    condition: float = 1000.0
    noise: float = 1.0
    rotated: bool = False

    def __init__(self, **given: Any) -> None:
        options.take(self, OWN, given)
        options.count("dimension", self.dimension, 2)
        options.require(1 <= self.condition < math.inf, "condition", "a number of at least 1", self.condition)
        options.require(0 <= self.noise < math.inf, "noise", "a number of at least 0", self.noise)

    def model(self, seed: int) -> nn.Module:
        """128 parameters: a vector, float32, a standard normal one away from the optimum."""
        start = torch.randn(self.dimension, generator=torch.Generator().manual_seed(seed))
        return Vector(self._problem().optimum + self._problem().turned(start))

    def batches(self, seed: int) -> Iterator[Tensor]:
        """The mean noise xi of a batch, float32 of shape (dimension,)."""
        problem = self._problem()
        deviations = self.noise / math.sqrt(self.batch_size) * problem.values.sqrt()
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield problem.turned(deviations * torch.randn(self.dimension, generator=generator))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """L(x) + xi^T (x - x*), whose gradient is that of a batch."""
        off = self._off(model)
        return self._at(off) + batch @ off

    def evaluate(self, model: nn.Module, split: Split) -> Evaluation:
        """L(x), which is zero at best."""
        loss = self._at(self._off(model)).item()
        return Evaluation(loss, loss)

    def facts(self) -> Mapping[str, str]:
        """See `thalweg.lab.workload.Workload`."""
        axes = "an orthogonal matrix drawn once" if self.rotated else "the axes"
        return {
            "Data": "none: a quadratic with standard normal distance from its optimum at the start",
            "Spectrum": f"{self.dimension} eigenvalues from {1 / self.condition:g} to 1, even on a log "
            f"scale; eigenvectors: {axes}",
            "Noise": f"of the gradient: covariance {self.noise**2:g} H / {self.batch_size}",
            "Model": f"a vector: {self.dimension} parameters, float32",
            "Training": f"{self.steps:,} steps with new noise each",
            **options.facts(self, OWN),
        }

    def _problem(self) -> Quadratic:
        return problem(self.dimension, float(self.condition), self.rotated)

    def _off(self, model: nn.Module) -> Tensor:
        values = next(model.parameters())
        return values - self._problem().optimum.to(values.device)

    def _at(self, off: Tensor) -> Tensor:
        hessian = self._problem().hessian.to(off.device)
        return off @ (hessian * off if hessian.dim() == 1 else hessian @ off) / 2


class Vector(nn.Module):
    """Nothing but parameters, `values`."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)


@lru_cache(maxsize=8)
def problem(dimension: int, condition: float, rotated: bool) -> Quadratic:
    """The quadratic of these numbers, always the same."""
    generator = np.random.default_rng(PROBLEM_SEED)
    optimum = torch.from_numpy(generator.standard_normal(dimension)).float()
    values = np.logspace(-math.log10(condition), 0, dimension)
    eigenvalues = torch.from_numpy(values).float()
    if not rotated:
        return Quadratic(eigenvalues, None, eigenvalues, optimum)
    vectors, upper = np.linalg.qr(generator.standard_normal((dimension, dimension)))
    # With these signs all orthogonal matrices are drawn alike (Mezzadri 2007, arXiv math-ph/0609050).
    vectors = vectors * np.sign(np.diag(upper))
    hessian = torch.from_numpy(vectors * values @ vectors.T).float()
    return Quadratic(eigenvalues, torch.from_numpy(vectors).float(), hessian, optimum)
