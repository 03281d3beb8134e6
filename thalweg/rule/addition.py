"""Additions: what any rule can be given, as data, and the measures that they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar
from thalweg.rule.rule import Counter, Slot


@dataclass(frozen=True, eq=False)
class Measure:
    """A sum over elements that has to be known before a step can be made.

    Args:
        name: by which the scalars of an addition find it, as `m.name`.
        value: the summand, `value(g, p, step, s, on)`.
        after: what has been worked out by then: `"gradient"`, the gradient as it came, and `step` is None;
            `"step"`, the step that the rule proposes, and all additions before it have made of it.
        over: `"tensor"`, a sum for each parameter, or `"all"`, one over all parameters of the optimizer.
    """

    name: str
    value: Callable[[Scalar, Scalar, Scalar, Any, Any], Scalar]
    after: str = "gradient"
    over: str = "tensor"


@dataclass(frozen=True, eq=False)
class Addition:
    """Something done to every rule's gradient, step or weights, in the same pass. It knows no rule.

    Args:
        name: shown in errors.
        hypers: its hyperparameters, all `extra`; it takes part where the first is not at its default.
        scalars: `scalars(h, t, m)`, the values of a step by name, as a rule's; `m` has the measures.
        flags: `flags(h)`, the static choices by name, as a rule's.
        gradient: `gradient(g, p, s, on)`, the gradient that goes on to the rule.
        step: `step(step, p, g, s, on)`, what becomes of the step that the rule proposes.
        decay: `decay(kept, p, step, s, on)`, what is left of the parameter after decoupled weight decay.
        weights: `weights(before, after, slots, s, on)`, the new parameter and a dict of the new slots.
        slots: its state.
        counters: per-parameter counters.
        advance: `advance(h, t)`, changes the counters in place at the start of a step.
        measures: the sums that it asks for.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together; `h` has
            the rule's too.
    """

    name: str
    hypers: tuple[Hyper, ...]
    scalars: Callable[[Any, Any, Any], dict[str, Scalar]] = field(default=lambda h, t, m: {})
    flags: Callable[[Any], dict[str, bool]] = field(default=lambda h: {})
    gradient: Callable[..., Scalar] | None = None
    step: Callable[..., Scalar] | None = None
    decay: Callable[..., Scalar] | None = None
    weights: Callable[..., tuple[Scalar, dict[str, Scalar]]] | None = None
    slots: tuple[Slot, ...] = ()
    counters: tuple[Counter, ...] = ()
    advance: Callable[[Any, Any], None] = field(default=lambda h, t: None)
    measures: tuple[Measure, ...] = ()
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
