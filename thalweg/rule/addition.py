"""Additions: what any rule can be given, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar
from thalweg.rule.measure import Measure
from thalweg.rule.rule import Counter, Slot


@dataclass(frozen=True, eq=False)
class Addition:
    """Something done to every rule's gradient, step or weights, in the same pass. It knows no rule.

    What it does to an element it is told in `x`: `x.p` and `x.slots`, the weight and the state before the
    step; `x.g`, the gradient; `x.step`, by which the weight is to be reduced; `x.kept`, what decoupled decay
    leaves of it; `x.after`, the new weight; `x.s` and `x.on`, the scalars and the flags. What a function
    returns takes the place of what it was told.

    Args:
        name: shown in errors.
        hypers: its hyperparameters, all `extra`; it takes part where the first is not at its default.
        scalars: `scalars(h, t, m)`, the values of a step by name, as a rule's; `m` has the measures.
        flags: `flags(h)`, the static choices by name, as a rule's.
        gradient: `gradient(x)`, the gradient that goes on, before L2 decay.
        direction: `direction(x)`, the same after it: what goes on to the rule.
        step: `step(x)`, what becomes of the step that the rule proposes; `x.g` is without L2 decay again.
        decay: `decay(x)`, what is left of the weight.
        weights: `weights(x)`, the new weight and a dict of the new slots.
        slots: its state.
        counters: per-parameter counters.
        advance: `advance(h, t, m)`, changes the counters in place at the start of a step.
        measures: the sums that it asks for.
        skips: the measure that forbids the step where it is not zero.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together; `h` has
            the rule's too, and `is_decoupled`, whether weight decay is decoupled.
        rests: whether steps with zero gradients are what the rule says of them (`Rule.rest`): what is done
            to a zero gradient leaves it zero, and what is done to decay is linear in the weight.
        catches_up: whether rows that a sparse gradient has not named make up for it when one does.
    """

    name: str
    hypers: tuple[Hyper, ...]
    scalars: Callable[[Any, Any, Any], dict[str, Scalar]] = field(default=lambda h, t, m: {})
    flags: Callable[[Any], dict[str, bool]] = field(default=lambda h: {})
    gradient: Callable[[Any], Scalar] | None = None
    direction: Callable[[Any], Scalar] | None = None
    step: Callable[[Any], Scalar] | None = None
    decay: Callable[[Any], Scalar] | None = None
    weights: Callable[[Any], tuple[Scalar, dict[str, Scalar]]] | None = None
    slots: tuple[Slot, ...] = ()
    counters: tuple[Counter, ...] = ()
    advance: Callable[[Any, Any, Any], None] = field(default=lambda h, t, m: None)
    measures: tuple[Measure, ...] = ()
    skips: str | None = None
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
    rests: bool = False
    catches_up: bool = False
