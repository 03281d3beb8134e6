"""The gradient noise scale: how many examples make a gradient as large as its noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thalweg.lab.landscape.vectors import Losses, closures, flat

COLUMNS = 1 << 18
"""So many elements of each gradient are multiplied in float64 at a time."""


@dataclass(frozen=True)
class NoiseScale:
    """The simple noise scale tr(Sigma) / |G|^2 in examples, with what it is made of.

    G is the mean gradient and Sigma the covariance of the gradient of one example. Both estimates are without
    bias, so that of |G|^2 may be negative where noise hides it.

    Attributes:
        value: the ratio; infinite where the estimate of |G|^2 is not positive.
        low: end of its 95 % interval,
        high: and the other; infinite where the interval of |G|^2 reaches zero.
        noise: tr(Sigma).
        signal: |G|^2.
        batches: gradients that it was made of.
        batch_size: examples in each.
    """

    value: float
    low: float
    high: float
    noise: float
    signal: float
    batches: int
    batch_size: int


def gradient(params: Sequence[Tensor], loss_fn: Losses) -> Tensor:
    """The gradient of a loss, or of the mean of several, as one vector; `.grad` is left alone."""
    wanted, losses = [param for param in params if param.requires_grad], closures(loss_fn)
    with torch.enable_grad():
        loss = losses[0]() if len(losses) == 1 else torch.stack([one() for one in losses]).mean()
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    given = [torch.zeros_like(p) if g is None else g for p, g in zip(wanted, found, strict=True)]
    return flat(given)


def moments(gradients: Sequence[Tensor], batch_size: int) -> tuple[float, float]:
    """Both parts of `noise_scale` without its interval: tr(Sigma) and |G|^2."""
    noise, signal = _moments(_products(gradients))
    return batch_size * noise, signal


def noise_scale(gradients: Sequence[Tensor], batch_size: int) -> NoiseScale:
    """The simple noise scale from gradients of independent batches of one size.

    McCandlish et al. 2018, arXiv 1812.06162, appendix A.1: with B examples in a batch, E|g|^2 = |G|^2 +
    tr(Sigma) / B, so squared norms at two batch sizes give both. The sizes here are B and that of all n
    batches together, which is the same as taking |G|^2 for the mean of g_i . g_j over all pairs. The interval
    is Fieller's (1954) of the ratio of two means, over the jackknife's pseudo-values of both.

    Args:
        gradients: n vectors of one shape, n >= 3, each of a mean over a batch at the same weights.
        batch_size: examples in each batch.

    Raises:
        ValueError: there are too few, or one is not finite.
    """
    n = len(gradients)
    if n < 3:
        raise ValueError(f"gradients must be at least 3, not {n}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    products = _products(gradients)
    if not np.isfinite(products).all():
        raise ValueError("gradients must be finite")
    noise, signal = _moments(products)
    # What is left of both sums when one gradient is left out.
    own = np.trace(products) - np.diag(products)
    whole = products.sum() - 2 * products.sum(axis=0) + np.diag(products)
    signals = (whole - own) / ((n - 1) * (n - 2))
    noises = own / (n - 1) - signals
    low, high = fieller(n * noise - (n - 1) * noises, n * signal - (n - 1) * signals)
    value = noise / signal if signal > 0 else math.inf
    return NoiseScale(
        batch_size * value, batch_size * low, batch_size * high, batch_size * noise, signal, n, batch_size
    )


def fieller(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray, error: float = 0.05
) -> tuple[float, float]:
    """The interval of a ratio of two means that cannot be negative, from paired values.

    Fieller 1954, JRSS B 16(2), with Student's t for the errors. Where the denominator's mean is not told from
    zero, the upper end is infinite, and the lower one zero if the numerator's is not either.

    Args:
        numerators: (n,), n >= 2.
        denominators: (n,).
        error: the probability with which it may miss, both sides together.
    """
    # Processes that train have no need of it.
    from scipy.special import stdtrit

    n = len(numerators)
    top, bottom = float(np.mean(numerators)), float(np.mean(denominators))
    spread = np.cov(numerators, denominators) / n * float(stdtrit(n - 1, 1 - error / 2)) ** 2
    # All ratios r with (top - r bottom)^2 <= variance of (top - r bottom): a r^2 - 2 b r + c <= 0.
    a = bottom**2 - spread[1, 1]
    b = top * bottom - spread[0, 1]
    c = top**2 - spread[0, 0]
    inside = b**2 - a * c
    if bottom > 0 and a > 0:
        root = math.sqrt(max(inside, 0.0))
        return max(0.0, (b - root) / a), max(0.0, (b + root) / a)
    if c <= 0 or inside < 0 or a == 0:
        return 0.0, math.inf
    # The set is what lies outside of two ends of different signs.
    return max((b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a), math.inf


def _products(gradients: Sequence[Tensor]) -> np.ndarray:
    """All inner products, (n, n), in float64."""
    size, n = gradients[0].numel(), len(gradients)
    found = torch.zeros((n, n), dtype=torch.float64, device=gradients[0].device)
    for start in range(0, size, COLUMNS):
        rows = torch.stack([one[start : start + COLUMNS].double() for one in gradients])
        found += rows @ rows.T
    return found.cpu().numpy()


def _moments(products: np.ndarray) -> tuple[float, float]:
    """The trace of a batch gradient's covariance, and |G|^2."""
    n, own = len(products), float(np.trace(products))
    signal = (float(products.sum()) - own) / (n * (n - 1))
    return own / n - signal, signal
