"""A parameter that is stepped, with all that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thalweg.codecs import Codec
from thalweg.lowering.cuda import Shared
from thalweg.rule import Rule
from thalweg.storage import CORRECTION, key_of, scale_of


@dataclass(eq=False, frozen=True)
class Member:
    """A parameter that is stepped.

    Args:
        position: its index among all parameters of the optimizer, group after group.
        param: the parameter.
        group: the index of its group.
        on: the group's flags.
        options: the group, for what is not a matter of the rule (`maximize`, `differentiable` ...).
        state: its state, complete.
        first: whether a slot of its state is new.
        codecs: how `p` and each slot are stored, by name, in the rule's order.
        shared: what all parameters of the optimizer share on devices.
    """

    position: int
    param: Tensor
    group: int
    on: Mapping[str, bool]
    options: Mapping[str, Any]
    state: dict[str, Any]
    first: bool
    codecs: Mapping[str, Codec]
    shared: Shared

    @property
    def grad(self) -> Tensor:
        """The gradient, as it is now."""
        grad = self.param.grad
        assert grad is not None, "a plan is made for parameters that have one"
        return grad

    def slots(self, rule: Rule) -> dict[str, Tensor]:
        """Return the state's slots by name, in the rule's order."""
        names = [slot.name for slot in rule.slots_on(self.on)]
        return {name: self.state[key_of(name, self.codecs[name])] for name in names}

    def sides(self) -> dict[str, Tensor]:
        """Return the second tensors of what has one: scales and corrections, by the name of the first."""
        return {
            name: self.state[CORRECTION if name == "p" else scale_of(name)]
            for name, codec in self.codecs.items()
            if codec.side is not None
        }

    def stored(self, rule: Rule) -> list[Tensor]:
        """Return the tensors of state that a kernel reads and writes, slots and then sides."""
        return [*self.slots(rule).values(), *self.sides().values()]

    def tensors(self, rule: Rule) -> list[Tensor]:
        """Return all tensors of state."""
        return [*self.stored(rule), *(self.state[counter.name] for counter in rule.counters)]

    @property
    def draws(self) -> bool:
        """Whether anything of it is rounded by random words."""
        return any(codec.drawn for codec in self.codecs.values())
