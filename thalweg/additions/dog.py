"""A learning rate from the distance that the weights have come, and the gradients on the way."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Counter, Hyper, Measure, Slot, maximum, sqrt, where

EPS = 1e-8


def advance(h: Any, t: Any, m: Any) -> None:
    """Add up squared gradients, and remember the largest distance from the first weights."""
    least = h.dog_first * (1 + sqrt(m.dog_weights_sq))
    begun = where(t.dog_distance > 0, t.dog_distance, least)
    t.dog_distance = maximum(begun, sqrt(m.dog_distance_sq))
    t.dog_grad_sq = t.dog_grad_sq + m.dog_grad_sq


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return the learning rate, by which `lr` is multiplied."""
    return {"dog": t.dog_distance / sqrt(t.dog_grad_sq + EPS)}


DOG = Addition(
    name="dog",
    hypers=(Hyper("dog", flag=True, extra=True), Hyper("dog_first", extra=True, default=1e-6, open_low=True)),
    measures=(
        Measure("dog_weights_sq", lambda x: x.p, squared=True, at="clipped", over="all"),
        Measure("dog_distance_sq", lambda x: x.p - x.slots.dog_start, squared=True, at="clipped", over="all"),
        Measure("dog_grad_sq", lambda x: x.g, squared=True, at="clipped", over="all"),
    ),
    scalars=scalars,
    step=lambda x: x.step * x.s.dog,
    slots=(Slot("dog_start", stored_by="dog_state", begins=False, copies=True),),
    counters=(Counter("dog_distance"), Counter("dog_grad_sq")),
    advance=advance,
)
"""Ivgi, Hinder and Carmon 2023, arXiv 2302.12022, equation 3: the largest ||x_i - x_0|| so far, at first
`dog_first` (1 + ||x_0||), over the root of the sum of all ||g_i||^2. `lr` multiplies it, and is 1 there."""
