"""An update rule as data: `Rule`, and the `Slot` and `Counter` that its state is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar
from thalweg.rule.measure import Measure
from thalweg.rule.rest import Rest


@dataclass(frozen=True)
class Slot:
    """One tensor of optimizer state, shaped like its parameter.

    Args:
        name: the key in `optimizer.state[p]`; torch's name where torch has the slot.
        signed: whether values may be negative. A second moment is not, which storage can use.
        when: the flag under which the slot exists; always, if None.
        initial: the group's key that holds the initial value; 0, if None.
        stored_by: the group's key that says how it is stored.
        begins: whether a step is the first of a parameter's state if the slot is new.
        copies: whether it begins as the parameter.
        squares: whether it is made of `square(g, s)` alone, and linear in it, so that one number may be kept
            for many elements: the mean of what theirs would be.
        maximum_of: the slot of squares whose maximum it is, and which it is kept as.
        whole_with: the group's flag under which it cannot be kept as means.
        over: the slot of squares over whose root a step takes it, and in whose units it may be stored.
        by_row: the group's flag under which it is kept by row, whatever is said of how it is stored: one
            number for each index of the parameter's first dimension.
    """

    name: str
    signed: bool = True
    when: str | None = None
    initial: str | None = None
    stored_by: str = "state"
    begins: bool = True
    copies: bool = False
    squares: bool = False
    maximum_of: str | None = None
    whole_with: str | None = None
    by_row: str | None = None
    over: str | None = None


@dataclass(frozen=True)
class Counter:
    """A 0-dim tensor of state that depends on the step and not on the gradient.

    Args:
        name: the key in `optimizer.state[p]`.
        initial: the value before the first step.
    """

    name: str
    initial: float = 0.0


STEP = (Counter("step"),)


def count(h: Any, t: SimpleNamespace) -> None:
    """Advance the counters of a rule that counts steps and nothing else."""
    t.step = t.step + 1


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule, as it is written: the maths, and what it is worked out from.

    What all rules have in common, weight decay above all, is not part of it: `Recipe` adds that.

    Args:
        name: shown in errors and in the kernel's name.
        update: the maths for one element, `update(g, *slots, s, on)`, which returns the step, by which the
            parameter is reduced, and the new slots. `s` holds the scalars, `on` the flags. A slot that the
            flags leave out is None, and what is returned for it is ignored.
        scalars: `scalars(h, t)`, the loop-invariant values of a step by name, from the
            hyperparameters `h` and the counters `t` (after they were advanced). Evaluated in
            float64 on the host, once for each distinct (group, counters).
        slots: the state, in the order in which `update` takes it.
        hypers: the hyperparameters and what they may be.
        flags: `flags(h)`, the static choices by name. They prune branches and choose slots.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together.
        counters: per-parameter counters. A rule without any still sees `t.first`.
        advance: `advance(h, t)`, changes the counters in place at the start of a step, if there are any; with
            measures it is `advance(h, t, m)`.
        eager: whether state exists from construction on, and not from the first gradient.
        measures: the sums that the counters need, of a step's gradients and weights.
        decoupled: whether `weight_decay` shrinks the parameter beside the gradient's way. Where it is an
            option, it is the hyperparameter `decoupled_weight_decay`.
        rest: what steps with zero gradients do; None, if that cannot be said at once.
    """

    name: str
    update: Callable[..., tuple[Scalar, ...]]
    scalars: Callable[[Any, Any], dict[str, Scalar]]
    slots: tuple[Slot, ...]
    hypers: tuple[Hyper, ...]
    flags: Callable[[Any], dict[str, bool]] = field(default=lambda h: {})
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
    counters: tuple[Counter, ...] = STEP
    advance: Callable[..., None] = field(default=count)
    measures: tuple[Measure, ...] = ()
    eager: bool = False
    decoupled: bool = False
    rest: Rest | None = None
