"""Trust ratios: a tensor's step in proportion to its weights."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Hyper, Measure, sqrt, where


def total(x: Any) -> Any:
    """Return the step with the decay that goes beside it, times the learning rate."""
    return x.step + x.s.trust_decay_rate * x.p if x.on.decoupled else x.step


def lamb_scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return ||p|| / ||u||, with the step and the decay it counts lr u; 1 where one of them is zero."""
    whole = where(m.lamb_weights_sq > 0, m.lamb_total_sq, 0.0)
    ratio = h.lr * sqrt(m.lamb_weights_sq) / sqrt(where(whole > 0, whole, 1.0))
    trust = where(whole > 0, ratio, 1.0)
    decay = h.lr * h.weight_decay if hasattr(h, "weight_decay") else 0.0
    return {"trust": trust, "trust_decay_rate": decay, "trust_decay": trust * decay}


def lars_scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return eta ||p|| / (||g|| + weight_decay ||p||), also without decay; 1 where a norm is zero."""
    size, decay = sqrt(m.lars_weights_sq), h.weight_decay if hasattr(h, "weight_decay") else 0.0
    whole = where(m.lars_weights_sq > 0, sqrt(m.lars_grad_sq), 0.0)
    divisor = where(whole > 0, whole, 1.0)
    with_decay = h.trust_coefficient * size / (divisor + decay * size)
    alone = h.trust_coefficient * size / divisor
    return {"lars": where(whole > 0, with_decay, 1.0), "lars_alone": where(whole > 0, alone, 1.0)}


LARS = Addition(
    name="lars",
    hypers=(
        Hyper("lars", flag=True, extra=True),
        Hyper("trust_coefficient", extra=True, default=1e-3),
    ),
    measures=(
        Measure("lars_weights_sq", lambda x: x.p, squared=True, at="clipped"),
        Measure("lars_grad_sq", lambda x: x.g, squared=True, at="clipped"),
    ),
    scalars=lars_scalars,
    # Decay that goes beside the gradient's way is no part of what is scaled.
    direction=lambda x: x.g * (x.s.lars if x.on.l2 else x.s.lars_alone),
)
"""You, Gitman and Ginsburg 2017, arXiv 1708.03888, equation 6: before the momentum, L2 decay included.
Decoupled decay is no part of the ratio."""

LAMB = Addition(
    name="lamb",
    hypers=(Hyper("lamb", flag=True, extra=True),),
    measures=(
        Measure("lamb_weights_sq", lambda x: x.p, squared=True, at="step"),
        Measure("lamb_total_sq", total, squared=True, at="step"),
    ),
    scalars=lamb_scalars,
    step=lambda x: x.step * x.s.trust,
    decay=lambda x: x.p - x.s.trust_decay * x.p if x.on.decoupled else x.kept,
    conflict=lambda h: (
        None
        if getattr(h, "decay_by", "lr") == "lr"
        else f"lamb=True scales weight decay with the step, which decay_by={h.decay_by!r} does not"
    ),
)
"""You et al. 2020, arXiv 1904.00962, algorithm 2: of the proposed step, decoupled decay included."""
