"""Intervals of a mean: Student's t, its correction for skewness, and the exact one of all sign flips.

All take values of shape (n,), in the metric's unit, and return the two ends of an interval that misses the
mean with a probability of at most `error`, both sides together.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
from scipy import stats

Ends = tuple[float, float]

ENUMERATED = 16
"""Up to so many values all sign flips are gone through; of more, as many as 16 values have are drawn."""

GUARD, GUARD_FEW, FEW = 0.5, 0.1, 10
"""The share of the error at which the correction for skewness stands guard, and that below `FEW` values.

A handful of values hardly shows how skewed it is, so the correction is held to a stricter level than the
flips that it guards. The shares were found by simulation; see ``docs/protocol.md``.
"""


def student(values: Sequence[float], error: float) -> Ends:
    """Student's t interval, right for normal values; n >= 2."""
    mean, spread, quantile = _moments(values, error)
    return mean - quantile * spread, mean + quantile * spread


def skewed(values: Sequence[float], error: float) -> Ends:
    """Student's t interval after Hall's cubic correction for skewness; n >= 3.

    Hall 1992, "On the removal of skewness by transformation", JRSS B 54(1), the transformation g3, inverted
    in closed form. The skewness is the adjusted Fisher-Pearson coefficient.
    """
    mean, spread, quantile = _moments(values, error)
    if spread == 0:
        return mean, mean
    n = len(values)
    # Away from the mean: scipy warns of values that are close together beside it.
    skew, root = float(stats.skew(np.asarray(values) - mean, bias=False)), math.sqrt(n)

    def corrected(t: float) -> float:
        shift = t / root - skew / (6 * n)
        return root * (3 * (math.copysign(abs(1 + skew * shift) ** (1 / 3), 1 + skew * shift) - 1) / skew)

    if not abs(skew) > 1e-6:
        return student(values, error)
    return mean - corrected(quantile) * spread, mean - corrected(-quantile) * spread


def flipped(values: Sequence[float], error: float) -> Ends | None:
    """All centres that the two-sided sign-flip test does not reject; None where n is too small for any.

    Exact for values that are symmetric about their centre, such as differences of exchangeable pairs,
    whatever else their distribution. A centre is rejected where the sum of the differences from it is among
    the largest over all flips; hence the ends are order statistics of the means of all subsets (Hartigan
    1969, "Using subsample values as typical values", JASA 64). Of many values, a random part of the flips
    with the one that was seen is as exact (Hemerik and Goeman 2018, "Exact testing with random
    permutations").
    """
    weights = _subsets(len(values))
    place = math.floor(error / 2 * (len(weights) + 1) * (1 + 1e-12))
    if place < 1:
        return None
    ordered = np.partition(weights @ np.asarray(values), [place - 1, len(weights) - place])
    return float(ordered[place - 1]), float(ordered[-place])


def flip_p(values: Sequence[float], centre: float = 0.0) -> float:
    """The two-sided p of the sign-flip test that the values are symmetric about `centre`."""
    away = np.asarray(values) - centre
    # Sums that are equal but for rounding are equal.
    slack = 1e-12 * float(np.abs(away).max(initial=0.0))
    means = _subsets(len(away)) @ away
    above, below = int((means <= slack).sum()), int((means >= -slack).sum())
    return min(1.0, 2 * (1 + min(above, below)) / (len(means) + 1))


@lru_cache(4096)
def guarded(values: tuple[float, ...], error: float) -> Ends | None:
    """The exact interval of all sign flips, widened to hold the one corrected for skewness.

    None where the values are too few for any.
    """
    exact = flipped(values, error)
    if exact is None:
        return None
    guard = skewed(values, error * (GUARD_FEW if len(values) < FEW else GUARD))
    return min(exact[0], guard[0]), max(exact[1], guard[1])


def of_mean(values: Sequence[float], error: float) -> Ends | None:
    """The interval of one mean: Student's t, of four values and more widened to hold the one for skewed ones.

    None for a single value.
    """
    if len(values) < 2:
        return None
    low, high = student(values, error)
    if len(values) > 3:
        other = skewed(values, error)
        low, high = min(low, other[0]), max(high, other[1])
    return low, high


def _moments(values: Sequence[float], error: float) -> tuple[float, float, float]:
    """The mean, its standard error and Student's quantile."""
    n, array = len(values), np.asarray(values, dtype=float)
    if float(np.ptp(array)) == 0:  # else rounding would give equal values a spread
        return float(array[0]), 0.0, 0.0
    return (
        float(array.mean()),
        float(array.std(ddof=1)) / math.sqrt(n),
        float(stats.t.ppf(1 - error / 2, n - 1)),
    )


@cache
def _subsets(n: int) -> np.ndarray:
    """What takes n values to the means of their non-empty subsets: (subsets, n)."""
    if n <= ENUMERATED:
        inside = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        inside = np.random.default_rng(n).integers(0, 2, (2**ENUMERATED - 1, n))
        inside[inside.sum(axis=1) == 0] = 1
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))
