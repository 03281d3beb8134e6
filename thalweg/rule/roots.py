"""The series of an average over the root of another, as both forget without gradients: Adam's step at rest.

After n steps from step t on, the average is beta1^n of what it was, and the root, with its bias correction,
`beta2^(n/2) / sqrt(1 - beta2^(t+n))` =: q. The step is that over `x q + eps`, x being the root before. Where
the series is made about q is q'. With `half = eps / q'` and `z = 1 - 2 half / (x + half)`

    1 / (x q + eps) = 1 / (q' (x + half)) * sqrt(q' / q) * (1 + 2 sum(tau^k T_k(z), k from 1 on)),

with `tau = tanh(log(q' / q) / 4)` and Chebyshev's polynomials T_k. Most steps count little, being beta1^n of
the first, so that tau is small where it matters, and a polynomial of low degree is good for all x.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

AHEAD = 0.5
"""The series is made about the step at which this much of 1 / (1 - beta1) steps have passed."""

ORIGINS = (0, 1, 2, 5, 10, 100, 10_000)
"""Steps from which a rest is tried. It moves farthest at first, where bias corrections change."""

LEAST = 80
"""Steps are left out that count less than exp(-LEAST)."""


def half(beta1: float, beta2: float, eps: float, origin: float) -> float:
    """Return the root that will have fallen to `eps` where the series is made about.

    Args:
        beta1: of the average, in [0, 1).
        beta2: of what is under the root, in (0, 1).
        eps: what is added to the root, above 0.
        origin: how many steps have been taken before.
    """
    return eps * math.exp(-_log_root(beta1, beta2, origin))


def _log_root(beta1: float, beta2: float, origin: float) -> float:
    steps = max(1.0, AHEAD / (1 - beta1))
    return 0.5 * (steps * math.log(beta2) - math.log1p(-(beta2 ** (origin + steps))))


@lru_cache(maxsize=256)
def error(beta1: float, beta2: float, degree: int) -> float:
    """Return a bound of what a polynomial through the zeros of T_(degree + 1) leaves out.

    It is relative to how far the steps of the rest go for large `eps`, which is the least. Such a polynomial
    is off by at most twice the rest of the series.

    Args:
        beta1: of the average.
        beta2: of what is under the root.
        degree: of the polynomial.
    """
    if beta1 == 0:
        return 0.0
    if not (0 < beta1 < 1 and 0 < beta2 < 1):
        return math.inf
    return max(_error(beta1, beta2, degree, origin) for origin in ORIGINS)


def _error(beta1: float, beta2: float, degree: int, origin: int) -> float:
    steps = torch.arange(1, min(100_000, 2 - LEAST / math.log(beta1)), dtype=torch.float64, device="cpu")
    root = 0.5 * (steps * math.log(beta2) - torch.log1p(-(beta2 ** (origin + steps))))
    size = steps * math.log(beta1) - torch.log1p(-(beta1 ** (origin + steps)))
    apart = root - _log_root(beta1, beta2, origin)
    tau = torch.tanh(apart / 4).abs()
    left = 4 * torch.exp(size - size[0] - apart / 2) * tau ** (degree + 1) / (1 - tau).clamp(min=1e-16)
    return float(left.sum() / torch.exp(size - size[0]).sum())
