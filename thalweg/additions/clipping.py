"""Clipping of gradients: by the norm of all of them, and by value."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Hyper, Measure, maximum, minimum, sqrt

LEAST = 1e-6
"""What torch adds to the norm before it divides by it."""


def norm_scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return what gradients are multiplied by, 1 where their norm is small enough; NaN if the norm is."""
    return {"clip_factor": minimum(h.max_norm / (sqrt(m.grad_norm_sq) + LEAST), 1.0)}


MAX_NORM = Addition(
    name="max_norm",
    hypers=(Hyper("max_norm", extra=True, default=None),),
    measures=(Measure("grad_norm_sq", lambda x: x.g, squared=True, over="all"),),
    scalars=norm_scalars,
    gradient=lambda x: x.g * x.s.clip_factor,
    rests=True,
)
"""As `torch.nn.utils.clip_grad_norm_` (Pascanu et al. 2013, arXiv 1211.5063), of all the gradients."""

MAX_VALUE = Addition(
    name="max_value",
    hypers=(Hyper("max_value", extra=True, default=None),),
    scalars=lambda h, t, m: {"max_value": h.max_value},
    gradient=lambda x: maximum(minimum(x.g, x.s.max_value), -x.s.max_value),
    rests=True,
)
"""As `torch.nn.utils.clip_grad_value_`."""
