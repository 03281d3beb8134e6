"""A guard: a step whose gradients are not all finite is not taken."""

from __future__ import annotations

import math
from typing import Any

from thalweg.rule import Addition, Hyper, Measure, where


def nonfinite(x: Any) -> Any:
    """Return 1 where the gradient is NaN or infinite, else 0."""
    return where(abs(x.g) < math.inf, 0.0, 1.0)


SKIP_NONFINITE = Addition(
    name="skip_nonfinite",
    hypers=(Hyper("skip_nonfinite", extra=True, default=None, low=1, whole=True),),
    measures=(
        Measure(
            "nonfinite",
            nonfinite,
            over="all",
        ),
    ),
    skips="nonfinite",
    rests=True,
)
"""As `apply_if_finite` of optax, but of everything: counters, draws and averages stay as they are too."""
