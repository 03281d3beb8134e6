"""The recipe of catching up: many steps with zero gradients in one, for rows that no gradient has named."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

from thalweg.rule.hyper import Hyper
from thalweg.rule.maths import Scalar, sqrt
from thalweg.rule.recipe import Recipe
from thalweg.rule.rest import Rest
from thalweg.rule.rule import Rule

HOPS = 2
"""Into how many stretches the steps are divided, one after the other."""


class Resting(Recipe):
    """What catches up rests of `base`. Its scalars come from the host, for all that rested equally long.

    Attributes:
        base: the recipe whose rests are caught up.
        on: its flags.
        degree: of the polynomial, where the rule has a series; else 0.
    """

    base: Recipe
    on: Mapping[str, bool]
    degree: int

    @staticmethod
    def of_flags(base: Recipe, on: Mapping[str, bool], degree: int) -> Resting:
        """Return the recipe; the same object for the same arguments."""
        return _resting(base, tuple(on.items()), degree)

    @cached_property
    def rest(self) -> Rest:
        """What the rule says of rests."""
        assert self.base.rule.rest is not None, "`Recipe.check` has asked"
        return self.base.rule.rest

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """The weight, and the slots that change, under the flags."""
        present = {"p", *(slot.name for slot in self.base.slots_on(self.on))}
        return tuple(name for name in self.rest.needs if name in present)

    @cached_property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What changes with what it needs."""
        needs = self.rest.needs
        return tuple((a, b) for a in self.variables for b in needs[a] if b in self.variables)

    @cached_property
    def amounts(self) -> tuple[str, ...]:
        """The names of the scalars of one hop. Of the weight in itself it is what is added to 1."""
        series = () if self.rest.series is None else ("half", *(f"c{i}" for i in range(self.degree + 1)))
        return (*(f"{a}_by_{b}" for a, b in self.pairs), *series)

    def apply(self, p: Scalar, g: Scalar, slots: Mapping[str, Scalar], s: Any, on: Any) -> Any:
        """Take the rests of an element, hop by hop; `g` is not looked at."""
        values = {"p": p, **slots}
        for hop in range(HOPS):
            own = {name: getattr(s, f"{name}_{hop}") for name in self.amounts}
            values |= self._hop(values, SimpleNamespace(**own))
        return values.pop("p"), values

    def _hop(self, values: Mapping[str, Scalar], s: Any) -> dict[str, Scalar]:
        new: dict[str, Scalar] = {"p": values["p"]}
        for out, needed in self.pairs:
            part = getattr(s, f"{out}_by_{needed}") * values[needed]
            new[out] = new[out] + part if out in new else part
        series = self.rest.series
        if series is not None:
            # As long as the root is finite; a weight over what is not does not move.
            inverse = 1.0 / (sqrt(values[series.over(self.on)]) + s.half)
            z = 1.0 - (s.half + s.half) * inverse
            new["p"] = new["p"] + values[series.drives] * inverse * self._polynomial(s, z)
        return new

    def _polynomial(self, s: Any, z: Scalar) -> Scalar:
        """Return the Chebyshev series at `z`, by Clenshaw's recurrence."""
        one, two = 0.0 * z, 0.0 * z
        for i in range(self.degree, 0, -1):
            one, two = getattr(s, f"c{i}") + (z + z) * one - two, one
        return s.c0 + z * one - two


@cache
def _resting(base: Recipe, on: tuple[tuple[str, bool], ...], degree: int) -> Resting:
    one = Resting(base.rule)
    vars(one).update(base=base, on=dict(on), degree=degree)
    names = [f"{name}_{hop}" for hop in range(HOPS) for name in one.amounts]
    rule = Rule(
        name=f"{base.name}_at_rest",
        update=lambda *values: values,
        scalars=lambda h, t: {name: getattr(h, name) for name in names},
        slots=base.slots,
        hypers=tuple(Hyper(name) for name in names),
        counters=(),
    )
    vars(one)["rule"] = rule
    return one
