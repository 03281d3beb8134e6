"""Scalar maths that means the same on torch tensors, on traced values and on Python floats."""

from __future__ import annotations

import math
from typing import Any

import torch

Scalar = Any
"""A Python float, a torch tensor or a traced value: whatever the maths is run on."""


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of `x`; NaN for a negative value, unless `x` is a Python number."""
    return math.sqrt(x) if isinstance(x, (int, float)) else x.sqrt()


def maximum(x: Scalar, y: Scalar) -> Scalar:
    """Return the larger of `x` and `y`, and NaN where either is NaN. `y` may be a number."""
    if isinstance(x, (int, float)):
        return max(x, y)
    if isinstance(x, torch.Tensor) and isinstance(y, (int, float)):
        return x.clamp(min=y)
    return x.maximum(y)


def minimum(x: Scalar, y: Scalar) -> Scalar:
    """Return the smaller of `x` and `y`, and NaN where either is NaN. `y` may be a number."""
    return -maximum(-x, -y)


def where(condition: Scalar, x: Scalar, y: Scalar) -> Scalar:
    """Return `x` where `condition` holds and `y` elsewhere. Both are evaluated."""
    if isinstance(condition, bool):
        return x if condition else y
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, x, y)
    return condition.where(x, y)


def sign(x: Scalar) -> Scalar:
    """Return -1, 0 or 1 with the sign of `x`, and NaN for NaN."""
    return where(x > 0, 1.0, where(x < 0, -1.0, x))


def square(g: Scalar, s: Any, weight: Scalar = None) -> Scalar:
    """Return `weight * g * g`; its mean over the row, if that is what is kept of a second moment.

    Args:
        g: a gradient.
        s: the scalars of a step. `s.row_mean` makes a row's mean of an element's value, where there is such
            a mean: only what runs the rule knows the other elements.
        weight: 1, if None.
    """
    squared = g * g if weight is None else weight * g * g
    row_mean = getattr(s, "row_mean", None)
    return squared if row_mean is None else row_mean(squared)


def lerp(start: Scalar, end: Scalar, weight: Scalar) -> Scalar:
    """Return `start + weight * (end - start)`, in a form that is exact at `weight` 0 and 1."""
    return (start - weight * start) + weight * end


_FINEST = 2.0**-22
"""Numbers below 1 that are multiples of this are exact in float32, and so are their sums with it."""


def two_parts(name: str, factor: Scalar) -> dict[str, Scalar]:
    """Return a factor near 1 as two scalars, `name` and `name_rest`, for `times`.

    A float32 factor near 1 is off by up to 3e-8. For a beta of 0.999 that is 3e-5 of what an average
    forgets at each step, and it settles that far from its mean; for a decay of 1e-8 it is everything.
    The sum of the two parts, `name` exact in float32 and a positive rest, is off by nothing.
    """
    rest = factor % _FINEST + _FINEST
    return {name: factor - rest, f"{name}_rest": rest}


def times(x: Scalar, factor: Scalar, rest: Scalar) -> Scalar:
    """Return `x` times a factor in `two_parts`. Both being positive, what is infinite stays so."""
    return factor * x + rest * x
