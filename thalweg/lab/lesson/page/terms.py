"""An update rule run on symbols, so that its formula is what the code computes.

A term is built by the rule's own arithmetic. What is merely a detail of rounding is undone as it appears:
a factor in two parts, and an average written so that it is exact at its ends. Each such step is an identity
of real numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from thalweg.rule import Rule


@dataclass(frozen=True, eq=False)
class Term:
    """A formula: an operation on other formulas, a name or a number.

    Attributes:
        kind: ``name``, ``number``, ``add``, ``sub``, ``mul``, ``div``, ``pow``, ``neg``, ``sqrt``, ``max``,
            and, of a factor in two parts, ``main`` and ``rest``.
        of: what it is applied to; of a name its text, of a number its value.
    """

    kind: str
    of: tuple[Any, ...]

    def __add__(self, other: Any) -> Term:
        other = term(other)
        if self.kind == "rest" and other.kind == "number":
            return self
        whole = _joined(self, other)
        return Term("add", (self, other)) if whole is None else whole

    def __radd__(self, other: Any) -> Term:
        return term(other) + self

    def __sub__(self, other: Any) -> Term:
        other = term(other)
        if other.kind == "rest" and other.of[0] is self:
            return Term("main", (self,))
        # x - (1 - b) x is b x.
        if other.kind == "mul" and other.of[1] is self and _is_complement(other.of[0]):
            return other.of[0].of[1] * self
        if other.kind == "number" and other.of[0] == 0:
            return self
        return Term("sub", (self, other))

    def __rsub__(self, other: Any) -> Term:
        return term(other) - self

    def __mul__(self, other: Any) -> Term:
        other = term(other)
        if self.kind == "number" and self.of[0] == 1:
            return other
        if self.kind == "mul" and self.of[1] is other:
            return self.of[0] * other**2
        if self.kind == "sqrt" and other.kind == "pow" and _is_number(other.of[1], -0.5):
            return (self.of[0] / other.of[0]).sqrt()
        return Term("mul", (self, other))

    def __rmul__(self, other: Any) -> Term:
        return term(other) * self

    def __truediv__(self, other: Any) -> Term:
        # (a / b) c / d is a (c / b) / d, in which b belongs to what it corrects.
        if self.kind == "mul" and self.of[0].kind == "div":
            (above, below), scaled = self.of[0].of, self.of[1]
            return above * ((scaled / below) / other)
        return Term("div", (self, term(other)))

    def __rtruediv__(self, other: Any) -> Term:
        return term(other) / self

    def __pow__(self, other: Any) -> Term:
        return Term("pow", (self, term(other)))

    def __neg__(self) -> Term:
        return Term("neg", (self,))

    def __mod__(self, other: Any) -> Term:
        return Term("rest", (self,))

    def sqrt(self) -> Term:
        """The square root."""
        return Term("sqrt", (self,))

    def maximum(self, other: Any) -> Term:
        """The larger of two."""
        return Term("max", (self, term(other)))

    def value(self, values: Mapping[str, float]) -> float:
        """The number that it is where names have these values."""
        if self.kind == "name":
            return values[self.of[0]]
        if self.kind == "number":
            return float(self.of[0])
        found = [one.value(values) for one in self.of]
        return float(_OPERATIONS[self.kind](*found))


_OPERATIONS: Mapping[str, Any] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "neg": lambda x: -x,
    "sqrt": math.sqrt,
    "max": max,
}


def term(value: Any) -> Term:
    """A term as it is, and a number as one."""
    return value if isinstance(value, Term) else Term("number", (value,))


def named(name: str) -> Term:
    """A symbol."""
    return Term("name", (name,))


def _is_number(one: Term, value: float) -> bool:
    return one.kind == "number" and one.of[0] == value


def _is_complement(one: Term) -> bool:
    return one.kind == "sub" and _is_number(one.of[0], 1)


def _joined(first: Term, second: Term) -> Term | None:
    """The product with a factor of which these are the products with its two parts."""
    if first.kind != "mul" or second.kind != "mul" or first.of[1] is not second.of[1]:
        return None
    main, rest = first.of[0], second.of[0]
    if main.kind == "main" and rest.kind == "rest" and main.of[0] is rest.of[0]:
        return main.of[0] * first.of[1]
    return None


@dataclass(frozen=True)
class Formula:
    """One step of a rule.

    Attributes:
        slots: what each slot becomes, by name, in the order in which they are worked out.
        step: by which the parameter is reduced; slots that appear in it or in one another are these terms.
    """

    slots: Mapping[str, Term]
    step: Term


GRADIENT, STEP = "g", "t"
"""The names of the gradient and of the number of the step."""


def formula(rule: Rule, **options: Any) -> Formula:
    """A rule as it steps from the second step on.

    Its hyperparameters are symbols of their names, a pair's with `.0` and `.1`, its slots of theirs.

    Args:
        rule: which.
        options: values in place of symbols; a flag that is not named is off, and a number that is named 0
            switches off what it belongs to.
    """
    hypers = {hyper.name: _hyper(hyper) for hyper in rule.hypers} | options
    chosen = SimpleNamespace(**{**hypers, **{hyper.name: False for hyper in rule.hypers if hyper.flag}})
    chosen.__dict__.update(options)
    counters = SimpleNamespace(first=False, step=named(STEP))
    # Flags ask whether numbers are zero: a symbol stands for one that is not.
    numbers = {name: 0.5 if isinstance(v, Term) else v for name, v in chosen.__dict__.items()}
    on = rule.flags(SimpleNamespace(**numbers))
    slots = [slot for slot in rule.slots if slot.when is None or on[slot.when]]
    given = {slot.name: named(slot.name) for slot in slots}
    step, *made = rule.update(
        named(GRADIENT),
        *(given.get(slot.name) for slot in rule.slots),
        SimpleNamespace(**rule.scalars(chosen, counters)),
        SimpleNamespace(**on),
    )
    new = {slot.name: one for slot, one in zip(rule.slots, made, strict=True) if slot.name in given}
    return Formula(new, step)


def _hyper(hyper: Any) -> Any:
    if hyper.pair:
        return named(f"{hyper.name}.0"), named(f"{hyper.name}.1")
    return named(hyper.name)
