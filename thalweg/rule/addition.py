"""Additions: what any rule can be given, as data, and the measures that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar
from thalweg.rule.rule import Counter, Slot

STAGES = ("gradient", "clipped", "step", "weights")
"""When measures are taken: of the gradient as it came, after all additions to it, of the step as the rule
proposes it, and of the weights as they will be. Each is a pass that only reads, made where somebody asks."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A sum over elements that has to be known before a step can be made.

    Args:
        name: by which the scalars of an addition find it, as `m.name`.
        value: the summand, `value(g, p, step, after, s, on)`; what there is not yet is None.
        squared: whether its squares are summed, which is done in float64.
        at: when, one of `STAGES`. Scalars that need measures of later stages have no meaning then.
        over: `"tensor"`, a sum for each parameter, or `"all"`, one over all parameters of the optimizer.
    """

    name: str
    value: Callable[[Scalar, Scalar, Scalar, Scalar, Any, Any], Scalar]
    squared: bool = False
    at: str = "gradient"
    over: str = "tensor"


@dataclass(frozen=True, eq=False)
class Addition:
    """Something done to every rule's gradient, step or weights, in the same pass. It knows no rule.

    Args:
        name: shown in errors.
        hypers: its hyperparameters, all `extra`; it takes part where the first is not at its default.
        scalars: `scalars(h, t, m)`, the values of a step by name, as a rule's; `m` has the measures.
        flags: `flags(h)`, the static choices by name, as a rule's.
        gradient: `gradient(g, p, s, on)`, the gradient that goes on, before L2 decay.
        direction: `direction(g, p, s, on)`, the same after it: what goes on to the rule.
        step: `step(step, p, g, s, on)`, what becomes of the step that the rule proposes.
        decay: `decay(kept, p, step, s, on)`, what is left of the parameter after decoupled weight decay.
        weights: `weights(before, after, slots, s, on)`, the new parameter and a dict of the new slots.
        slots: its state.
        counters: per-parameter counters.
        advance: `advance(h, t)`, changes the counters in place at the start of a step.
        measures: the sums that it asks for.
        skips: the measure that forbids the step where it is not zero.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together; `h` has
            the rule's too, and `is_decoupled`, whether weight decay is decoupled.
    """

    name: str
    hypers: tuple[Hyper, ...]
    scalars: Callable[[Any, Any, Any], dict[str, Scalar]] = field(default=lambda h, t, m: {})
    flags: Callable[[Any], dict[str, bool]] = field(default=lambda h: {})
    gradient: Callable[..., Scalar] | None = None
    direction: Callable[..., Scalar] | None = None
    step: Callable[..., Scalar] | None = None
    decay: Callable[..., Scalar] | None = None
    weights: Callable[..., tuple[Scalar, dict[str, Scalar]]] | None = None
    slots: tuple[Slot, ...] = ()
    counters: tuple[Counter, ...] = ()
    advance: Callable[[Any, Any], None] = field(default=lambda h, t: None)
    measures: tuple[Measure, ...] = ()
    skips: str | None = None
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
