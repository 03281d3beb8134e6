"""An optimizer as data: `Rule`, and the `Slot` and `Counter` that its state is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar


@dataclass(frozen=True)
class Slot:
    """One tensor of optimizer state, shaped like its parameter.

    Args:
        name: the key in `optimizer.state[p]`; torch's name where torch has the slot.
        signed: whether values may be negative. A second moment is not, which storage can use.
        when: the flag under which the slot exists; always, if None.
        initial: the group's key that holds the initial value; 0, if None.
    """

    name: str
    signed: bool = True
    when: str | None = None
    initial: str | None = None


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
    """An optimizer, as data: the maths and everything that is derived from it.

    Args:
        name: shown in errors and in the kernel's name.
        update: the maths for one element, `update(p, g, *slots, s, on)`, which returns the new `p`
            and the new slots. `s` holds the scalars, `on` the flags. A slot that the flags leave
            out is None, and what is returned for it is ignored.
        scalars: `scalars(h, t)`, the loop-invariant values of a step by name, from the
            hyperparameters `h` and the counters `t` (after they were advanced). Evaluated in
            float64 on the host, once for each distinct (group, counters).
        flags: `flags(h)`, the static choices by name. They prune branches and choose slots.
        slots: the state, in the order in which `update` takes it.
        hypers: the hyperparameters and what they may be.
        conflict: `conflict(h)` says what is wrong with hyperparameters that do not go together.
        counters: per-parameter counters. A rule without any still sees `t.first`.
        advance: `advance(h, t)`, changes the counters in place at the start of a step, if there are any.
        eager: whether state exists from construction on, and not from the first gradient.
    """

    name: str
    update: Callable[..., tuple[Scalar, ...]]
    scalars: Callable[[Any, Any], dict[str, Scalar]]
    flags: Callable[[Any], dict[str, bool]]
    slots: tuple[Slot, ...]
    hypers: tuple[Hyper, ...]
    conflict: Callable[[Any], str | None] = field(default=lambda h: None)
    counters: tuple[Counter, ...] = STEP
    advance: Callable[[Any, Any], None] = field(default=count)
    eager: bool = False

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise on the first hyperparameter of `group` that is not allowed."""
        for hyper in self.hypers:
            if not hyper.extra or hyper.name in group:
                hyper.check(group[hyper.name])
        conflict = self.conflict(self.numbers(group))
        if conflict:
            raise ValueError(conflict)

    def numbers(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` by name, as `Hyper.read` returns them."""
        return SimpleNamespace(**{hyper.name: hyper.of(group) for hyper in self.hypers})

    def tensors(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` as `numbers` does, but tensors as they are, 0-dim."""
        return SimpleNamespace(**{hyper.name: hyper.of(group, keep=True) for hyper in self.hypers})

    def choices(self, group: Mapping[str, Any]) -> dict[str, bool]:
        """Return the hyperparameters of `group` that are flags, by name."""
        return {hyper.name: hyper.of(group) for hyper in self.hypers if hyper.flag}

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The names of the hyperparameters that torch's optimizer of this name lacks."""
        return tuple(hyper.name for hyper in self.hypers if hyper.extra)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that the hyperparameters are."""
        return tuple(name for hyper in self.hypers for name in hyper.columns)

    def row(self, h: Any) -> list[Any]:
        """Return the hyperparameters `h` that are numbers, in the order of `columns`."""
        found: list[Any] = []
        for hyper in self.hypers:
            if not hyper.flag:
                found += getattr(h, hyper.name) if hyper.pair else [getattr(h, hyper.name)]
        return found

    def slots_on(self, on: Mapping[str, bool]) -> tuple[Slot, ...]:
        """Return the slots that exist under the flags `on`."""
        return tuple(slot for slot in self.slots if slot.when is None or on[slot.when])

    def apply(self, p: Scalar, g: Scalar, slots: Mapping[str, Scalar], s: Any, on: Any) -> Any:
        """Run `update` with slots by name; return the new `p` and the new slots by name."""
        p, *new = self.update(p, g, *(slots.get(slot.name) for slot in self.slots), s, on)
        return p, {
            slot.name: value for slot, value in zip(self.slots, new, strict=True) if slot.name in slots
        }
