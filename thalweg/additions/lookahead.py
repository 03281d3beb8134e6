"""Lookahead: slow weights that follow the fast ones, which start from them again every few steps."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Counter, Hyper, Slot, lerp, where


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return whether this step is the first, whether it is one at which the weights meet, and alpha."""
    return {
        "lookahead_first": where(t.lookahead_step > 1, 0.0, 1.0),
        "lookahead_meets": where(t.lookahead_step % h.lookahead > 0, 0.0, 1.0),
        "lookahead_alpha": h.lookahead_alpha,
    }


def advance(h: Any, t: Any, m: Any) -> None:
    """Count the step."""
    t.lookahead_step = t.lookahead_step + 1


def weights(x: Any) -> tuple[Any, dict[str, Any]]:
    """Return the weights, fast ones or where they have met the slow ones, and the slow ones."""
    slow = where(x.s.lookahead_first > 0, x.p, x.slots.slow)
    met = lerp(slow, x.after, x.s.lookahead_alpha)
    meets = x.s.lookahead_meets > 0
    return where(meets, met, x.after), {"slow": where(meets, met, slow)}


LOOKAHEAD = Addition(
    name="lookahead",
    hypers=(
        Hyper("lookahead", extra=True, default=None, low=1, whole=True),
        Hyper("lookahead_alpha", extra=True, default=0.5, high=1.0),
        Hyper("lookahead_state", words=("float32", "bfloat16", "int8"), extra=True, default="float32"),
    ),
    scalars=scalars,
    weights=weights,
    slots=(Slot("slow", stored_by="lookahead_state", begins=False, copies=True),),
    counters=(Counter("lookahead_step"),),
    advance=advance,
)
"""Zhang et al. 2019, arXiv 1907.08610, algorithm 1, every `lookahead` steps."""
