"""Rests: what steps with zero gradients do to an element, as far as a rule lets it be said at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DEGREES = (12, 16, 24, 32, 48)
"""Of the polynomials that a series is cut down to: the first that is good enough, see `Series.error`."""


@dataclass(frozen=True, eq=False)
class Series:
    """A part of the step that is not linear: a slot over the root of another, as in Adam.

    After any steps with zero gradients it is `drives / (x + half) * c(z)`, where `x` is the root of `over`
    before them, `z = 1 - 2 * half / (x + half)` lies in [-1, 1], and `c` is smooth: nearly a polynomial of
    low degree, the same for all elements that have rested equally long (`roots.py`).

    Args:
        drives: the slot that the weight moves by.
        over: `over(on)`, the slot under the root.
        half: `half(h, t)`, a value of `x` about which `eps` counts as much as the root, with the counters of
            the first of the steps. Any positive number is right; with a good one the series is short.
        error: `error(h, degree)`, a bound of what a polynomial of this degree leaves out, relative to how far
            the weight moves.
    """

    drives: str
    over: Callable[[Mapping[str, bool]], str]
    half: Callable[[Any, Any], float]
    error: Callable[[Any, int], float]


@dataclass(frozen=True, eq=False)
class Rest:
    """What steps with zero gradients do, for `sparse="exact"`. How much is found by the rule's own maths.

    Args:
        needs: for the weight, `p`, and each slot that changes: what it is a linear function of afterwards.
            What is not named stays.
        conflict: `conflict(h)` says which hyperparameters leave nothing that could be said at once; `h` has
            `is_decoupled` too.
        series: what is not linear.
    """

    needs: Mapping[str, tuple[str, ...]]
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
    series: Series | None = None


def no_decay_of_gradients(h: Any) -> str | None:
    """Say that L2 decay, which goes through a rule that is not linear, cannot be caught up."""
    if h.weight_decay == 0 or h.is_decoupled:
        return None
    return f"weight_decay must be 0 or decoupled with sparse='exact', not {h.weight_decay!r} in the gradient"


def positive_eps(h: Any) -> str | None:
    """Say that with an `eps` of 0 a step with a zero gradient is 0 / 0."""
    return None if h.eps > 0 else f"eps must be above 0 with sparse='exact', not {h.eps!r}"
