"""How fast decoupled weight decay is, beside the learning rate."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Counter, Hyper, maximum, two_parts, where


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return what is left of a weight after a step, in two parts."""
    if h.decay_by == "independent":
        return two_parts("shrink", 1 - h.weight_decay)
    share = h.lr / where(t.largest_lr > 0, t.largest_lr, 1.0)
    return two_parts("shrink", 1 - h.lr * share * h.weight_decay)


def advance(h: Any, t: Any, m: Any) -> None:
    """Remember the largest learning rate that there was."""
    t.largest_lr = maximum(t.largest_lr, h.lr)


def conflict(h: Any) -> str | None:
    """Say which hyperparameters do not go together."""
    if h.is_decoupled:
        return None
    return f"decay_by={h.decay_by!r} requires decoupled weight decay, not L2"


DECAY_BY = Addition(
    name="decay_by",
    hypers=(Hyper("decay_by", words=("lr", "independent", "corrected"), extra=True, default="lr"),),
    scalars=scalars,
    counters=(Counter("largest_lr"),),
    advance=advance,
    conflict=conflict,
    rests=True,
)
"""`"independent"`: by `weight_decay` itself (Loshchilov and Hutter 2019, arXiv 1711.05101).
`"corrected"`: by lr^2 / largest lr * weight_decay (Defazio 2025, arXiv 2506.02285, AdamC)."""
