"""A recipe: a rule with weight decay and the additions that a group asks for. It is what steps are made by.

A step of an element goes, whatever the rule:

1. additions to the gradient, in their order;
2. L2 decay: `weight_decay * p` is added to it, and additions to the direction follow;
3. the rule proposes a step, and has its new slots;
4. additions to the step;
5. decoupled decay shrinks the parameter, and additions to the decay have their say; the step is subtracted;
6. additions to the weights, which see what they were and what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

from thalweg.rule.addition import Addition
from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar, times, two_parts
from thalweg.rule.measure import STAGES, Measure
from thalweg.rule.rule import Counter, Rule, Slot

_NO_SUM = "its steps without gradients cannot be summed up"


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that a group's steps are made by. `Recipe.of` returns the same object for the same arguments.

    Args:
        rule: the update rule.
        additions: those that are on, in their order.
    """

    rule: Rule
    additions: tuple[Addition, ...] = ()

    @staticmethod
    @cache
    def of(rule: Rule, additions: tuple[Addition, ...] = ()) -> Recipe:
        """Return the recipe of a rule and additions."""
        return Recipe(rule, additions)

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    @property
    def eager(self) -> bool:
        """Whether state exists from construction on."""
        return self.rule.eager

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The state: the rule's slots, and then the additions'."""
        return (*self.rule.slots, *(slot for addition in self.additions for slot in addition.slots))

    @cached_property
    def counters(self) -> tuple[Counter, ...]:
        """The counters, likewise."""
        more = (counter for addition in self.additions for counter in addition.counters)
        return (*self.rule.counters, *more)

    @cached_property
    def hypers(self) -> tuple[Hyper, ...]:
        """The hyperparameters, likewise."""
        return (*self.rule.hypers, *(hyper for addition in self.additions for hyper in addition.hypers))

    @cached_property
    def measures(self) -> tuple[Measure, ...]:
        """The sums that have to be known before a step, stage by stage."""
        asked = [*self.rule.measures, *(one for addition in self.additions for one in addition.measures)]
        return tuple(sorted(asked, key=lambda measure: STAGES.index(measure.at)))

    def place_of(self, measure: str) -> int:
        """Return which of the measures has a name."""
        return [one.name for one in self.measures].index(measure)

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """When they are taken, in order."""
        return tuple(stage for stage in STAGES if any(measure.at == stage for measure in self.measures))

    @cached_property
    def skips(self) -> tuple[str, ...]:
        """The measures that forbid the step where they are not zero."""
        return tuple(addition.skips for addition in self.additions if addition.skips)

    @cached_property
    def shares_rows(self) -> bool:
        """Whether tensors of one group whose counters agree have the same scalars."""
        return all(measure.over == "all" for measure in self.measures)

    @cached_property
    def extras(self) -> dict[str, Any]:
        """The hyperparameters that torch's optimizer of this name lacks, with their defaults."""
        return {hyper.name: hyper.default for hyper in self.hypers if hyper.extra}

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that the hyperparameters are."""
        return tuple(name for hyper in self.hypers for name in hyper.columns)

    @cached_property
    def _decays(self) -> bool:
        return any(hyper.name == "weight_decay" for hyper in self.rule.hypers)

    def check(self, group: Mapping[str, Any], as_set: bool = False) -> None:
        """Raise on the first hyperparameter of `group` that is not allowed.

        Args:
            group: the hyperparameters.
            as_set: whether to allow of torch's hyperparameters what a step takes, such as a learning rate
                that a schedule has left below zero.
        """
        for hyper in self.hypers:
            if as_set and not hyper.extra:
                hyper.of(group)
            elif not hyper.extra or hyper.name in group:
                hyper.check(group[hyper.name])
        h = self.numbers(group)
        h.is_decoupled = self._is_decoupled(h)
        conflicts = (self.rule.conflict, *(addition.conflict for addition in self.additions), self.unrest)
        conflict = next((said for said in (ask(h) for ask in conflicts) if said), None) or self._clash()
        if conflict:
            raise ValueError(conflict)

    @cached_property
    def catches_up(self) -> bool:
        """Whether rows that a sparse gradient has not named make up for it when one does."""
        return any(addition.catches_up for addition in self.additions)

    def unrest(self, h: Any) -> str | None:
        """Say what hinders rows to catch up, if they are to.

        Args:
            h: the hyperparameters.
        """
        if not self.catches_up:
            return None
        restless = next((addition for addition in self.additions if not addition.rests), None)
        if restless is not None:
            name = restless.hypers[0].name
            return f"sparse must be 'lazy', not 'exact', with {name}={getattr(h, name)!r}: {_NO_SUM}"
        if self.rule.rest is None:
            return f"sparse must be 'lazy', not 'exact', with {self.name}: {_NO_SUM}"
        if getattr(h, "differentiable", False) or getattr(h, "capturable", False):
            name = "differentiable" if getattr(h, "differentiable", False) else "capturable"
            return f"sparse='exact' needs {name}=False: which rows have rested is known on the host"
        return self.rule.rest.conflict(SimpleNamespace(**{**vars(h), "is_decoupled": self._is_decoupled(h)}))

    def _clash(self) -> str | None:
        """Say which name an addition uses that the rule has given to something of its own."""
        own = _names(self.rule)
        for addition in self.additions:
            taken = own & _names(addition)
            if taken:
                return (
                    f"{addition.hypers[0].name} needs the name {min(taken)!r}, which {self.name} uses itself"
                )
        return None

    def numbers(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` by name, as `Hyper.read` returns them."""
        return SimpleNamespace(**{hyper.name: hyper.of(group) for hyper in self.hypers})

    def tensors(self, group: Mapping[str, Any]) -> SimpleNamespace:
        """Return the hyperparameters of `group` as `numbers` does, but tensors as they are, 0-dim."""
        return SimpleNamespace(**{hyper.name: hyper.of(group, keep=True) for hyper in self.hypers})

    def choices(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters of `group` that are flags or words, by name."""
        return {hyper.name: hyper.of(group) for hyper in self.hypers if hyper.flag or hyper.words}

    def row(self, h: Any) -> list[Any]:
        """Return the hyperparameters `h` that are numbers, in the order of `columns`."""
        found: list[Any] = []
        for hyper in self.hypers:
            if hyper.columns:
                found += getattr(h, hyper.name) if hyper.pair else [getattr(h, hyper.name)]
        return found

    def flags(self, h: Any) -> dict[str, bool]:
        """Return the static choices by name: the rule's, how weights decay, and the additions'."""
        decays, decoupled = self._decays and bool(h.weight_decay != 0), self._is_decoupled(h)
        found = {**self.rule.flags(h), "l2": decays and not decoupled, "decoupled": decays and decoupled}
        for addition in self.additions:
            found |= addition.flags(h)
        return found

    def _is_decoupled(self, h: Any) -> bool:
        return self.rule.decoupled or bool(getattr(h, "decoupled_weight_decay", False))

    def advance(self, h: Any, t: Any, m: Any = None) -> None:
        """Advance the counters, which are attributes of `t`, at the start of a step; `m` has the measures."""
        if self.rule.counters:
            self.rule.advance(h, t, *([m] if self.rule.measures else []))
        for addition in self.additions:
            addition.advance(h, t, m)

    def scalars(self, h: Any, t: Any, m: Any = None) -> dict[str, Scalar]:
        """Return the values of a step by name.

        Args:
            h: the hyperparameters.
            t: the counters, after they were advanced.
            m: the measures.
        """
        found = self.rule.scalars(h, t)
        if self._decays:
            shrink = two_parts("shrink", 1 - h.lr * h.weight_decay)
            found = {"weight_decay": h.weight_decay, **shrink, **found}
        for addition in self.additions:
            found |= addition.scalars(h, t, m)
        return found

    def slots_on(self, on: Mapping[str, bool]) -> tuple[Slot, ...]:
        """Return the slots that exist under the flags `on`."""
        return tuple(slot for slot in self.slots if slot.when is None or on[slot.when])

    def apply(self, p: Scalar, g: Scalar, slots: Mapping[str, Scalar], s: Any, on: Any) -> Any:
        """Take a step, from the gradient as it came and slots by name.

        Returns:
            The new `p` and the new slots by name.
        """
        x = SimpleNamespace(p=p, g=g, slots=SimpleNamespace(**slots), s=s, on=on)
        self._clip(x)
        new = {**slots, **self._propose(x)}
        self._take(x)
        for weights in self._hooks("weights"):
            x.after, more = weights(x)
            new |= more
        return x.after, new

    def measure(
        self, stage: str, p: Scalar, g: Scalar, slots: Mapping[str, Scalar], s: Any, on: Any
    ) -> dict[str, Scalar]:
        """Return the summands of the measures of a stage by name."""
        x = SimpleNamespace(p=p, g=g, slots=SimpleNamespace(**slots), s=s, on=on)
        if stage in ("clipped", "step"):
            self._clip(x)
        if stage == "step":
            self._propose(x)
        if stage == "weights":
            x.after, _ = self.apply(p, g, slots, s, on)
        return {one.name: one.value(x) for one in self.measures if one.at == stage}

    def _hooks(self, name: str) -> list[Callable[[Any], Any]]:
        """Return what the additions do at a place, in their order."""
        found = (getattr(addition, name) for addition in self.additions)
        return [hook for hook in found if hook is not None]

    def _clip(self, x: Any) -> None:
        for gradient in self._hooks("gradient"):
            x.g = gradient(x)

    def _propose(self, x: Any) -> dict[str, Scalar]:
        """Have the rule propose `x.step`; return its new slots by name."""
        clipped, slots = x.g, vars(x.slots)
        if x.on.l2:
            x.g = x.g + x.s.weight_decay * x.p
        for direction in self._hooks("direction"):
            x.g = direction(x)
        own = (slots.get(slot.name) for slot in self.rule.slots)
        x.step, *values = self.rule.update(x.g, *own, x.s, x.on)
        x.g = clipped
        pairs = zip(self.rule.slots, values, strict=True)
        return {slot.name: value for slot, value in pairs if slot.name in slots}

    def _take(self, x: Any) -> None:
        """Shape the step, let the weight decay, and take the step."""
        for step in self._hooks("step"):
            x.step = step(x)
        x.kept = times(x.p, x.s.shrink, x.s.shrink_rest) if x.on.decoupled else x.p
        for decay in self._hooks("decay"):
            x.kept = decay(x)
        x.after = x.kept - x.step


def _names(one: Rule | Addition) -> set[str]:
    kinds: tuple[tuple[Any, ...], ...] = (one.slots, one.counters, one.hypers)
    return {each.name for kind in kinds for each in kind}
